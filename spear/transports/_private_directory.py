"""Directories that only this user can enter, for sockets to which only this user may connect."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from spear._directories import OwnedDirectory, abandoned, temporary_directory
from spear._errors import ConfigurationError
from spear._paths import absolute

if TYPE_CHECKING:
    from collections.abc import Iterator

StrPath: TypeAlias = str | os.PathLike[str]

_KIND: Final = "run"


@contextmanager
def make_private_directory(parent: StrPath | None = None) -> Iterator[str]:
    """Make a directory that only this user can enter; leaving the block removes it with its files.

    Directories in ``parent`` that killed processes have left behind are removed first.

    Args:
        parent: the parent directory; by default ``$XDG_RUNTIME_DIR`` if usable, otherwise the system's
            temporary directory. Keep it short: a socket's whole path has at most 107 bytes.

    Raises:
        ConfigurationError: other users could replace a directory in ``parent``, or this process may not
            write there.
    """
    parent = absolute(_default_parent() if parent is None else os.fspath(parent))
    _check_parent(parent)
    with suppress(OSError):  # parent may be writable, but not readable
        for left_behind in abandoned(parent, _KIND):
            _remove(left_behind)
    try:
        directory = OwnedDirectory.make(parent, _KIND)
    except OSError as exc:
        raise ConfigurationError(f"cannot make a directory in {parent}: {exc.strerror}") from exc
    try:
        check_private_directory(directory.path)
        yield directory.path
    finally:
        _remove(directory)


def check_private_directory(path: StrPath) -> None:
    """Check that only this user can enter or replace the directory ``path``.

    Raises:
        ConfigurationError: the directory is missing, a symbolic link, owned by another user, or
            accessible to others.
    """
    path = os.fspath(path)
    found = _status(path, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        raise ConfigurationError(f"{path} is a symbolic link: use the path of the directory itself")
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"{path} is not a directory")
    if found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{path} belongs to uid {found.st_uid}; this process has uid {os.geteuid()}"
        )
    if mode := stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigurationError(
            f"other users can access {path} (mode bits {mode:#o}): set its mode to 0700 with chmod"
        )


def _default_parent() -> str:
    # After su or sudo the variable may name another user's directory.
    ours = os.environ.get("XDG_RUNTIME_DIR")
    if ours:
        with suppress(ConfigurationError):
            _check_parent(ours)
            return ours
    return temporary_directory()


def _check_parent(path: str) -> None:
    # A user who may rename entries of the parent can replace our directory.
    found = _status(path, follow_symlinks=True)
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"{path} is not a directory")
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(
            f"{path} belongs to uid {found.st_uid}; the owner must be root or uid {os.geteuid()}"
        )
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise ConfigurationError(
            f"other users can write to {path}, which has no sticky bit: use another parent directory"
        )


def _status(path: str, *, follow_symlinks: bool) -> os.stat_result:
    try:
        return os.stat(path, follow_symlinks=follow_symlinks)
    except OSError as exc:
        raise ConfigurationError(f"cannot use {path}: {exc.strerror}") from exc


def _remove(directory: OwnedDirectory) -> None:
    # Best effort: a failed removal (of a file that is already gone, of a directory that another
    # program of this user made inside) must not hide the exception that ends the block.
    if directory.is_in_place():
        with suppress(OSError):
            for entry in os.listdir(directory.path):
                with suppress(OSError):
                    os.unlink(os.path.join(directory.path, entry))
            os.rmdir(directory.path)
    directory.release()
