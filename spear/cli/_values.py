"""Values on the command line and in its output.

In: JSON if it is JSON, else text as it stands; ``@file`` is the file's bytes, ``@file.json`` what the
JSON in it says, ``-`` the bytes of standard input. Out: bytes as they are, everything else as JSON,
in which bytes appear as ``{"$bytes": base64}``, what is no number as ``{"$float": "nan"}``, and an
integer of too many digits as ``{"$int": "0x1f"}``; all are understood on the way in, too.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, TypeAlias

from spear._errors import ConfigurationError, InvalidArguments, RemoteProtocolError
from spear._json import dump_json, load_json, read_float
from spear._limits import DEFAULT_WIRE_LIMITS

ReadInput: TypeAlias = Callable[[], bytes]
"""Reads all of standard input."""


MAX_DIGITS: Final = 100_000
"""Of an integer. Python's own limit, 4300, protects servers; so many take half a second to print."""

SHOWN_CHARACTERS: Final = 20
"""Of a value that cannot be used."""

HOST_DIGITS: Final = sys.int_info.default_max_str_digits
"""That limit: of an integer that a host is sent as JSON; others are sent as maps."""


_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")


def number(text: str) -> float:
    """Return the number that an option says: "inf" is one, "nan" is none. Raises ValueError."""
    return read_float(text, may_be_infinite=True)


def whole(text: str) -> int:
    """Return the whole number that an option says. Raises ValueError."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} is not a whole number")
    return int(text)


@contextmanager
def long_integers(most: int = MAX_DIGITS) -> Iterator[None]:
    """While the block runs, integers may have so many digits."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(most)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def parse_value(text: str, read_input: ReadInput) -> object:
    """One argument. Raises ConfigurationError for a file that cannot be used."""
    if text == "-":
        return read_input()
    if text.startswith("@"):
        return _read_file(text[1:])
    try:
        return load_json(text)
    except json.JSONDecodeError:
        return text
    except ValueError as error:
        raise ConfigurationError(f"{_beginning(text)} cannot be used: {error}") from error
    except RecursionError:
        raise ConfigurationError(f"{_beginning(text)} is nested too deeply") from None


def _beginning(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def read_all(file: BinaryIO, name: str) -> bytes:
    """What a file has, if a call can take so much.

    Raises:
        InvalidArguments: it is too much.
    """
    most = DEFAULT_WIRE_LIMITS.max_message_bytes
    content = file.read(most + 1)
    if len(content) > most:
        raise InvalidArguments(f"{name} has more than {most} bytes, and a call takes no more")
    return content


def read_input() -> bytes:
    """All of standard input.

    Raises:
        ConfigurationError: there is none, or it cannot be read.
        InvalidArguments: it is too much.
    """
    if sys.stdin is None:  # another file may have its number by now
        raise ConfigurationError("standard input, which - stands for, is closed")
    try:
        return read_all(sys.stdin.buffer, "standard input")
    except OSError as error:
        raise ConfigurationError(f"cannot read standard input: {error.strerror}") from error


def _read_file(path: str) -> object:
    try:
        with open(path, "rb") as file:
            content = read_all(file, path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(
            f"cannot read {path!r}: {reason}; text that begins with @ is written '\"@{path}\"'"
        ) from error
    if not path.endswith(".json"):
        return content
    try:
        return load_json(content)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not JSON that can be read: {error}") from error


def show_value(value: object) -> bytes:
    """A result, or one item of a stream, as it is printed."""
    if isinstance(value, bytes | memoryview):  # a view of what was returned as a SharedBuffer
        return bytes(value)
    return show_json(value)


def show_json(value: object) -> bytes:
    """A result as a line of JSON. Raises RemoteProtocolError if there is none for it."""
    try:
        return dump_json(value).encode() + b"\n"
    except ValueError as error:
        raise RemoteProtocolError(f"the result has no JSON: {error}", delivered="yes") from error
