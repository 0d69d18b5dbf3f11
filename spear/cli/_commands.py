"""Every command: its name, what it is for, and how to say what it understands.

A command's module is loaded when the command is used. Those that ask a running host must begin at once,
and the others load what runs functions.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Final

COMMANDS: Final[dict[str, str]] = {
    "call": "start a function in a process of its own, call it, print the result",
    "serve": "host functions until told to stop",
    "invoke": "call a function of a running host",
    "result": "what a call has returned that nobody waited for; its state, and its end",
    "ps": "what runs on a host",
    "top": "watch a host live",
    "logs": "what instances write",
    "scale": "change how many instances a deployment has",
    "restart": "replace the instances of deployments, without a gap",
    "stop": "stop deployments",
    "drain": "let what runs finish, then stop a host",
    "completion": "what makes a shell complete these commands",
}


def define(name: str, parser: argparse.ArgumentParser) -> None:
    """Say what a command understands."""
    match name:
        case "call":
            from ._call import define_call as define_it
        case "serve":
            from ._serve import define_serve as define_it
        case "invoke":
            from ._invoke import define_invoke as define_it
        case "result":
            from ._result import define_result as define_it
        case "ps":
            from ._ps import define_ps as define_it
        case "top":
            from ._top import define_top as define_it
        case "logs":
            from ._logs import define_logs as define_it
        case "scale":
            from ._operate import define_scale as define_it
        case "restart":
            from ._operate import define_restart as define_it
        case "stop":
            from ._operate import define_stop as define_it
        case "drain":
            from ._operate import define_drain as define_it
        case _:
            from ._completion import define_completion as define_it
    define_it(parser)
