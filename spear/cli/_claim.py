"""The place where a host of a name listens: made, held by one host at a time, and left as it was."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from spear._errors import ConfigurationError
from spear._forks import close, own

from ._places import check_directory
from ._places import directory as usual_directory

ATTEMPTS: Final = 100
"""One will do, unless another host ends at this very moment."""

MAX_PATH_BYTES: Final = 107
"""Of a Unix socket's address."""


def check_length(path: str) -> None:
    """Raise ConfigurationError for what the system does not take as a socket's address."""
    too_many = len(os.fsencode(path)) - MAX_PATH_BYTES
    if too_many > 0:
        raise ConfigurationError(
            f"{path} is too long for a socket, by {too_many} bytes: say another with --control-socket"
        )


@contextmanager
def claim(path: str) -> Iterator[None]:
    """While the block runs, no other host listens at a socket; one that was left there is removed.

    Raises:
        ConfigurationError: another host listens there, or the place cannot be used.
    """
    check_length(path)
    directory = os.path.dirname(path)
    was_there = os.path.isdir(directory) and directory != usual_directory()
    try:
        lock = own(_lock(path, directory))
    except OSError as error:
        raise ConfigurationError(
            f"cannot use {directory}: {error.strerror}; choose another path with --control-socket"
        ) from error
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)  # its host was killed: it would hold the lock
        yield
    finally:
        with suppress(OSError):
            os.unlink(f"{path}.lock")
            if not was_there:
                os.rmdir(directory)  # if it is empty; others make it again
        close(lock)


def _lock(path: str, directory: str) -> int:
    for _ in range(ATTEMPTS):
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        try:
            check_directory(directory)
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # another host has removed it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(f"{path}.lock")):
                return lock
        except BlockingIOError:
            os.close(lock)
            name = os.path.basename(path).removesuffix(".sock")
            raise ConfigurationError(
                f"a spearlet listens at {path} already: call this one something else than {name!r} "
                "with --name"
            ) from None
        except FileNotFoundError:
            pass
        os.close(lock)
    raise ConfigurationError(f"whatever is made in {directory} is taken away")
