"""What ``spear`` understands, and what its exit status means."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from spear._errors import ConfigurationError, SpawnFailed, SpearError, WorkerDied
from spear._version import __version__

from ._call import CALL_HELP, define_call
from ._status import BROKEN_PIPE, INTERRUPTED, exit_status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}\n{self.format_usage().strip()}")


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    parser = _Parser(prog="spear", description="Host functions in processes of their own.")
    parser.add_argument("--version", action="version", version=f"spear {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    define_call(commands.add_parser("call", help=CALL_HELP))
    try:
        options, unknown = parser.parse_known_args(words or ["--help"])
        if unknown:
            getattr(options, "parser", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
        return int(options.run(options))
    except SystemExit as done:  # --help and --version
        return int(done.code or 0) if words else exit_status(ConfigurationError(""))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has had enough
        return BROKEN_PIPE
    except SpearError as error:
        return _report(error)
    except BaseExceptionGroup as group:
        return _report_group(group)


def _report(error: BaseException) -> int:
    text = str(error)
    if isinstance(error, SpawnFailed | WorkerDied) and error.stderr_tail:
        # It has been shown, line by line, as it was written.
        text = text.removesuffix(f"\n--- stderr ---\n{error.stderr_tail}")
    print(f"spear: {_printable(text.rstrip())}", file=sys.stderr)
    return exit_status(error)


def _printable(text: str) -> str:
    """What a function says must not control the terminal."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )


def _report_group(group: BaseExceptionGroup[BaseException]) -> int:
    """Something inside a nursery failed: say the first thing we understand."""
    if group.subgroup(KeyboardInterrupt) is not None:
        return INTERRUPTED
    known, unknown = group.split(SpearError)
    if known is None or unknown is not None:
        raise group
    error: BaseException = known
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return _report(error)
