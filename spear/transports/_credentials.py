"""Who is at the other end. Only those who accept ask for it, so it is a module of its own."""

from __future__ import annotations

import socket
import struct
from typing import Final, Protocol, final

import attrs

_UCRED: Final = struct.Struct("=iII")


class HasOptions(Protocol):
    """A socket, of the standard library or of Trio."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """As a socket's method."""


@final
@attrs.frozen
class PeerCredentials:
    """Who the kernel says is at the other end of a Unix socket, at the moment it connected."""

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, sock: HasOptions) -> PeerCredentials:
        """What the kernel says of the peer of a connected Unix socket. Raises OSError of any other."""
        packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return cls(*_UCRED.unpack(packed))
