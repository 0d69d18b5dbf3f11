"""``spear scale``, ``restart``, ``stop``, ``start``, ``drain``: an operator's changes to a host."""

from __future__ import annotations

import json
import re
import time

from spear._errors import ConfigurationError, NoHost

from ._documents import inner, number, text, total
from ._remote import MAX_SECONDS, Remote, define_host, part_of_path
from ._say import say
from ._text import printable
from ._values import parse_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Final

    from ._parser import CommandParser

ROLLING_SECONDS: Final = 3600.0
"""Seconds that a host has to replace all instances of a deployment, one after the other."""

LOOK_SECONDS: Final = 0.1
"""Seconds between checks whether a host has ended."""

_SCALE: Final = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


def define_scale(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    define_host(parser)
    parser.add("name", metavar="NAME", help="name of the deployment")
    parser.add("replicas", metavar="N|MIN-MAX", help="number of instances, or a range such as 1-8")
    _define_json(parser, "print the deployment as JSON")
    parser.set_run(run_scale)


def run_scale(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    found = _SCALE.fullmatch(options.replicas)
    if not found:
        raise ConfigurationError(
            f"the number of instances must be N or MIN-MAX, as in 4 or 1-8, not {options.replicas!r}"
        )
    body: dict[str, int] = {"replicas": int(found[1])}
    if found[2] is not None:
        body = {"min": int(found[1]), "max": int(found[2])}
    deployment = _operate(Remote(options), options.name, "scale", body)
    say(json.dumps(deployment, indent=2) if options.json else _state(options.name, deployment))
    return 0


def define_restart(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    define_host(parser)
    parser.add("names", nargs="+", metavar="NAME", help="names of deployments")
    _define_json(parser, "print the deployments as JSON")
    parser.set_run(run_restart)


def run_restart(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    _operate_all(options, "restart", _state)
    return 0


def define_stop(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    define_host(parser)
    parser.add("names", nargs="+", metavar="NAME", help="names of deployments")
    _define_json(parser, "print the last states of the deployments as JSON")
    parser.set_run(run_stop)


def run_stop(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    _operate_all(options, "stop", lambda name, _: f"{printable(name)} is stopped")
    return 0


def define_start(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    define_host(parser)
    parser.add("names", nargs="+", metavar="NAME", help="names of deployments that were stopped")
    _define_json(parser, "print the deployments as JSON")
    parser.set_run(run_start)


def run_start(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    _operate_all(options, "start", _state)
    return 0


def define_drain(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    define_host(parser)
    parser.add(
        "--seconds", type=parse_number, metavar="SECONDS",
        help="time for running calls (default: the host's shutdown_seconds)",
    )  # fmt: skip
    parser.add("--no-wait", action="store_true", help="do not wait until the host has stopped")
    _define_json(parser, "print the host's state as JSON")
    parser.set_run(run_drain)


def run_drain(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    seconds = options.seconds
    if seconds is not None and not 0 <= seconds < MAX_SECONDS:
        raise ConfigurationError(
            f"--seconds must be at least 0 and less than {MAX_SECONDS:g}, not {seconds:g}"
        )
    remote = Remote(options)
    pid = _pid(remote)
    answer = remote.post("/v1/drain", {} if seconds is None else {"seconds": seconds})
    if options.no_wait:
        say(json.dumps(answer, indent=2) if options.json else f"{remote.where} is draining")
        return 0
    while pid is not None and _pid(remote) == pid:  # another host may have started meanwhile
        time.sleep(LOOK_SECONDS)
    gone = f"{remote.where} has drained and stopped"
    say(json.dumps({"state": "gone"}, indent=2) if options.json else gone)
    return 0


def _pid(remote: Remote) -> float | None:
    """Return the host's process id; None if there is no host."""
    try:
        return number(remote.get("/v1/statistics"), "pid")
    except NoHost:
        return None


def _define_json(parser: CommandParser, says: str) -> None:
    parser.add("--json", action="store_true", help=says)


def _operate(remote: Remote, name: str, what: str, body: dict[str, int] | None = None) -> object:
    path = f"/v1/deployments/{part_of_path(name, 'a deployment')}/{what}"
    return remote.post(path, body or {}, seconds=ROLLING_SECONDS)


def _operate_all(
    options: argparse.Namespace, what: str, show: Callable[[str, object], str]
) -> None:
    """Operate on one deployment after the other, and print each one's state; JSON in one document.

    If one fails, the states of the earlier ones are printed nevertheless.
    """
    remote = Remote(options)
    done: list[object] = []
    try:
        for name in options.names:
            done.append(_operate(remote, name, what))
            if not options.json:
                say(show(name, done[-1]))
    finally:
        if options.json and done:
            say(json.dumps({"deployments": done}, indent=2))


def _state(name: str, deployment: object) -> str:
    statistics = inner(deployment, "statistics")
    ready, wanted = total(statistics, "ready"), total(statistics, "wanted")
    leaving = f", {ready - wanted:.0f} more draining" if ready > wanted else ""
    state = printable(text(deployment, "state"))
    return f"{printable(name)} is {state}: {min(ready, wanted):.0f}/{wanted:.0f} ready{leaving}"
