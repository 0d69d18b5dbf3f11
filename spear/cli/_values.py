"""Values on the command line and in its output.

In: JSON if it is JSON, else text as it stands; ``@file`` is the file's bytes, ``@file.json`` what the
JSON in it says, ``-`` the bytes of standard input. Out: bytes as they are, everything else as JSON,
in which bytes appear as ``{"$bytes": base64}``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import TypeAlias

from spear._errors import ConfigurationError, SpearError

ReadInput: TypeAlias = Callable[[], bytes]
"""Reads all of standard input."""


def parse_value(text: str, read_input: ReadInput) -> object:
    """One argument. Raises ConfigurationError for a file that cannot be used."""
    if text == "-":
        return read_input()
    if text.startswith("@"):
        return _read_file(text[1:])
    try:
        return json.loads(text)
    except ValueError:
        return text
    except RecursionError:
        raise ConfigurationError(f"{text[:20]}... is nested too deeply") from None


def _read_file(path: str) -> object:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"cannot read {path!r}: {reason}") from error
    if not path.endswith(".json"):
        return content
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not JSON that can be read: {error}") from error


def split_arguments(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(positional, keywords) of a function's words: ``--name value``, ``--name=value``, or plain.

    Negative numbers are values. Raises ConfigurationError for a name without a value.
    """
    positional: list[str] = []
    keywords: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) == 2:
            positional.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not rest:
                raise ConfigurationError(f"--{name} needs a value: --{name} VALUE")
            value = rest.pop(0)
        name = name.replace("-", "_")
        if name in keywords:
            raise ConfigurationError(f"--{name} is given twice")
        keywords[name] = value
    if [*positional, *keywords.values()].count("-") > 1:
        raise ConfigurationError("standard input, -, can be read only once")
    return positional, keywords


def show_value(value: object) -> bytes:
    """A result, or one item of a stream, as it is printed.

    Raises:
        SpearError: there is no JSON for it.
    """
    if isinstance(value, bytes):
        return value
    try:
        return json.dumps(_as_json(value), ensure_ascii=False).encode() + b"\n"
    except ValueError as error:  # an integer of thousands of digits
        raise SpearError(f"the result cannot be printed: {error}") from error


def _as_json(value: object) -> object:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    if isinstance(value, dict):
        # A key cannot be a map: bytes become the text of one.
        return {
            key if isinstance(key, str) else json.dumps(_as_json(key)): _as_json(each)
            for key, each in value.items()
        }
    return value
