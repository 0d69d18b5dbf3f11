"""Unix sockets that only we can reach: a socket born private in a private directory; and a connect.

Two barriers, each sufficient alone (containerd's CVE-2020-15257 had neither): the directory is
0700 and ours, and the socket is 0600 from its first moment. Abstract sockets, which have no
permissions, cannot be named by a ``UnixAddress``.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from spear._errors import CannotListen, ConfigurationError
from spear._limits import DEFAULT_WIRE_LIMITS, WireLimits

from ._addresses import UnixAddress
from ._connecting import connecting_to
from ._socket_stream import LISTEN_BACKLOG, SocketListener, SocketStream

if TYPE_CHECKING:
    from ._private_directory import StrPath

_PRIVATE_SOCKET_MODE: Final = 0o600

_FIRST_RETRY_SECONDS: Final = 0.001
_LONGEST_RETRY_SECONDS: Final = 0.05


def open_unix_listener(path: StrPath) -> SocketListener:
    """A listener at ``path``, in a directory that must be private; its socket is born 0600.

    The socket file is removed when the listener is closed.

    Raises:
        ConfigurationError: the path is too long or taken, or the directory is not private.
    """
    from ._private_directory import check_private_directory  # who only connects does without

    address = UnixAddress(os.fspath(path))
    check_private_directory(os.path.dirname(address.path))
    sock, identity = _bind_private_socket(address.path)
    return SocketListener(sock, address, on_close=partial(_unlink_socket, address.path, identity))


def _bind_private_socket(path: str) -> tuple[socket.socket, tuple[int, int]]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the file the mode of the unbound socket, less the umask. The usual way, a
        # umask of 0177 around bind, is process-wide: a process that a worker thread starts at that
        # moment would keep this umask for ever. A chmod after bind leaves a gap.
        os.fchmod(sock.fileno(), _PRIVATE_SOCKET_MODE)
        sock.bind(path)
        found = os.stat(path, follow_symlinks=False)
        if stat.S_IMODE(found.st_mode) & ~_PRIVATE_SOCKET_MODE:
            os.unlink(path)
            raise ConfigurationError(f"this system cannot make {path} private")
        sock.listen(LISTEN_BACKLOG)
    except OSError as exc:
        sock.close()
        raise CannotListen("unix", f"cannot listen at {path}: {exc.strerror}") from exc
    except BaseException:
        sock.close()
        raise
    return sock, (found.st_dev, found.st_ino)


def _unlink_socket(path: str, identity: tuple[int, int]) -> None:
    # Only our own file: a successor may already have bound the same path.
    with suppress(OSError):
        found = os.stat(path, follow_symlinks=False)
        if (found.st_dev, found.st_ino) == identity:
            os.unlink(path)


async def connect_unix(path: StrPath, *, limits: WireLimits = DEFAULT_WIRE_LIMITS) -> SocketStream:
    """A connection to the Unix socket at ``path``.

    If cancelled, nothing stays open.

    Raises:
        ChannelBroken: nobody listens there, we may not connect, or the listener's queue stayed
            full for ``limits.connect_seconds``.
        ConfigurationError: the path cannot be a socket's.
    """
    address = UnixAddress(os.fspath(path))
    with connecting_to(address, limits):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await _connect(sock, address.path)
        except BaseException:
            sock.close()
            raise
        return SocketStream(sock)


async def _connect(sock: socket.socket, path: str) -> None:
    # While the listener's queue is full, connect() says EAGAIN, and there is nothing to wait for
    # but time. (Trio 0.35 takes that EAGAIN for "in progress", finds the unconnected socket
    # writable and reports success; the first send then fails with ENOTCONN.)
    pause = _FIRST_RETRY_SECONDS
    await trio.lowlevel.checkpoint()
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)
        else:
            return
