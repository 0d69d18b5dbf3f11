"""What a command line of ``spear call`` asks for.

The words behind the target are the function's, but for our own options, which may stand among them.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, final

import attrs

from spear._errors import ConfigurationError

from ._values import parse_value, split_arguments

if TYPE_CHECKING:
    import argparse

# Options that may also stand behind the target, where REMAINDER has swallowed them.
_NUMBERS: Final[dict[str, type[int | float]]] = {"--replicas": int, "--timeout": float}
_FLAGS: Final = ("--verbose", "--debug")
_LISTS: Final = ("--env",)


@final
@attrs.frozen(kw_only=True)
class CallCommand:
    """What is to be called, and how."""

    target: str
    function: str
    arguments: list[object]
    keywords: dict[str, object]
    environment: dict[str, str]
    replicas: int
    timeout: float
    debug: bool


def understand(options: argparse.Namespace) -> CallCommand:
    """The options that argparse has found, and the words that it has left. Raises ConfigurationError."""
    words = _take_ours(options)
    if not words:
        raise ConfigurationError("say what to call: spear call FILE.py:FUNCTION")
    target, _, function = words[0].rpartition(":")
    if not target or not function:
        raise ConfigurationError(
            f"{words[0]!r} does not say which function of which file: write FILE.py:FUNCTION"
        )
    if not options.timeout > 0:
        raise ConfigurationError("--timeout must be more than 0 seconds")
    positional, keywords = split_arguments(words[1:])
    return CallCommand(
        target=target,
        function=function,
        arguments=[parse_value(word, _read_input) for word in positional],
        keywords={name: parse_value(word, _read_input) for name, word in keywords.items()},
        environment=dict(_variable(each) for each in options.env),
        replicas=options.replicas,
        timeout=options.timeout,
        debug=options.debug,
    )


def _take_ours(options: argparse.Namespace) -> list[str]:
    """The words that are not ours. Ours may stand anywhere before a ``--``."""
    words: list[str] = []
    rest = list(options.words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return words + rest
        name, equals, value = word.partition("=")
        if name in _FLAGS:
            if equals:
                raise ConfigurationError(f"{name} takes no value")
            setattr(options, name[2:], True)
        elif name in _LISTS or name in _NUMBERS:
            if not equals:
                if not rest:
                    raise ConfigurationError(f"{name} needs a value")
                value = rest.pop(0)
            if name in _LISTS:
                getattr(options, name[2:]).append(value)
            else:
                setattr(options, name[2:], _number(name, value))
        else:
            words.append(word)
    return words


def _number(option: str, text: str) -> float:
    try:
        return _NUMBERS[option](text)
    except ValueError:
        raise ConfigurationError(f"{option} needs a number, not {text!r}") from None


def _variable(text: str) -> tuple[str, str]:
    """(name, value) of an environment variable."""
    name, equals, value = text.partition("=")
    if equals:
        return name, value
    if name not in os.environ:
        raise ConfigurationError(f"--env {name}: there is no such variable; write {name}=VALUE")
    return name, os.environ[name]


def _read_input() -> bytes:
    return b"" if sys.stdin is None else sys.stdin.buffer.read()
