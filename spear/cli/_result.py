"""``spear result ID``: the result or state of a call submitted with ``spear invoke --async``."""

from __future__ import annotations

import json
import math
import time

from spear._errors import ConfigurationError, DeadlineExceeded

from ._documents import inner, number, text
from ._invoke import read_result
from ._remote import Remote, define_host, part_of_path
from ._say import say, write
from ._text import printable, seconds
from ._values import long_integers, parse_number, show_json, show_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Final

    from ._parser import CommandParser

WAIT_SECONDS: Final = 30.0
"""Maximum wait of one request, less than the timeout for responses. Then another request follows."""

ACCEPTED: Final = 202
"""The HTTP status of a response about a call that has not ended."""


def define_result(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    parser.parser.description = (
        "Wait for the end of a call that `spear invoke --async` has submitted, and print the result as "
        "`spear invoke` does."
    )
    define_host(parser)
    parser.add("id", metavar="ID", help="id of the call, as `spear invoke --async` printed it")
    instead = parser.alternatives()
    instead.add(
        "--status", action="store_true", help="print the status of the call, and do not wait"
    )
    instead.add("--cancel", action="store_true", help="cancel the call, and print its status")
    parser.add(
        "--timeout", type=parse_number, default=math.inf, metavar="SECONDS",
        help="time to wait for the result; the call continues after it (default: no limit)",
    )  # fmt: skip
    parser.add(
        "--json", action="store_true",
        help="print the result as JSON even if it is bytes; with --status or --cancel, the status",
    )  # fmt: skip
    parser.set_run(run_result)


def run_result(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    if not options.timeout >= 0:
        raise ConfigurationError(f"--timeout must be at least 0 seconds, not {options.timeout:g}")
    path = f"/v1/executions/{part_of_path(options.id, 'an execution')}"
    remote = Remote(options)
    if options.status or options.cancel:
        execution = remote.post(f"{path}/cancel", {}) if options.cancel else remote.get(path)
        say(json.dumps(execution, indent=2) if options.json else _state(execution))
        return 0
    with long_integers():
        result = _wait(remote, path, options.timeout)
        write(show_json(result) if options.json else show_value(result))
    return 0


def _wait(remote: Remote, path: str, most: float) -> object:
    """Wait for the result. Raises the error of the call, or DeadlineExceeded."""
    deadline = time.monotonic() + most
    while True:
        left = max(0.0, deadline - time.monotonic())
        asked = f"{path}/result?wait={min(left, WAIT_SECONDS):.3f}"
        with remote.request("GET", asked) as answer:
            if answer.status != ACCEPTED:
                return read_result(answer)
            execution = answer.json()
        if time.monotonic() >= deadline:
            raise DeadlineExceeded(
                f"{_state(execution)}; the call continues, and `spear result` can wait for it again",
                delivered="maybe",
            )


def _state(execution: object) -> str:
    """Return one line about the state of the call."""
    status, instance = text(execution, "status"), text(execution, "instance")
    passed = "for" if status in ("pending", "running") else "after"
    what = f"{text(execution, 'deployment')}.{text(execution, 'function')}: {status} {passed}"
    place = f" on {instance}" if instance else ""
    why = next(iter(text(inner(execution, "error"), "message").splitlines()), "")
    took = seconds(number(execution, "duration_seconds"))
    return printable(f"{what} {took}{place}{f': {why}' if why else ''}", keep="")
