"""How an instance at a breakpoint and its development host talk: a leaf module, which both ends import.

The host listens at a socket, and hands the socket's name to its instances in :data:`VARIABLE`. An
instance connects to it for each ``breakpoint()``. Both ends send JSON objects, one a line, each with one
of these keys:

===========  =============  =========================================================================
sender       key            meaning
===========  =============  =========================================================================
instance     ``place``      the instance waits for a terminal at a breakpoint, ``shop.py:12 in price``
host         ``attached``   a terminal is attached: the debugger may begin
instance     ``text``       output of the debugger
instance     ``prompt``     the debugger waits for a line, with this prompt
host         ``line``       the line, without its end
host         ``detached``   the terminal was detached: go on without a debugger
instance     ``end``        the debugger has ended: ``continued`` or ``quit``
===========  =============  =========================================================================

The socket is in the abstract namespace, so no file is left behind. Both ends check that the other one
belongs to the same user.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

VARIABLE: Final = "SPEAR_BREAKPOINTS"
"""The environment variable with the name of the socket, without its leading NUL."""

MAX_LINE_BYTES: Final = 1 << 20
"""Most bytes of a line of the exchange: a debugger can print a value of any size, which is cut."""

_CREDENTIALS: Final = struct.Struct("3i")


def pid_of_peer(sock: socket.socket) -> int | None:
    """Return the pid of the process at the other end of a Unix socket; None for another user's."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return pid if uid == os.geteuid() else None
