"""``spear attach``: this terminal as that of the debugger of an instance.

Lines are edited here, with the history of readline if standard input is a terminal, and are sent to the
host when they are complete.
"""

from __future__ import annotations

import contextlib
import sys

from ._documents import inner, text
from ._remote import Remote, define_host, part_of_path
from ._say import complain, write
from ._status import INTERRUPTED
from ._text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Final

    from ._documents import Document
    from ._parser import CommandParser

USAGE: Final = "spear attach [options] INSTANCE"

DESCRIPTION: Final = """\
Attach this terminal to an instance of `spear dev`. At each breakpoint() of the instance, Python's
debugger runs here: now if the instance waits at one, otherwise when the next one comes."""

EPILOG: Final = """\
keys:
  Ctrl-C   drop the line; while the function runs, detach
  Ctrl-D   detach: the function goes on without a debugger, and without its breakpoints

The commands are those of Python's pdb: `continue` goes on to the next breakpoint, `quit` ends the call
with an error. The end of standard input detaches, too, so commands can come from a pipe.
"""

ENDS: Final = {
    "continued": "{} goes on",
    "quit": "the call has ended",
    "lost": "{} has ended",
}


def define_attach(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    parser.describe(usage=USAGE, description=DESCRIPTION, epilog=EPILOG)
    define_host(parser)
    parser.add("--once", action="store_true", help="end after one breakpoint")
    parser.add(
        "instance", metavar="INSTANCE",
        help="name of the instance, such as shop-1, or of a deployment with a single one",
    )  # fmt: skip
    parser.set_run(run_attach)


def run_attach(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    if sys.stdin is not None and sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # input() uses it
    remote = Remote(options)
    name = options.instance
    with remote.request("GET", _path(name), seconds=None) as answer:
        try:
            for message in answer.documents():
                name = text(message, "attached") or name
                if "prompt" in message:
                    line = _read(printable(text(message, "prompt")))
                    if line is None:
                        complain(f"\nspear: detached from {name}, which goes on")
                        return 0
                    remote.post(_path(name), {"line": line})
                else:
                    _show(message, name)
                    if "end" in message and options.once:
                        return 0
        except KeyboardInterrupt:
            complain(f"\nspear: detached from {name}")
            return INTERRUPTED
    return 0


def _path(name: str) -> str:
    """Return the path of an instance's terminal on the host."""
    return f"/v1/instances/{part_of_path(name, 'an instance')}/attach"


def _show(message: Document, name: str) -> None:
    if shown := text(message, "text"):
        write(printable(shown).encode())
    elif place := text(message, "place"):
        complain(printable(f"spear: {text(message, 'instance')} is at a breakpoint: {place}"))
    elif text(message, "attached"):
        complain(f"spear: attached to {name}; Ctrl-D detaches")
    elif why := text(inner(message, "error"), "message"):
        complain(f"spear: {printable(why)}")
    elif "end" in message:
        complain(f"spear: {ENDS.get(text(message, 'end'), name).format(name)}")


def _read(prompt: str) -> str | None:
    """Return the line that the user enters; None at the end of input. Ctrl-C drops the line."""
    while True:
        try:
            return input(prompt)
        except EOFError:
            return None
        except KeyboardInterrupt:
            complain("")
