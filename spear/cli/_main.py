"""What ``spear`` understands, and what its exit status means."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from spear._errors import ConfigurationError, SpawnFailed, SpearError, WorkerDied
from spear._version import __version__

from ._commands import COMMANDS, define
from ._say import complain, expect_output, say
from ._status import BROKEN_PIPE, INTERRUPTED, exit_status, is_refusal
from ._text import printable


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}\n{self.format_usage().strip()}")

    def _print_message(self, message: str, file: object = None) -> None:
        say(message.rstrip("\n"))  # help and version; argparse does not ask whether it works


def make_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser of all commands, complete for one of them."""
    parser = _Parser(prog="spear", description="Host functions in processes of their own.")
    parser.add_argument("--version", action="version", version=f"spear {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, says in COMMANDS.items():
        one = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
        if name == command:
            one.set_defaults(parser=one)
            define(name, one)
    return parser


def load(words: Sequence[str]) -> argparse.ArgumentParser | SpearError:
    """The parser for a command line, with all loaded that its command needs to be understood.

    Or the reason why that cannot be loaded.
    """
    try:
        return make_parser(next((each for each in words if each in COMMANDS), None))
    except SpearError as error:  # an extra is not installed
        return error


def run(parser: argparse.ArgumentParser | SpearError, words: Sequence[str]) -> int:
    """Run the command line; returns the exit status."""
    options = argparse.Namespace()
    options.fails_as_json = _wants_json(words)
    if isinstance(parser, SpearError):
        return _report(parser, options)
    try:
        _expect_a_command_first(parser, words)
        _, unknown = parser.parse_known_args(list(words) or ["--help"], options)
        if unknown:
            of_command = getattr(options, "parser", parser)
            meant = _meant(of_command, unknown)
            of_command.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        if options.command != "serve":  # a host needs no output to serve
            expect_output()
        return int(options.run(options))
    except SystemExit as done:  # --help and --version
        return int(done.code or 0) if words else exit_status(ConfigurationError(""))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has had enough
        _forget_output()
        return BROKEN_PIPE
    except SpearError as error:
        return _report(error, options)
    except (OSError, MemoryError) as error:
        if not is_refusal(error):
            raise
        return _report(error, options)
    except BaseExceptionGroup as group:
        return _report_group(group, options)


def _expect_a_command_first(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Say where an option goes that stands in front of its command."""
    command = next((each for each in words if each in COMMANDS), None)
    if command is None or not words[0].startswith("-"):
        return
    option = words[0].partition("=")[0]
    if not any(each.startswith(option) for each in ("-h", "--help", "--version")):
        parser.error(f"{option} goes behind the command: spear {command} {option} ...")


def _meant(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """The end of a message about options that nobody knows."""
    from difflib import get_close_matches

    known = [
        flag
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        for flag in action.option_strings
    ]
    words = [each.partition("=")[0] for each in unknown if each.startswith("-")]
    close = [flag for each in words for flag in get_close_matches(each, known, 1)]
    return f"; did you mean {' and '.join(dict.fromkeys(close))}?" if close else ""


def _wants_json(words: Sequence[str]) -> bool:
    """Whether errors are for a script, as the output is; also if the command line makes no sense.

    Not those of a host that runs: its standard error is a log. Nor of commands where the words are a
    function's.
    """
    command = next((each for each in words if each in COMMANDS), None)
    ours = words[: words.index("--")] if "--" in words else words
    if command in ("call", "invoke") or (command == "serve" and "--check" not in ours):
        return False
    # Most commands take the beginning of an option for it.
    return any(len(each) > len("--") and "--json".startswith(each) for each in ours)


def _forget_output() -> None:
    """Let the interpreter not try once more, when it ends, to write what nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _report(error: BaseException, options: argparse.Namespace) -> int:
    if getattr(options, "fails_as_json", False):
        import json

        from ._failures import describe

        complain(json.dumps({"error": describe(error)}))
        return exit_status(error)
    text = f"the system refuses: {error!s}" if is_refusal(error) else str(error)
    if getattr(options, "shows_lines", False) and isinstance(error, SpawnFailed | WorkerDied):
        text = error.summary  # stderr has been shown, line by line, as it was written
    complain(f"spear: {printable(text.rstrip())}")
    return exit_status(error)


def _report_group(group: BaseExceptionGroup[BaseException], options: argparse.Namespace) -> int:
    """Something inside a nursery failed: say the first thing we understand."""
    if group.subgroup(KeyboardInterrupt) is not None:
        return INTERRUPTED
    known, unknown = group.split(lambda each: isinstance(each, SpearError) or is_refusal(each))
    if known is None or unknown is not None:
        raise group
    error: BaseException = known
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return _report(error, options)
