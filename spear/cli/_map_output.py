"""The output of ``spear map``: a line of JSON for each item. And the items that an earlier run has done.

A line is written whole, so a run that is killed leaves at most one torn line, the last one. ``--resume``
removes this line and those of failures, and skips the items of all other lines, so that the file has one
line for each item. Items are told apart by their JSON, so the input may grow or change its order.

The first line that a run writes to a file also has what the run calls, so that ``--resume`` does not mix
the results of two functions.
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

import attrs

from spear._error_objects import error_object
from spear._errors import ConfigurationError, RemoteProtocolError, SpearError
from spear._json import dump_json, load_json
from spear._targets import split_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spear.calls import Result

DIGEST_BYTES: Final = 16
"""Bytes that are kept of each item that an earlier run has done."""

ARGUMENTS_BYTES: Final = 4
"""Bytes that an output keeps of the shared arguments: too few to find out what they were."""


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


@final
@attrs.frozen
class CalledFunction:
    """The properties that all calls of a run have in common.

    Attributes:
        name: the program's file or module, without its directory, and the function.
        arguments: a digest of the shared arguments, which may be secret.
        keywords: the names of the shared arguments.
    """

    name: str
    arguments: str
    keywords: frozenset[str]

    @classmethod
    def of(
        cls, target: str, function: str, keywords: dict[str, object], *, unpack: bool
    ) -> CalledFunction:
        """Return the record of a command line."""
        shared = [unpack, sorted(keywords.items())]
        program = os.path.basename(split_target(target)[0].rstrip(os.sep))
        digest = _digest(shared)[:ARGUMENTS_BYTES].hex()
        return cls(f"{program}:{function}", digest, frozenset(keywords))

    def added_to(self, line: bytes) -> bytes:
        """Return a line of an item with this record."""
        text = dump_json({"function": self.name, "arguments": self.arguments})
        return line[: -len(b"}\n")] + _encode(f', "call": {text}}}\n')

    def expect_same(self, found: object, path: str) -> None:
        """Raise ConfigurationError if the record in a line is that of other calls."""
        match found:
            case {"function": str(name), "arguments": str(arguments)}:
                if name != self.name:
                    raise ConfigurationError(
                        f"{path} has results of {name}, not of {self.name}: choose another file, or "
                        "replace it with --overwrite"
                    )
                if arguments != self.arguments:
                    raise ConfigurationError(
                        f"{path} has results of {name} with other arguments, or with and without "
                        "--starmap: repeat them, choose another file, or replace it with --overwrite"
                    )


@final
@attrs.frozen
class OpenedOutput:
    """A file for the lines of a run.

    Attributes:
        path: the file's name, for messages.
        descriptor: the open file; None for standard output.
        done: the items that an earlier run has done.
        replaces: whether the first line replaces the content.
        is_new: whether the file was made for this run.
    """

    path: str = "standard output"
    descriptor: int | None = None
    done: DoneItems = attrs.Factory(DoneItems)
    replaces: bool = False
    is_new: bool = False

    def remove_if_unused(self) -> None:
        """Remove the file if this run made it and wrote no line. Must precede the closing of the file."""
        if self.is_new and self.descriptor is not None and not os.fstat(self.descriptor).st_size:
            with suppress(OSError):
                os.unlink(self.path)


def open_output(
    path: str, called: CalledFunction, *, resume: bool, overwrite: bool
) -> OpenedOutput:
    """Open a file for the lines of a run.

    Raises:
        ConfigurationError: the file cannot be opened, has content that would be lost, was not written by
            this command, is in use by another run, or has results of other calls.
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
            return OpenedOutput(path, os.open(path, os.O_WRONLY), done)
        descriptor = _open_alone(path)
        try:
            if resume:
                descriptor = _resume(path, descriptor, done, called)
            elif os.fstat(descriptor).st_size and not overwrite:
                raise ConfigurationError(
                    f"{path} exists: continue it with --resume, or replace it with --overwrite"
                )
        except BaseException:
            os.close(descriptor)
            raise
    except FileNotFoundError:
        place = os.path.dirname(path)
        raise ConfigurationError(f"cannot write to {path}: there is no directory {place}") from None
    except OSError as error:
        raise ConfigurationError(f"cannot write to {path}: {error.strerror}") from error
    return OpenedOutput(path, descriptor, done, replaces=overwrite, is_new=found is None)


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


def _resume(path: str, descriptor: int, done: DoneItems, called: CalledFunction) -> int:
    """Read the lines of an earlier run, and remove failures and torn lines; return the open file."""
    with open(descriptor, "rb", closefd=False) as file:
        has_failures, end = False, 0
        for line, is_result in _lines(file, path, called):
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


def _lines(
    file: BinaryIO, path: str, called: CalledFunction | None = None
) -> Iterator[tuple[bytes, tuple[object] | None]]:
    """Yield whole lines, each with its item if the line has a result."""
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            return  # torn: the run was killed
        try:
            value = load_json(line)
        except (ValueError, RecursionError):
            value = None
        if called is not None and isinstance(value, dict):
            called.expect_same(value.get("call"), path)
        match value:
            case {"index": int(), "item": item, "result": _}:
                yield line, (item,)
            case {"index": int(), "item": _, "error": _}:
                yield line, None
            case _:
                raise ConfigurationError(
                    f"line {number} of {path} was not written by spear map: choose another file"
                )
