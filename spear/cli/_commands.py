"""All commands: their names and purposes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
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
