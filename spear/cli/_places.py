"""Where hosts can be found: each listens at a socket in one directory, which is its user's alone.

Host and clients agree here, so nothing is imported that takes time.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

from spear._errors import ConfigurationError, SpearError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

DEFAULT_NAME: Final = "default"
SUFFIX: Final = ".sock"

CONNECT_SECONDS: Final = 5.0
"""A host that does not take a connection within this time is not going to."""


class NoHost(SpearError):
    """There is no host, it does not answer, or it is not clear which one is meant."""

    code = "no_host"


class HostLost(SpearError):
    """The host was asked to do something, and has ended or gone silent since: it may have been done."""

    code = "host_lost"
    delivered = "maybe"


def directory() -> str:
    """Where the sockets are. Nobody has to have made it yet."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        with suppress(OSError):
            if os.stat(runtime).st_uid == os.geteuid():  # after su it may be another user's
                return os.path.join(runtime, "spear")
    temporary = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  # the directory in it is checked
    return os.path.join(temporary, f"spear-{os.geteuid()}")


def socket_path(name: str) -> str:
    """Where the host of a name listens."""
    return os.path.join(directory(), f"{name}{SUFFIX}")


def check_directory(path: str) -> None:
    """Make sure that whoever listens in a directory is we.

    Raises:
        ConfigurationError: somebody else could.
        FileNotFoundError: there is no such directory.
    """
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigurationError(
            f"{path} is not a directory of this user alone: what listens in it may be anybody's"
        )


def is_alive(path: str) -> bool:
    """Whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_SECONDS)
        try:
            probe.connect(path)
        except (BlockingIOError, TimeoutError):
            return True  # its queue is full: it is busy
        except OSError:
            return False
    return True


def running() -> list[str]:
    """The names of the hosts that run here."""
    place = directory()
    try:
        check_directory(place)
        found = sorted(each for each in os.listdir(place) if each.endswith(SUFFIX))
    except FileNotFoundError:
        return []
    return [each.removesuffix(SUFFIX) for each in found if is_alive(os.path.join(place, each))]


def find(name: str | None) -> str:
    """The socket of a host: of that name, or of the only one that runs.

    Raises:
        NoHost: there is none, or there are several.
        ConfigurationError: it cannot be trusted.
    """
    if name is None:
        names = running()
        if not names:
            raise NoHost("no spearlet runs here: start one with `spear serve FILE.py`")
        if len(names) > 1 and DEFAULT_NAME not in names:
            raise NoHost(
                f"{len(names)} spearlets run here: say which with --host {' or --host '.join(names)}"
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
    here = f"there is {', '.join(others)}" if others else start
    return NoHost(f"no spearlet named {name!r} runs here; {here}")
