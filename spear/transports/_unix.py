"""Unix sockets to which only processes of this user can connect.

Two barriers protect a listener, and each suffices alone (containerd's CVE-2020-15257 had neither). The
directory has the mode 0700 and belongs to this user, and the socket has the mode 0600 from its creation.
Abstract sockets, which have no permissions, cannot be named by a ``UnixAddress``.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, final, overload

import trio

from spear._errors import CannotListen, ChannelBroken, ConfigurationError
from spear._limits import DEFAULT_WIRE_LIMITS

from ._abc import ByteStream
from ._addresses import Reach, UnixAddress, parse_unix_address
from ._connecting import connecting_to
from ._socket_stream import LISTEN_BACKLOG, SocketListener, SocketStream
from ._transport import ConnectOptions, ListenOptions, Opening, Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._addresses import Address
    from ._private_directory import StrPath

AnyStream = TypeVar("AnyStream", bound=ByteStream)

_PRIVATE_SOCKET_MODE: Final = 0o600

_FIRST_RETRY_SECONDS: Final = 0.001
_LONGEST_RETRY_SECONDS: Final = 0.05


@final
class UnixTransport(Transport):
    """A transport over Unix sockets in a private directory. The kernel identifies the peer's process."""

    name = "unix"
    farthest = Reach.MACHINE

    def parse(self, address: str) -> UnixAddress:
        """Parse ``unix:/path``. Raises ConfigurationError."""
        return parse_unix_address(address)

    def listen(self, options: ListenOptions) -> Opening[SocketListener]:
        """Listen while the block runs; see :func:`open_unix_listener`."""
        return Opening(self._listen, options)

    async def _listen(self, options: ListenOptions) -> SocketListener:
        await trio.lowlevel.checkpoint()
        address = options.address or UnixAddress(f"{options.get_directory()}/{options.name}.sock")
        return open_unix_listener(_own(address).path)

    def connect(self, address: Address, options: ConnectOptions) -> Opening[SocketStream]:
        """Keep a connection open while the block runs; see :func:`connect_unix`."""
        return Opening(self._connect, _own(address).path, options.seconds)

    async def _connect(self, path: str, seconds: float) -> SocketStream:
        return await connect_unix(path, seconds=seconds)


def _own(address: Address) -> UnixAddress:
    if not isinstance(address, UnixAddress):
        raise ConfigurationError(f"{address} is not the address of a Unix socket: use unix:/path")
    return address


def open_unix_listener(
    path: StrPath,
    *,
    bound: Address | None = None,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    make_stream: Callable[[socket.socket], ByteStream] = SocketStream,
) -> SocketListener:
    """Open a listener at ``path``, in a directory that must be private; the socket has the mode 0600.

    The socket file is removed when the listener is closed.

    Args:
        path: the path of the socket file.
        bound: the listener's address, if it is not an address of :class:`UnixTransport`.
        kind: the type of the socket.
        make_stream: makes a stream of an accepted socket of that type.

    Raises:
        ConfigurationError: the path is too long or taken, or the directory is not private.
    """
    from ._private_directory import check_private_directory  # not needed for connecting

    address = UnixAddress(os.fspath(path))
    check_private_directory(os.path.dirname(address.path))
    sock, identity = _bind_private_socket(address.path, kind)
    on_close = partial(_unlink_socket, address.path, identity)
    return SocketListener(sock, bound or address, on_close=on_close, make_stream=make_stream)


def _bind_private_socket(
    path: str, kind: socket.SocketKind = socket.SOCK_STREAM
) -> tuple[socket.socket, tuple[int, int]]:
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        # Linux gives the file the mode of the unbound socket, less the umask. The usual way, a
        # umask of 0177 around bind, affects the whole process: a process started by another thread at
        # this moment would keep this umask. A chmod after bind leaves a gap.
        os.fchmod(sock.fileno(), _PRIVATE_SOCKET_MODE)
        sock.bind(path)
        found = os.stat(path, follow_symlinks=False)
        if stat.S_IMODE(found.st_mode) & ~_PRIVATE_SOCKET_MODE:
            os.unlink(path)
            raise ConfigurationError(f"this system ignores the mode 0600 of the socket {path}")
        sock.listen(LISTEN_BACKLOG)
    except OSError as exc:
        sock.close()
        raise CannotListen("unix", f"cannot listen at {path}: {exc.strerror}") from exc
    except BaseException:
        sock.close()
        raise
    return sock, (found.st_dev, found.st_ino)


def _unlink_socket(path: str, identity: tuple[int, int]) -> None:
    # Only the file of this listener: a successor may already have bound the same path.
    with suppress(OSError):
        found = os.stat(path, follow_symlinks=False)
        if (found.st_dev, found.st_ino) == identity:
            os.unlink(path)


@overload
async def connect_unix(path: StrPath, *, seconds: float = ...) -> SocketStream: ...
@overload
async def connect_unix(
    path: StrPath,
    *,
    seconds: float = ...,
    kind: socket.SocketKind,
    make_stream: Callable[[socket.socket], AnyStream],
) -> AnyStream: ...
async def connect_unix(
    path: StrPath,
    *,
    seconds: float = DEFAULT_WIRE_LIMITS.connect_seconds,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    make_stream: Callable[[socket.socket], ByteStream] = SocketStream,
) -> ByteStream:
    """Connect to the Unix socket at ``path``.

    Cancellation leaves no socket open.

    Args:
        path: the path of the socket file.
        seconds: the time limit.
        kind: the type of the socket.
        make_stream: makes a stream of a connected socket of that type.

    Raises:
        ChannelBroken: no program listens there (then its code is ``no_listener``), the permissions forbid
            it, or the listener's queue stayed full for ``seconds``.
        ConfigurationError: the path is invalid for a socket.
    """
    address = UnixAddress(os.fspath(path))
    with connecting_to(address, seconds):
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.setblocking(False)
            await _connect(sock, address.path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            sock.close()
            raise ChannelBroken(
                f"cannot connect to {address}: {error.strerror}", code="no_listener"
            ) from error
        except BaseException:
            sock.close()
            raise
        return make_stream(sock)


async def _connect(sock: socket.socket, path: str) -> None:
    # While the listener's queue is full, connect() fails with EAGAIN, and no event reports a free
    # slot. (Trio 0.35 takes this EAGAIN for "in progress", finds the unconnected socket writable and
    # reports success; the first send then fails with ENOTCONN.)
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
