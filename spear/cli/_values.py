"""Values on the command line and in its output.

Input: an argument is parsed as JSON, or is text if it is not JSON. ``@file`` gives the file's bytes,
``@file.json`` the file's JSON, and ``-`` the bytes of standard input.

Output: bytes unchanged, everything else as JSON, with ``{"$bytes": base64}`` for bytes, ``{"$float":
"nan"}`` for NaN and infinities, ``{"$int": "0x1f"}`` for long integers. Input may have these forms, too.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO, Final, TypeAlias

from spear._errors import ConfigurationError, InvalidArguments, RemoteProtocolError
from spear._json import dump_json, load_json, read_float
from spear._limits import DEFAULT_WIRE_LIMITS

ReadInput: TypeAlias = Callable[[], bytes]
"""A function that reads all of standard input."""


MAX_DIGITS: Final = 100_000
"""Maximum number of digits of an integer; so many take half a second to print. Python's own limit, 4300,
protects servers."""

MAX_INPUT_BYTES: Final = DEFAULT_WIRE_LIMITS.max_segment_bytes
"""Maximum bytes of a file that is an argument: as many as travel in shared memory."""

_PIECE_BYTES: Final = 1 << 20
"""Bytes that are read at a time."""

SHOWN_CHARACTERS: Final = 20
"""Maximum number of characters shown of a value that cannot be used."""

HOST_DIGITS: Final = sys.int_info.default_max_str_digits
"""Maximum number of digits of an integer in JSON for a host: Python's limit. Others are sent as maps."""


_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")


def parse_number(text: str) -> float:
    """Return the number given to an option; "inf" is allowed, "nan" is not.

    Raises:
        ArgumentTypeError: the text is not a number.
    """
    try:
        return read_float(text, may_be_infinite=True)
    except ValueError:
        raise _not_a("number", text) from None


def parse_whole(text: str) -> int:
    """Return the whole number given to an option. Raises ArgumentTypeError."""
    if not _WHOLE.fullmatch(text):
        raise _not_a("whole number", text)
    return int(text)


def _not_a(kind: str, text: str) -> ArgumentTypeError:
    return ArgumentTypeError(f"needs a {kind}, not {text[:SHOWN_CHARACTERS]!r}")


@contextmanager
def long_integers(most: int = MAX_DIGITS) -> Iterator[None]:
    """Allow integers of up to ``most`` digits while the block runs."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(most)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def parse_value(text: str, read_input: ReadInput) -> object:
    """Parse one argument. Raises ConfigurationError for a value or file that cannot be used."""
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


def read_all(file: BinaryIO, name: str, most: int = MAX_INPUT_BYTES) -> bytes:
    """Return the content of a file, up to the size that a call accepts.

    Raises:
        InvalidArguments: the file is larger.
    """
    content = BytesIO()  # gives its bytes away uncopied
    while piece := file.read(_PIECE_BYTES):
        if content.tell() + len(piece) > most:
            raise InvalidArguments(f"{name} has more than {most} bytes, the limit of a call")
        content.write(piece)
    return content.getvalue()


def read_input() -> bytes:
    """Return all of standard input as bytes.

    Raises:
        ConfigurationError: standard input is closed, or cannot be read.
        InvalidArguments: the input is larger than the arguments of a call may be.
    """
    if sys.stdin is None:  # descriptor 0 may belong to another file by now
        raise ConfigurationError("the argument - reads standard input, which is closed")
    try:
        return read_all(sys.stdin.buffer, "standard input")
    except OSError as error:
        raise ConfigurationError(f"cannot read standard input: {error.strerror}") from error


def _read_file(path: str) -> object:
    try:
        with open(path, "rb") as file:
            content = read_all(file, path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(
            f"cannot read {path!r}: {reason}; to pass text that begins with @, write '\"@{path}\"'"
        ) from error
    if not path.endswith(".json"):
        return content
    try:
        return load_json(content)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"cannot read {path} as JSON: {error}") from error


def show_value(value: object) -> bytes:
    """Return a result, or an item of a stream, in the form to print."""
    if isinstance(value, bytes | memoryview):  # a SharedBuffer arrives as a memoryview
        return bytes(value)
    return show_json(value)


def show_json(value: object) -> bytes:
    """Return a result as a line of JSON. Raises RemoteProtocolError if it cannot be JSON."""
    try:
        return dump_json(value).encode() + b"\n"
    except ValueError as error:
        message = f"the result cannot be represented as JSON: {error}"
        raise RemoteProtocolError(message, delivered="yes") from error
