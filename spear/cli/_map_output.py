"""The output of ``spear map``: a line of JSON for each item. And the items that an earlier run has done.

A line is written whole, so a run that is killed leaves at most one torn line, the last one. ``--resume``
removes this line and those of failures, and skips the items of all other lines, so that the file has one
line for each item. Items are told apart by their JSON, so the input may grow or change its order.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections import Counter
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, BinaryIO, Final, final

from spear._error_objects import error_object
from spear._errors import ConfigurationError, RemoteProtocolError, SpearError
from spear._json import dump_json, load_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spear.calls import Result

DIGEST_BYTES: Final = 16
"""Bytes that are kept of each item that an earlier run has done."""


def result_line(index: int, item: object, result: Result) -> bytes:
    """Return the line of an item that has a result.

    Raises:
        RemoteProtocolError: the result cannot be represented as JSON.
    """
    try:
        text = dump_json(result)
    except (TypeError, ValueError) as error:
        message = f"the result cannot be represented as JSON: {error}"
        raise RemoteProtocolError(message, delivered="yes") from error
    return _encode(f'{{"index": {index}, "item": {dump_json(item)}, "result": {text}}}\n')


def failure_line(index: int, item: object, error: SpearError, attempts: int) -> bytes:
    """Return the line of an item that has failed, after so many calls."""
    shown, text = dump_json(item), dump_json(error_object(error, tell_all=True))
    return _encode(
        f'{{"index": {index}, "item": {shown}, "error": {text}, "attempts": {attempts}}}\n'
    )


def _encode(line: str) -> bytes:
    return line.encode(errors="backslashreplace")  # a lone surrogate becomes its escape in JSON


@final
class DoneItems:
    """The items that an earlier run has done; an item may be there several times."""

    def __init__(self) -> None:
        self._left: Counter[bytes] = Counter()

    def add(self, item: object) -> None:
        """Add an item of the earlier run's output."""
        self._left[_digest(item)] += 1

    def take(self, item: object) -> bool:
        """Return whether the item was done, and count it as taken."""
        if not self._left:
            return False
        key = _digest(item)
        if not self._left[key]:
            del self._left[key]
            return False
        self._left[key] -= 1
        return True


def _digest(item: object) -> bytes:
    return blake2b(_encode(dump_json(item)), digest_size=DIGEST_BYTES).digest()


def open_output(path: str, *, resume: bool, overwrite: bool) -> tuple[int, DoneItems]:
    """Open a file for the lines of a run; return its descriptor, and the items that are done.

    Raises:
        ConfigurationError: the file cannot be opened, has content that would be lost, was not written by
            this command, or is in use by another run.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise ConfigurationError(f"cannot write to {path}: {error.strerror}") from error
    done = DoneItems()
    try:
        if found is not None and not stat.S_ISREG(found.st_mode):  # a pipe, or a device
            if resume:
                raise ConfigurationError(f"--resume needs a regular file, not {path}")
            return os.open(path, os.O_WRONLY), done
        descriptor = _open_alone(path)
        try:
            if resume:
                return _resume(path, descriptor, done), done
            if overwrite:
                os.ftruncate(descriptor, 0)
            elif os.fstat(descriptor).st_size:
                raise ConfigurationError(
                    f"{path} exists: continue it with --resume, or replace it with --overwrite"
                )
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise ConfigurationError(f"cannot write to {path}: {error.strerror}") from error
    return descriptor, done


def _open_alone(path: str) -> int:
    """Open a file to append to it, unless another run uses it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigurationError(f"{path} is in use: another spear map writes to it") from None
    except OSError:  # a file system without locks
        pass
    return descriptor


def _resume(path: str, descriptor: int, done: DoneItems) -> int:
    """Read the lines of an earlier run, and remove failures and torn lines; return the open file."""
    with open(descriptor, "rb", closefd=False) as file:
        has_failures, end = False, 0
        for line, is_result in _lines(file, path):
            if is_result:
                done.add(is_result[0])
            else:
                has_failures = True
            end += len(line)
        if not has_failures:
            os.ftruncate(descriptor, end)
            return descriptor
        file.seek(0)
        _rewrite(os.path.realpath(path), file)
    replaced = _open_alone(path)
    os.close(descriptor)
    return replaced


def _rewrite(path: str, file: BinaryIO) -> None:
    """Replace the file by a copy without failures, in one step."""
    copy, name = tempfile.mkstemp(prefix=f"{os.path.basename(path)}.", dir=os.path.dirname(path))
    try:
        with open(copy, "wb") as kept:
            os.fchmod(copy, stat.S_IMODE(os.fstat(file.fileno()).st_mode))
            kept.writelines(line for line, is_result in _lines(file, path) if is_result)
            kept.flush()
            os.fsync(copy)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _lines(file: BinaryIO, path: str) -> Iterator[tuple[bytes, tuple[object] | None]]:
    """Yield whole lines, each with its item if the line has a result."""
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            return  # torn: the run was killed
        try:
            value = load_json(line)
        except (ValueError, RecursionError):
            value = None
        match value:
            case {"index": int(), "item": item, "result": _}:
                yield line, (item,)
            case {"index": int(), "item": _, "error": _}:
                yield line, None
            case _:
                raise ConfigurationError(
                    f"line {number} of {path} was not written by spear map: choose another file"
                )
