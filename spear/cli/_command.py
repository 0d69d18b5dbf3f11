"""What a command line of ``spear call`` asks for.

The words behind the target are the function's, but for our own options, which may stand among them.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, final

import attrs

from spear._errors import ConfigurationError
from spear._targets import split_call

from ._values import parse_value, read_all, split_arguments

if TYPE_CHECKING:
    import argparse

# Options that may also stand behind the target, where REMAINDER has swallowed them.
_NUMBERS: Final[dict[str, type[int | float]]] = {"--replicas": int, "--timeout": float}
_FLAGS: Final = ("--verbose", "--debug", "--help")
_LISTS: Final = ("--env",)

USAGE: Final = "spear call [options] FILE.py:FUNCTION [argument | --name value ...]"


@final
@attrs.frozen(kw_only=True)
class CallCommand:
    """What is to be called, and how.

    Attributes:
        function: its name, or nothing if the command line does not say.
        wants_help: it is not to be called, but to be described.
        options: ours that stood among the function's arguments.
    """

    target: str
    function: str
    wants_help: bool
    options: frozenset[str]
    arguments: list[object]
    keywords: dict[str, object]
    environment: dict[str, str]
    replicas: int
    timeout: float
    debug: bool


def understand(options: argparse.Namespace) -> CallCommand:
    """The options that argparse has found, and the words that it has left. Raises ConfigurationError."""
    words, ours = _take_ours(options)
    if not words:
        raise _wrong("say what to call: spear call FILE.py:FUNCTION")
    target, function = split_call(words[0])
    if not target:
        raise _wrong(f"{words[0]!r} does not say which file: write FILE.py:FUNCTION")
    if not options.timeout > 0:
        raise _wrong("--timeout must be more than 0 seconds")
    wants_help = "help" in ours
    positional, keywords = split_arguments([] if wants_help or not function else words[1:])
    return CallCommand(
        target=target,
        function=function,
        wants_help=wants_help,
        options=ours,
        arguments=[parse_value(word, _read_input) for word in positional],
        keywords={name: parse_value(word, _read_input) for name, word in keywords.items()},
        environment=dict(_variable(each) for each in options.env),
        replicas=options.replicas,
        timeout=options.timeout,
        debug=options.debug,
    )


def _wrong(message: str) -> ConfigurationError:
    return ConfigurationError(f"{message}\nusage: {USAGE}")


def _take_ours(options: argparse.Namespace) -> tuple[list[str], frozenset[str]]:
    """(the words that are not ours, the names of our options among the others).

    Ours may stand anywhere before a ``--``.
    """
    words: list[str] = []
    ours: set[str] = set()
    rest = list(options.words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        name, equals, value = word.partition("=")
        if name in (*_FLAGS, *_LISTS, *_NUMBERS):
            ours.add(name[2:])
        if name in _FLAGS:
            if equals:
                raise _wrong(f"{name} takes no value; behind a -- it is the function's")
            setattr(options, name[2:], True)
        elif name in _LISTS or name in _NUMBERS:
            if not equals:
                if not rest:
                    raise _wrong(f"{name} needs a value")
                value = rest.pop(0)
            if name in _LISTS:
                getattr(options, name[2:]).append(value)
            else:
                setattr(options, name[2:], _number(name, value))
        else:
            words.append(word)
    return words, frozenset(ours)


def _number(option: str, text: str) -> float:
    try:
        return _NUMBERS[option](text)
    except ValueError:
        raise _wrong(f"{option} needs a number, not {text!r}") from None


def _variable(text: str) -> tuple[str, str]:
    """(name, value) of an environment variable."""
    name, equals, value = text.partition("=")
    if not name:
        raise _wrong("--env needs a name: --env NAME or --env NAME=VALUE")
    if equals:
        return name, value
    if name not in os.environ:
        raise ConfigurationError(f"--env {name}: there is no such variable; write {name}=VALUE")
    return name, os.environ[name]


def _read_input() -> bytes:
    if sys.stdin is None:  # another file may have its number by now
        raise _wrong("standard input, which - stands for, is closed")
    try:
        return read_all(sys.stdin.buffer, "standard input")
    except OSError as error:
        raise ConfigurationError(f"cannot read standard input: {error.strerror}") from error
