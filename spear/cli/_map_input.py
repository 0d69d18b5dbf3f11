"""The items of ``spear map``: lines of files or of standard input, or the paths that match a pattern.

Items are read in chunks, when there is room for them. A line that cannot be used becomes an item that has
failed, so that one bad line does not end a run.
"""

from __future__ import annotations

import glob
import os
import stat
import sys
from functools import partial
from json import JSONDecodeError
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs
import trio

from spear._errors import ConfigurationError, InvalidArguments
from spear._json import load_json
from spear._limits import DEFAULT_WIRE_LIMITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INPUT_CHUNK_BYTES: Final = 64 * 1024
"""Bytes of one read."""

MAX_PATHS: Final = 1000
"""Paths that are handed over at a time."""

MAX_LINE_BYTES: Final = DEFAULT_WIRE_LIMITS.max_message_bytes
"""Bytes of one line: more than a call can take."""

JSON_SUFFIXES: Final = (".jsonl", ".ndjson")

_BOM: Final = b"\xef\xbb\xbf"
_STDIN: Final = 0


@final
@attrs.frozen
class BadLine:
    """A line that cannot be an item.

    Attributes:
        content: the line: text, or bytes that are not text.
        error: the reason.
    """

    content: str | bytes
    error: InvalidArguments


InputItem: TypeAlias = "str | object | BadLine"

FileIdentity: TypeAlias = tuple[int, int]
"""The device and the inode of a file, which all of its names share."""


