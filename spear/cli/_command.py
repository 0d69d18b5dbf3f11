"""The parsed command line of ``spear call``, and the options that it shares with other commands."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Final, final

import attrs

from spear._errors import ConfigurationError
from spear._host_limits import DEFAULT_TIMEOUTS
from spear._targets import split_call

from ._values import parse_number
from ._words import read_words

if TYPE_CHECKING:
    import argparse

    from ._parser import CommandParser, OptionGroup
    from ._words import FunctionWords

USAGE: Final = "spear call [options] FILE.py:FUNCTION [argument | --name value ...]"


@final
@attrs.frozen(kw_only=True)
class CallCommand:
    """A function to call, with its arguments and settings.

    Attributes:
        function: name of the function; empty if the command line names none.
        wants_help: whether to describe the function instead of calling it.
        words: the function's arguments as they were written.
    """

    target: str
    function: str
    wants_help: bool
    words: FunctionWords
    arguments: list[object]
    keywords: dict[str, object]
    environment: dict[str, str]
    replicas: int
    timeout: float
    startup_seconds: float
    debug: bool


def understand(options: argparse.Namespace) -> CallCommand:
    """Build the command from argparse's options and unparsed words. Raises ConfigurationError."""
    parser: CommandParser = options.command_parser
    words = read_words(options, "no function was given: use spear call FILE.py:FUNCTION")
    target, function = split_call(words.target)
    if not target:
        parser.error(f"{words.target!r} names no file: use FILE.py:FUNCTION")
    expect_times(options)
    positional, keywords = ([], {}) if words.wants_help or not function else words.arguments()
    return CallCommand(
        target=target,
        function=function,
        wants_help=words.wants_help,
        words=words,
        arguments=positional,
        keywords=keywords,
        environment=dict(read_variable(each, USAGE) for each in options.env),
        replicas=options.replicas,
        timeout=options.timeout,
        startup_seconds=options.startup_seconds,
        debug=options.debug,
    )


def add_startup_seconds(parser: CommandParser) -> None:
    """Define ``--startup-seconds``."""
    default = DEFAULT_TIMEOUTS.startup_seconds
    parser.add(
        "--startup-seconds", type=parse_number, default=default, metavar="SECONDS",
        help=f"time for a process to load the file and become ready (default: {default:g})",
    )  # fmt: skip


def add_env(group: OptionGroup, whose: str = "the function") -> None:
    """Define ``--env``, for environment variables of ``whose`` processes."""
    group.add(
        "--env", action="append", default=[], metavar="NAME[=VALUE]",
        help=f"environment variable of {whose}; without =VALUE, its present value is passed",
    )  # fmt: skip


def expect_times(options: argparse.Namespace) -> None:
    """Raise ConfigurationError if ``--timeout`` or ``--startup-seconds`` is out of its range."""
    parser: CommandParser = options.command_parser
    if not options.timeout > 0:
        parser.error(f"--timeout must be more than 0 seconds, not {options.timeout:g}")
    if not 0 < options.startup_seconds < math.inf:
        parser.error(
            f"--startup-seconds must be more than 0 seconds, not {options.startup_seconds:g}"
        )


def read_variable(text: str, usage: str) -> tuple[str, str]:
    """Return (name, value) for the argument of ``--env``. Raises ConfigurationError."""
    name, equals, value = text.partition("=")
    if not name:
        raise ConfigurationError(
            f"--env needs a name: --env NAME or --env NAME=VALUE\nusage: {usage}"
        )
    if equals:
        return name, value
    if name not in os.environ:
        raise ConfigurationError(
            f"--env {name}: the environment has no such variable; use --env {name}=VALUE"
        )
    return name, os.environ[name]
