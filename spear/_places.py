"""The control sockets of hosts: all in one directory, which belongs to the user alone.

Host and clients both use this module, so it imports nothing that loads slowly.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

from spear._errors import ConfigurationError, NoHost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

DEFAULT_NAME: Final = "default"
SUFFIX: Final = ".sock"

CONNECT_SECONDS: Final = 5.0
"""Seconds that a host has to accept a connection, its TLS handshake included."""


def directory() -> str:
    """Return the directory of the sockets; it need not exist."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        with suppress(OSError):
            if os.stat(runtime).st_uid == os.geteuid():  # after su, it may be another user's
                return os.path.join(runtime, "spear")
    temporary = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  # the directory in it is checked
    return os.path.join(temporary, f"spear-{os.geteuid()}")


def socket_path(name: str) -> str:
    """Return the path of the socket of the host with this name."""
    return os.path.join(directory(), f"{name}{SUFFIX}")


def check_directory(path: str) -> None:
    """Check that only this user can create sockets in a directory.

    Raises:
        ConfigurationError: another user could.
        FileNotFoundError: the directory does not exist.
    """
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigurationError(
            f"{path} must be a directory that only this user can write to: otherwise another user could "
            "listen there"
        )


def is_alive(path: str) -> bool:
    """Return whether a process listens at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_SECONDS)
        try:
            probe.connect(path)
        except (BlockingIOError, TimeoutError):
            return True  # its backlog is full: it is busy
        except OSError:
            return False
    return True


def running() -> list[str]:
    """Return the names of this user's running hosts."""
    place = directory()
    try:
        check_directory(place)
        found = sorted(each for each in os.listdir(place) if each.endswith(SUFFIX))
    except FileNotFoundError:
        return []
    return [each.removesuffix(SUFFIX) for each in found if is_alive(os.path.join(place, each))]


def find(name: str | None) -> str:
    """Return the socket of the named host, or by default of the only one (or the one named "default").

    Raises:
        NoHost: there is no such host, or there are several.
        ConfigurationError: the directory belongs to another user, or others can write to it.
    """
    if name is None:
        names = running()
        if not names:
            raise NoHost("no spearlet runs here: start one with `spear serve FILE.py`")
        if len(names) > 1 and DEFAULT_NAME not in names:
            raise NoHost(
                f"{len(names)} spearlets run here: choose one with --host {' or --host '.join(names)}"
            )
        name = names[0] if len(names) == 1 else DEFAULT_NAME
    path = socket_path(name)
    try:
        check_directory(os.path.dirname(path))
    except FileNotFoundError:
        raise _missing(name) from None
    if not os.path.exists(path):
        raise _missing(name)
    return path


def _missing(name: str) -> NoHost:
    others = running()
    start = f"start it with `spear serve --name {name} FILE.py`"
    here = f"running spearlets: {', '.join(others)}" if others else start
    return NoHost(f"no spearlet named {name!r} runs here; {here}")
