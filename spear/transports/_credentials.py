"""The process at the other end of a Unix socket. Agents do not load this module."""

from __future__ import annotations

import socket
import struct
from typing import Final, Protocol, final

import attrs

_UCRED: Final = struct.Struct("=iII")


class HasOptions(Protocol):
    """A socket of the standard library or of Trio."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """Return the value of a socket option."""


@final
@attrs.frozen
class PeerCredentials:
    """A description of a Unix socket's peer process, recorded by the kernel at the connect."""

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, sock: HasOptions) -> PeerCredentials:
        """Return the peer of a connected Unix socket. Raises OSError for any other socket."""
        packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return cls(*_UCRED.unpack(packed))
