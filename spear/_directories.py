"""Temporary directories that do not outlive their owner, even if it is killed.

A directory belongs to whoever holds its lock (flock): the process that made it, until it lets go or dies,
however it dies. So a lock that can be had says that the owner is gone; a pid would not, where containers
share a file system. Whoever makes a directory can look for abandoned ones beside it, which then are its
own to remove.

Between its making and its locking a directory looks abandoned, too. If somebody takes it for that, its
maker finds it locked or gone, and makes another.

A leaf: it knows of Spear its errors only.
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
"""One will do, unless others look for abandoned directories all the time."""


def temporary_directory() -> str:
    """Where temporary directories are made: ``$TMPDIR``, or else one of the system's.

    Raises:
        ConfigurationError: none of them can be written to.
    """
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise ConfigurationError(
            "there is no temporary directory that can be written to (disk full, read-only, ulimit -f?): "
            "set TMPDIR to one"
        ) from error


@final
class OwnedDirectory:
    """A directory that is ours alone, until it is released.

    Attributes:
        path: where it is.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = own(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))

    @classmethod
    def make(cls, parent: str, kind: str) -> OwnedDirectory:
        """A new one that only we can enter; ``kind`` is a part of its name.

        Raises:
            OSError: that cannot be.
        """
        for _ in range(ATTEMPTS):
            path = os.path.join(parent, f"spear-{kind}-{os.urandom(6).hex()}")
            os.mkdir(path, 0o700)
            try:
                made = cls(path)
            except FileNotFoundError:
                continue
            except OSError:  # no descriptor is left
                with suppress(OSError):
                    os.rmdir(path)
                raise
            try:
                made._lock()
            except BlockingIOError:
                pass
            except OSError:  # a file system without such locks: nobody can take it from us either
                return made
            else:
                if made.is_in_place():
                    return made
            made.release()
        raise OSError(f"whatever is made in {parent} is taken away")

    def _lock(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_in_place(self) -> bool:
        """Whether it is where it was made, and ours to remove; not in a forked child of its owner."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let go of it: whoever finds what is left of it may remove that."""
        close(self._descriptor)


def abandoned(parent: str, kind: str) -> Iterator[OwnedDirectory]:
    """Those of our user whose owners are gone. Now they are ours: remove and release each."""
    wanted = re.compile(rf"spear-{kind}-[0-9a-f]{{12}}")
    for name in filter(wanted.fullmatch, os.listdir(parent)):
        try:
            found = OwnedDirectory(os.path.join(parent, name))
        except OSError:  # no directory
            continue
        try:
            if os.fstat(found._descriptor).st_uid != os.geteuid():
                raise PermissionError(found.path)
            found._lock()
            if not found.is_in_place():
                raise FileNotFoundError(found.path)
        except OSError:  # another user's, or it has an owner, or somebody else has removed it
            found.release()
        else:
            yield found
