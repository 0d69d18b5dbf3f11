"""A guard: kills the instances of a host that has died, even if copies of its descriptors live on.

An instance dies when the last write end of its lifeline is closed, or when anything is written to the
lifeline (see ``_spawn``). If a forked child of the host has copies of the write ends, the write ends stay
open when the host dies. The guard therefore has a copy of each write end, and a pidfd of the host. The
pidfd becomes readable when the host exits, regardless of copies. The guard then writes to all ends.

The host sends the write ends beside messages on a socket. The message ``E`` ends the guard. If the socket
ends without this message, the host is exiting, has executed another program, or has replaced this guard.

A script, run as ``python -I -S _guard_program.py SOCKET PIDFD``, which imports almost no modules.
"""

from __future__ import annotations

import os
import select
import sys

# Not `socket`, which builds enums for some milliseconds.
from _socket import CMSG_SPACE, socket

# Coverage cannot measure this script, which has no site-packages.

MOST_ENDS = 250
"""Most file descriptors beside one message; Linux allows 253."""

INT_BYTES = 4

WORD = b"\xff" * 8
"""Bytes that kill an instance whose lifeline is armed. They are also an invalid bootstrap record for an
instance that still reads its record, and an invalid message for a launcher (see ``_gate``)."""

EXIT_MS = 1000
"""Milliseconds that a host may take from the closing of its file descriptors to its exit."""


def main() -> None:  # pragma: no cover
    """Guard the instances until the host exits or ends the guard."""
    control, host = socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    # Become an orphan: the host's program may wait for any child of its process.
    if os.fork():
        os._exit(0)
    ends: set[int] = set()
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(host, select.POLLIN)
    while True:
        ready = {number for number, _ in poll.poll()}
        if control.fileno() in ready:  # before the pidfd: a message may bring more write ends
            message, more = _receive(control)
            if message == b"E":
                return
            if not message:
                last = select.poll()
                last.register(host, select.POLLIN)
                if last.poll(EXIT_MS):
                    break
                return
            for end in more:
                os.set_blocking(end, False)
                poll.register(end, 0)
                ends.add(end)
        elif host in ready:
            break
        else:  # the read ends are closed: their instances have ended
            for end in ready:
                poll.unregister(end)
                os.close(end)
            ends -= ready
    for end in ends:
        try:
            os.write(end, WORD)
        except OSError:  # the instance has just ended
            continue


def _receive(control: socket) -> tuple[bytes, list[int]]:  # pragma: no cover
    message, ancillary, _, _ = control.recvmsg(1, CMSG_SPACE(MOST_ENDS * INT_BYTES))
    return message, [
        int.from_bytes(data[start : start + INT_BYTES], sys.byteorder)
        for _, _, data in ancillary
        for start in range(0, len(data) - INT_BYTES + 1, INT_BYTES)
    ]


if __name__ == "__main__":  # pragma: no cover
    try:
        main()
    finally:
        os._exit(0)
