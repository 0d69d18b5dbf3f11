"""The control socket's path: created for one host at a time, and cleaned up afterwards."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from spear._errors import ConfigurationError
from spear._forks import close, own
from spear._places import check_directory
from spear._places import directory as usual_directory

ATTEMPTS: Final = 100
"""Maximum number of attempts to lock. One is enough unless another host ends at this very moment."""

PROBE_SECONDS: Final = 1.0
"""Seconds to connect to a socket, which shows whether a process listens there: usually microseconds."""

MAX_PATH_BYTES: Final = 107
"""Longest path of a Unix socket."""


def check_place(path: str) -> None:
    """Raise ConfigurationError if no host can listen at a path: it is too long, or not a socket."""
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        raise ConfigurationError(
            f"{path} is {length} bytes long; at most {MAX_PATH_BYTES} are allowed for a socket: choose "
            "another path with --control-socket"
        )
    if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ConfigurationError(
            f"{path} exists and is not a socket: choose another path with --control-socket"
        )


@contextmanager
def claim(path: str) -> Iterator[None]:
    """Prevent other hosts from listening at a socket's path while the block runs.

    A socket left there by a killed host is removed.

    Raises:
        ConfigurationError: another program listens there, the path exists and is not an abandoned socket,
            or the directory cannot be used.
    """
    check_place(path)
    directory = os.path.dirname(path)
    was_there = os.path.isdir(directory) and directory != usual_directory()
    try:
        lock = own(_lock(path, directory))
    except OSError as error:
        raise ConfigurationError(
            f"cannot use {error.filename or directory}: {error.strerror}; choose another path with "
            "--control-socket"
        ) from error
    try:
        _remove_abandoned(path)
        yield
    finally:
        with suppress(OSError):
            os.unlink(f"{path}.lock")
            if not was_there:
                os.rmdir(directory)  # if it is empty; the next host creates it again
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
            status = os.fstat(lock)
            if not stat.S_ISREG(status.st_mode) or status.st_size:
                os.close(lock)
                raise ConfigurationError(
                    f"{path}.lock is not the lock file of a spearlet: choose another path with "
                    "--control-socket"
                )
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(f"{path}.lock")):
                return lock
        except BlockingIOError:
            os.close(lock)
            name = os.path.basename(path).removesuffix(".sock")
            raise ConfigurationError(
                f"a spearlet already listens at {path}: choose another name than {name!r} with --name"
            ) from None
        except FileNotFoundError:
            pass
        os.close(lock)
    raise ConfigurationError(
        f"cannot lock {path}.lock: the file was removed during each of {ATTEMPTS} attempts"
    )


def _remove_abandoned(path: str) -> None:
    """Remove the socket of a killed host. Raise ConfigurationError if a process listens there."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PROBE_SECONDS)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:  # no process listens there
        os.unlink(path)
        return
    except OSError:  # a socket of another type, or one so busy that connecting times out
        pass
    raise ConfigurationError(
        f"another program listens at {path}: choose another path with --control-socket"
    )