def identity_of(file: str | int) -> FileIdentity | None:
    """Return the identity of a regular file, by its path or descriptor; None if there is no such file."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


@final
class Input:
    """All items of a command line, in order.

    Args:
        names: the arguments of ``--input``: files, patterns, or "-".
        is_json: whether all lines are JSON; otherwise those of files with the suffixes of JSON lines.
        output: the file that the run writes to, which patterns leave out.

    Raises:
        ConfigurationError: a file does not exist, is a directory or the output, or no file matches a
            pattern.
    """

    def __init__(
        self, names: Sequence[str], *, is_json: bool, output: FileIdentity | None = None
    ) -> None:
        if names.count("-") > 1:
            raise ConfigurationError("standard input, -, can be read only once")
        if "-" in names and sys.stdin is None:
            raise ConfigurationError("--input - reads standard input, which is closed")
        self._sources: list[_LineSource | _PathSource] = [
            _source(name, is_json or name.endswith(JSON_SUFFIXES), output) for name in names
        ]
        self._at = 0

    @property
    def is_text(self) -> bool:
        """Whether the items of the last :meth:`read` are texts, and not the values of JSON lines."""
        return not self._sources[self._at].is_json

    async def read(self) -> list[InputItem]:
        """Return the next items; none at the end. A checkpoint. If cancelled, items may be lost.

        Raises:
            ConfigurationError: a file cannot be read, or a line is too long.
        """
        while self._at < len(self._sources):
            items = await self._sources[self._at].read()
            if items is not None:
                return items
            self._at += 1
        await trio.lowlevel.checkpoint()
        return []

    async def count(self) -> int | None:
        """Return the number of items; None if only reading them would show it. A checkpoint."""
        count = partial(_count, tuple(self._sources))
        return await trio.to_thread.run_sync(count, abandon_on_cancel=True)


def _source(name: str, is_json: bool, output: FileIdentity | None) -> _LineSource | _PathSource:
    if name == "-" or os.path.exists(name):
        if os.path.isdir(name):
            raise ConfigurationError(
                f"--input {name}: is a directory; for its files, use --input '{name.rstrip('/')}/*'"
            )
        if output is not None and identity_of(_STDIN if name == "-" else name) == output:
            raise ConfigurationError(
                f"--input {name} is also the output: choose another file for the output"
            )
        return _LineSource(name, is_json=is_json)
    if not glob.has_magic(name):
        raise ConfigurationError(
            f"--input {name}: no such file; a file with one item a line, a quoted pattern such as "
            "'*.txt', or - is needed"
        )
    paths = sorted(each for each in glob.iglob(name, recursive=True) if _is_item(each, output))
    if not paths:
        raise ConfigurationError(f"--input {name}: no file matches the pattern")
    return _PathSource(paths)


def _is_item(path: str, output: FileIdentity | None) -> bool:
    """Return whether a path that matches a pattern is no directory, and not the output."""
    try:
        found = os.stat(path)
    except OSError:  # such as a symbolic link to nowhere; the function reports it
        return True
    return not stat.S_ISDIR(found.st_mode) and (found.st_dev, found.st_ino) != output


def _count(sources: Sequence[_LineSource | _PathSource]) -> int | None:
    total = 0
    for each in sources:
        found = each.count()
        if found is None:
            return None
        total += found
    return total


@final
class _PathSource:
    """The paths that match a pattern."""

    is_json: Final = False

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths
        self._taken = 0

    async def read(self) -> list[InputItem] | None:
        await trio.lowlevel.checkpoint()
        part = self._paths[self._taken : self._taken + MAX_PATHS]
        self._taken += len(part)
        return [_text(os.fsencode(each), "the path") for each in part] or None

    def count(self) -> int | None:
        return len(self._paths)


@final
class _LineSource:
    """The lines of a file. The file is opened at the first read, because opening a pipe waits."""

    def __init__(self, name: str, *, is_json: bool) -> None:
        self.is_json = is_json
        self._name = name
        self._fd = -1
        self._rest: list[bytes] = []  # pieces of the line that has not ended
        self._rest_bytes = 0
        self._lines = 0
        self._has_ended = False

    @property
    def _title(self) -> str:
        return "standard input" if self._name == "-" else self._name

    async def read(self) -> list[InputItem] | None:
        while not self._has_ended:
            try:
                data = await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)
            except OSError as error:
                raise ConfigurationError(f"cannot read {self._title}: {error.strerror}") from error
            items = [item for line in self._split(data) for item in self._parse(line)]
            if items:
                return items
        return None

    def _read(self) -> bytes:
        if self._fd < 0:
            self._fd = sys.stdin.fileno() if self._name == "-" else os.open(self._name, os.O_RDONLY)
        data = os.read(self._fd, INPUT_CHUNK_BYTES)
        if not data and self._name != "-":
            os.close(self._fd)
        return data

    def _split(self, data: bytes) -> list[bytes]:
        """Return the lines that end in these bytes; no bytes are the end of the file."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest, self._rest_bytes = [], 0
        if rest:
            self._rest.append(rest)
            self._rest_bytes += len(rest)
        if not data:
            self._has_ended = True
            lines = [b"".join(self._rest)] if self._rest else []
            self._rest = []
        if self._rest_bytes > MAX_LINE_BYTES:
            raise ConfigurationError(
                f"line {self._lines + len(lines) + 1} of {self._title} has more than "
                f"{MAX_LINE_BYTES} bytes, the limit of a call"
            )
        return lines

    def _parse(self, line: bytes) -> Iterator[InputItem]:
        self._lines += 1
        if self._lines == 1:
            line = line.removeprefix(_BOM)
        line = line.removesuffix(b"\r")
        if not self.is_json:
            yield _text(line, f"line {self._lines} of {self._title}")
        elif line.strip():
            try:
                yield load_json(line.decode())
            except (ValueError, RecursionError) as error:
                failure = InvalidArguments(
                    f"line {self._lines} of {self._title} is not JSON: {_reason(error)}",
                    code="bad_item",
                )
                yield BadLine(_best_text(line), failure)

    def count(self) -> int | None:
        """Return the number of lines of a regular file."""
        if self._name == "-" or not os.path.isfile(self._name):
            return None
        lines, last = 0, b"\n"
        with open(self._name, "rb", buffering=0) as file:
            while data := file.read(1 << 20):
                lines += data.count(b"\n")
                last = data
        return lines + (not last.endswith(b"\n"))


def _reason(error: ValueError | RecursionError) -> str:
    """Return why a line is not JSON. The line is known, so only its column is of use."""
    match error:
        case RecursionError():
            return "it is nested too deeply"
        case JSONDecodeError():
            return f"{error.msg}, at column {error.colno}"
        case UnicodeDecodeError():
            return "it is not UTF-8"
    return str(error)


def _text(data: bytes, title: str) -> InputItem:
    try:
        return data.decode()
    except UnicodeDecodeError:
        error = InvalidArguments(
            f"{title} is not UTF-8: convert the input to UTF-8, or use JSON lines, in which bytes are "
            '{"$bytes": "base64"}',
            code="bad_item",
        )
        return BadLine(data, error)


def _best_text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
