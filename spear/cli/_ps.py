"""``spear ps``: the deployments, functions and instances of a host, as tables."""

from __future__ import annotations

import json

from ._documents import functions_of, inner, number, several, text, texts, total
from ._remote import Remote, define_host
from ._say import say
from ._text import age, amount, printable, seconds, size, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Final

    from ._documents import Document
    from ._parser import CommandParser

HEALTHY: Final = ("ready", "starting", "idle")
TAIL_LINES: Final = 12
"""Maximum number of lines shown of an unhealthy deployment's last output."""


def define_ps(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    define_host(parser)
    parser.add("-i", "--instances", action="store_true", help="show the instances, too")
    parser.add("--json", action="store_true", help="print all statistics as JSON")
    parser.set_run(run_ps)


def run_ps(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    snapshot = Remote(options).get("/v1/statistics")
    if options.json:
        say(json.dumps(_without_buckets(snapshot), indent=2))
    else:
        say("\n".join(show(snapshot, with_instances=options.instances)))
    return 0


def show(snapshot: object, *, with_instances: bool) -> Iterator[str]:
    """Yield the lines of the tables."""
    deployments = several(snapshot, "deployments")
    stopped = texts(snapshot, "stopped")
    yield headline(snapshot)
    yield ""
    if not deployments and not stopped:
        yield "no deployments"
        return
    yield from table(
        (
            "DEPLOYMENT",
            "STATE",
            "READY",
            "RUNNING",
            "WAITING",
            "CALLS",
            "FAILED",
            "RESTARTS",
            "REASON",
        ),
        [
            *(_deployment_row(each) for each in deployments),
            *((name, "stopped", *[None] * 7) for name in stopped),
        ],
        right=("READY", "RUNNING", "WAITING", "CALLS", "FAILED", "RESTARTS"),
    )
    if not deployments:
        return
    yield ""
    yield from table(
        ("FUNCTION", "CALLS", "FAILED", "MEAN", "P50", "P90", "P99"),
        [row for each in deployments for row in _function_rows(each)],
        right=("CALLS", "FAILED", "MEAN", "P50", "P90", "P99"),
    )
    if with_instances:
        yield ""
        yield from table(
            ("INSTANCE", "STATE", "PID", "AGE", "RUNNING", "CPU", "MEMORY", "REASON"),
            [_instance_row(one) for each in deployments for one in several(each, "instances")],
            right=("PID", "AGE", "RUNNING", "CPU", "MEMORY"),
        )
    for each in deployments:
        tail = text(each, "stderr_tail").rstrip()
        if tail and text(each, "state") not in HEALTHY:
            yield ""
            yield f"last output of {printable(text(each, 'name'))}:"
            for line in tail.splitlines()[-TAIL_LINES:]:
                yield f"  {printable(line)}"


def headline(snapshot: object) -> str:
    """Return one line about the host itself."""
    name, state = text(snapshot, "name"), text(snapshot, "state")
    pid = number(snapshot, "pid")
    process = "" if pid is None else f", pid {pid:.0f}"
    up = age(number(snapshot, "uptime_seconds"))
    return printable(f"spearlet {name}{process}, {state} for {up}", keep="")


def _without_buckets(told: object) -> object:
    """Return a host's statistics without latency histograms, a hundred counters for each function."""
    if isinstance(told, list):
        return [_without_buckets(each) for each in told]
    if not isinstance(told, dict):
        return told
    return {
        key: _without_buckets(value)
        for key, value in told.items()
        if key != "buckets" or not isinstance(value, list)  # a function may be named "buckets"
    }


def _deployment_row(each: Document) -> tuple[object, ...]:
    statistics = inner(each, "statistics")
    functions = [one for _, one in functions_of(each)]
    return (
        text(each, "name"),
        text(each, "state"),
        f"{total(statistics, 'ready'):.0f}/{total(statistics, 'wanted'):.0f}",
        amount(number(statistics, "calls_in_flight")),
        amount(number(statistics, "waiting")),
        amount(sum(total(one, "calls") for one in functions)),
        amount(sum(total(one, "failures") for one in functions)),
        amount(number(statistics, "restarts")),
        _first_line(text(each, "reason")),
    )


def _function_rows(deployment: Document) -> Iterator[tuple[object, ...]]:
    for name, statistics in functions_of(deployment):
        latency = inner(statistics, "latency")
        times = ("mean_seconds", "p50_seconds", "p90_seconds", "p99_seconds")
        was_called = number(latency, "count")
        yield (
            f"{text(deployment, 'name')}.{name}",
            amount(total(statistics, "calls")),
            amount(total(statistics, "failures")),
            *(seconds(number(latency, each) if was_called else None) for each in times),
        )


def _instance_row(each: Document) -> tuple[object, ...]:
    pid = number(each, "pid")
    return (
        text(each, "id"),
        text(each, "state"),
        None if pid is None else f"{pid:.0f}",
        age(number(each, "age_seconds")),
        amount(number(each, "calls_in_flight")),
        seconds(number(each, "cpu_seconds")),
        size(number(each, "memory_bytes")),
        _first_line(text(each, "reason")),
    )


def _first_line(reason: str) -> str:
    return reason.partition("\n")[0]
