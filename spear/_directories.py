"""Temporary directories that are removed after their owner has ended, if need be by another process.

A process owns a directory while it holds the directory's lock (flock): until it releases the lock or
dies, in whatever way. So a directory whose lock is free is abandoned. A pid would not show whether the
owner lives, because containers can share a file system without sharing pids. A process that makes a
directory can look for abandoned ones beside it, lock them and remove them.

A new directory looks abandoned until it is locked. If another process locks or removes it at that moment,
the owner makes another one.

A leaf module: it imports only Spear's errors and ``_forks``.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

from spear._errors import ConfigurationError

from ._forks import close, own

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTEMPTS: Final = 100
"""Attempts to make a directory. One is enough unless other processes look for abandoned ones nonstop."""


def temporary_directory() -> str:
    """Return the parent of temporary directories: ``$TMPDIR``, or else one of the system's.

    Raises:
        ConfigurationError: none of them is writable.
    """
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise ConfigurationError(
            "no temporary directory is writable (disk full, read-only, ulimit -f?): set TMPDIR to a "
            "writable directory"
        ) from error


@final
class OwnedDirectory:
    """A directory that belongs to this process until it is released.

    Attributes:
        path: the directory's path.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = own(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))

    @classmethod
    def make(cls, parent: str, kind: str) -> OwnedDirectory:
        """Make and lock a directory that only this user can enter; ``kind`` is a part of its name.

        Raises:
            OSError: the directory cannot be made.
        """
        for _ in range(ATTEMPTS):
            path = os.path.join(parent, f"spear-{kind}-{os.urandom(6).hex()}")
            os.mkdir(path, 0o700)
            try:
                made = cls(path)
            except FileNotFoundError:
                continue
            except OSError:  # this process has no free descriptor
                with suppress(OSError):
                    os.rmdir(path)
                raise
            try:
                made._lock()
            except BlockingIOError:
                pass
            except OSError:  # a file system without such locks: no other process can lock it either
                return made
            else:
                if made.is_in_place():
                    return made
            made.release()
        raise OSError(
            f"no temporary directory could be made in {parent}: other processes removed or locked "
            f"{ATTEMPTS} new ones"
        )

    def _lock(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_in_place(self) -> bool:
        """Return whether the path still leads to this directory; False in a forked child of the owner."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give up the lock: from now on any process may remove the directory if it still exists."""
        close(self._descriptor)


def abandoned(parent: str, kind: str) -> Iterator[OwnedDirectory]:
    """Yield this user's abandoned directories, each of them locked: remove and release each."""
    wanted = re.compile(rf"spear-{kind}-[0-9a-f]{{12}}")
    for name in filter(wanted.fullmatch, os.listdir(parent)):
        try:
            found = OwnedDirectory(os.path.join(parent, name))
        except OSError:  # not a directory, or not there any more
            continue
        try:
            if os.fstat(found._descriptor).st_uid != os.geteuid():
                raise PermissionError(found.path)
            found._lock()
            if not found.is_in_place():
                raise FileNotFoundError(found.path)
        except OSError:  # it is another user's, has an owner, or was removed by another process
            found.release()
        else:
            yield found
