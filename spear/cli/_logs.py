"""``spear logs``: the output of instances, past and live."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import contextmanager
from queue import SimpleQueue
from urllib.parse import urlencode

from spear._errors import NotFound, SpearError

from ._documents import number, several, text
from ._error_lines import start_thread
from ._remote import Remote, define_host, part_of_path
from ._say import say
from ._text import printable
from ._values import parse_whole
from ._waiting import wait_unread

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Final, TypeAlias

    from ._documents import Document
    from ._parser import CommandParser

    LineArrival: TypeAlias = Document | SpearError | BrokenPipeError | None
    """A line; or the end of a deployment's lines: None, or the error that ended them; or the end of the
    output's reader."""

TAIL_LINES: Final = 100


def define_logs(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    define_host(parser)
    parser.add("names", nargs="*", metavar="NAME", help="names of deployments (default: all)")
    parser.add("-f", "--follow", action="store_true", help="also print new lines as they arrive")
    parser.add(
        "-n", "--tail", type=parse_whole, default=TAIL_LINES, metavar="N",
        help=f"number of past lines of each deployment (default: {TAIL_LINES})",
    )  # fmt: skip
    parser.add("--instance", metavar="ID", help="print the lines of this instance only")
    parser.add("--json", action="store_true", help="print each line as JSON")
    parser.set_run(run_logs)


def run_logs(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    if options.tail < 0:
        options.command_parser.error(f"--tail must be at least 0, not {options.tail}")
    remote = Remote(options)
    names = options.names or [
        text(each, "name") for each in several(remote.get("/v1/deployments"), "deployments")
    ]
    if not names:
        raise NotFound("the host has no deployments")
    show = _show_json if options.json else _show
    for line in (
        _follow(remote, names, options) if options.follow else _past(remote, names, options)
    ):
        say(show(line))
    return 0


def _past(remote: Remote, names: list[str], options: argparse.Namespace) -> list[Document]:
    """Return the lines written so far, in the order of their times."""
    lines = [line for name in names for line in _lines(remote, name, options)]
    return sorted(lines, key=lambda line: number(line, "time") or 0.0) if len(names) > 1 else lines


def _follow(remote: Remote, names: list[str], options: argparse.Namespace) -> Iterator[Document]:
    """Yield lines as they are written, until all deployments have ended, or following one fails.

    Raises:
        BrokenPipeError: the reader of standard output has closed it, even if there is nothing to write.
    """
    arrivals: SimpleQueue[LineArrival] = SimpleQueue()
    for name in names:
        thread = threading.Thread(
            target=_work,
            args=(remote, name, options, arrivals),
            name=f"logs of {name}",
            daemon=True,
        )
        start_thread(thread)
    with _watched_reader(arrivals):
        left = len(names)
        while left:
            arrival = arrivals.get()
            if isinstance(arrival, SpearError | BrokenPipeError):
                raise arrival
            if arrival is None:
                left -= 1
            else:
                yield arrival


def _work(
    remote: Remote, name: str, options: argparse.Namespace, arrivals: SimpleQueue[LineArrival]
) -> None:
    try:
        for line in _lines(remote, name, options):
            arrivals.put(line)
        arrivals.put(None)
    except SpearError as error:
        arrivals.put(error)


@contextmanager
def _watched_reader(arrivals: SimpleQueue[LineArrival]) -> Iterator[None]:
    """Let a BrokenPipeError arrive if the reader of standard output goes away while the block runs."""
    output = sys.stdout.fileno()
    reading, writing = os.pipe()
    with open(reading, "rb", 0) as until, open(writing, "wb", 0) as end:

        def watch() -> None:
            if wait_unread(output, until.fileno()):
                arrivals.put(BrokenPipeError())

        watcher = threading.Thread(target=watch, name="reader of the output", daemon=True)
        start_thread(watcher)
        try:
            yield
        finally:
            end.close()
            watcher.join()  # it must not wait for a descriptor whose number is another's by then


def _lines(remote: Remote, name: str, options: argparse.Namespace) -> Iterator[Document]:
    query = {"tail": str(options.tail), "follow": "true" if options.follow else "false"}
    if options.instance:
        query["instance"] = options.instance
    asked = urlencode(query, errors="surrogateescape")
    path = f"/v1/deployments/{part_of_path(name, 'a deployment')}/logs?{asked}"
    patience = {"seconds": None} if options.follow else {}
    with remote.request("GET", path, **patience) as answer:
        yield from answer.documents()


def _show(line: Document) -> str:
    lost = number(line, "lost")
    if lost is not None:
        return f"... {lost:.0f} lines were lost: they came faster than they were read"
    at = number(line, "time") or 0.0
    clock = time.strftime("%H:%M:%S", time.localtime(at))
    instance = text(line, "instance").partition(":")[2]
    said = f"{text(line, 'stream')}: {text(line, 'text')}"
    return printable(f"{clock}.{int(at * 1000) % 1000:03} {instance} {said}", keep="\t")


def _show_json(line: Document) -> str:
    return json.dumps(line)
