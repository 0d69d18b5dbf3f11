"""The command line of ``spear``: parsing it, running its command, and reporting failures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from spear._errors import ConfigurationError, SpawnFailed, SpearError, WorkerDied

from ._commands import COMMANDS
from ._parser import CommandParser, make_parser
from ._say import complain, expect_output, silence
from ._status import BROKEN_PIPE, INTERRUPTED, exit_status, is_refusal
from ._text import printable

REPORT: Final = "spear: "
"""The beginning of the line in which an agent reports why it does not start."""


HOSTS: Final = ("serve", "dev")
"""Commands that run a host, whose standard error is a log."""


def load(words: Sequence[str]) -> CommandParser | SpearError:
    """Return the parser for a command line, with the module of its command loaded.

    If the module cannot be loaded, the error is returned instead.
    """
    try:
        return make_parser(next((each for each in words if each in COMMANDS), None))
    except SpearError as error:  # an extra is not installed
        return error


def run(parser: CommandParser | SpearError, words: Sequence[str]) -> int:
    """Run the command line; return the exit status."""
    options = argparse.Namespace()
    options.fails_as_json = _wants_json(words)
    options.line = list(words)
    if isinstance(parser, SpearError):
        return _report(parser, options)
    try:
        _expect_a_command_first(parser, words)
        _, unknown = parser.parser.parse_known_args(list(words) or ["--help"], options)
        if unknown:
            one: CommandParser = getattr(options, "command_parser", parser)
            meant = one.did_you_mean(unknown)
            one.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        if options.command not in HOSTS:  # a host needs no output to serve
            expect_output()
        return int(options.run(options))
    except SystemExit as done:  # --help and --version
        return int(done.code or 0) if words else exit_status(ConfigurationError(""))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has closed it
        silence(sys.stdout)
        return BROKEN_PIPE
    except SpearError as error:
        return _report(error, options)
    except (OSError, MemoryError) as error:
        if not is_refusal(error):
            raise
        return _report(error, options)
    except BaseExceptionGroup as group:
        return _report_group(group, options)


def _expect_a_command_first(parser: CommandParser, words: Sequence[str]) -> None:
    """Raise ConfigurationError for an option in front of the command."""
    command = next((each for each in words if each in COMMANDS), None)
    if command is None or not words[0].startswith("-"):
        return
    option = words[0].partition("=")[0]
    if not any(each.startswith(option) for each in ("-h", "--help", "--version")):
        parser.error(f"{option} must follow the command: spear {command} {option} ...")


def _wants_json(words: Sequence[str]) -> bool:
    """Return whether errors are reported as JSON, as the output is; also if the command line is invalid.

    A running host reports errors as text, because its standard error is a log. So do ``call``, ``map``
    and ``invoke``, whose words belong to a function.
    """
    command = next((each for each in words if each in COMMANDS), None)
    ours = words[: words.index("--")] if "--" in words else words
    if command in ("call", "map", "invoke") or (command in HOSTS and "--check" not in ours):
        return False
    # Most commands accept abbreviated options.
    return any(len(each) > len("--") and "--json".startswith(each) for each in ours)


def _report(error: BaseException, options: argparse.Namespace) -> int:
    if getattr(options, "fails_as_json", False):
        import json

        from ._failures import describe

        complain(json.dumps({"error": describe(error)}))
        return exit_status(error)
    text = f"operating system error: {error!s}" if is_refusal(error) else str(error)
    if getattr(options, "shows_lines", False) and isinstance(error, SpawnFailed | WorkerDied):
        text = error.summary  # the instance's stderr was shown already, line by line
        if isinstance(error, SpawnFailed):
            text += _reason_of(error)
    complain(f"spear: {printable(text.rstrip())}")
    return exit_status(error)


def _reason_of(error: SpawnFailed) -> str:
    """Return the last line of an instance that did not start, if the line is a report of its agent."""
    last = next(iter(error.stderr_tail.splitlines()[-1:]), "")
    return f": {last.removeprefix(REPORT)}" if last.startswith(REPORT) else ""


def _report_group(group: BaseExceptionGroup[BaseException], options: argparse.Namespace) -> int:
    """Report the first known error of a group. Raises the group if it has an unknown one."""
    if group.subgroup(KeyboardInterrupt) is not None:
        return INTERRUPTED
    known, unknown = group.split(
        lambda each: isinstance(each, SpearError | BrokenPipeError) or is_refusal(each)
    )
    if known is None or unknown is not None:
        raise group
    error: BaseException = known
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, BrokenPipeError):
        silence(sys.stdout)
        return BROKEN_PIPE
    return _report(error, options)
