"""Directories that only our user can enter, for sockets that only our user may reach."""

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
    """A new directory that only we can enter; removed with its files when the block is left.

    Directories that killed processes have left beside it are removed first.

    Args:
        parent: where to make it; by default ``$XDG_RUNTIME_DIR`` if that can be used, or else the
            system's temporary directory. Keep it short: a socket's whole path has at most 107 bytes.

    Raises:
        ConfigurationError: others could replace a directory in ``parent``, or we may not write
            there.
    """
    parent = absolute(_default_parent() if parent is None else os.fspath(parent))
    _check_parent(parent)
    with suppress(OSError):  # we may make a directory there, but not look
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
    """Make sure that only our user can enter or replace the directory ``path``.

    Raises:
        ConfigurationError: it is missing, a symbolic link, someone else's, or open to others.
    """
    path = os.fspath(path)
    found = _status(path, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        raise ConfigurationError(f"{path} is a symbolic link: name the directory itself")
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"{path} is not a directory")
    if found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{path} belongs to uid {found.st_uid}, not to us ({os.geteuid()})"
        )
    if mode := stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigurationError(f"{path} is open to others (by {mode:#o}): chmod it to 0700")


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
        raise ConfigurationError(f"{path} belongs to uid {found.st_uid}, neither root nor us")
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise ConfigurationError(f"{path} is writable by others and not sticky: use another parent")


def _status(path: str, *, follow_symlinks: bool) -> os.stat_result:
    try:
        return os.stat(path, follow_symlinks=follow_symlinks)
    except OSError as exc:
        raise ConfigurationError(f"cannot use {path}: {exc.strerror}") from exc


def _remove(directory: OwnedDirectory) -> None:
    # Best effort: what cannot be removed (a file that is gone already, a directory that someone
    # of our own user made inside) must not hide the exception that ends the block.
    if directory.is_in_place():
        with suppress(OSError):
            for entry in os.listdir(directory.path):
                with suppress(OSError):
                    os.unlink(os.path.join(directory.path, entry))
            os.rmdir(directory.path)
    directory.release()
