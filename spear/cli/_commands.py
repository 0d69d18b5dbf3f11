"""All commands: their names and purposes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

COMMANDS: Final[dict[str, str]] = {
    "call": "start a function in a separate process, call it, and print the result",
    "map": "call a function for many items, in several processes, and write their results",
    "serve": "host functions until a signal or an operator stops the host",
    "dev": "serve functions while they are being written: reload on save, and debug them",
    "invoke": "call a function of a running host",
    "result": "show the result or the status of a submitted call, or cancel it",
    "ps": "show the deployments, functions and instances of a host",
    "top": "show live statistics of a host",
    "logs": "show the output of instances",
    "attach": "debug an instance of spear dev on this terminal",
    "scale": "change the number of instances of a deployment",
    "restart": "replace the instances of deployments, one after the other",
    "stop": "stop deployments",
    "start": "start deployments that were stopped",
    "drain": "finish the running calls, then stop a host",
    "stubs": "write the types of a program's functions for mypy and pyright",
    "doctor": "check this machine, this installation, and programs",
    "completion": "print a script that makes a shell complete these commands",
}
