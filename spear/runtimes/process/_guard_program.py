"""A guard: kills the instances of a host that has died, even if copies of its descriptors live on.

An instance dies when the last write end of its lifeline is closed, or when anything is written to the
lifeline (see ``_spawn``). A forked child of the host keeps copies of the write ends, and the end
does not come. The guard has a copy of each write end, too, and a pidfd of the host. The pidfd becomes
readable when the host exits, whatever has been copied. Then the guard writes.

The host sends the write ends beside messages on a socket. The message ``E`` ends the guard. If the socket
ends without that message, the host is exiting, has executed another program, or has replaced this guard.

A script, run as ``python -I -S _guard_program.py SOCKET PIDFD``. It imports next to nothing.
"""

from __future__ import annotations

import os
import select
import sys

# Not `socket`, which builds enums for some milliseconds.
from _socket import CMSG_SPACE, socket

# Coverage cannot follow here: there is no site-packages.

MOST_ENDS = 250
"""Descriptors beside one message; Linux allows 253."""

INT_BYTES = 4

WORD = b"\xff" * 8
"""Bytes that kill an instance which has armed its lifeline. An instance that still reads its record from
the lifeline finds the record invalid, and a doorman that waits for its go finds none."""

EXIT_MS = 1000
"""Time that a host may take from the closing of its descriptors to its exit."""


def main() -> None:  # pragma: no cover
    """Guard until the host exits, or wants no guard any more."""
    control, host = socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    # Become an orphan: the program that is the host may wait for any child of its.
    if os.fork():
        os._exit(0)
    ends: set[int] = set()
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(host, select.POLLIN)
    while True:
        ready = {number for number, _ in poll.poll()}
        if control.fileno() in ready:  # first: it may bring more to kill
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
        else:  # the read ends are closed: those instances have ended
            for end in ready:
                poll.unregister(end)
                os.close(end)
            ends -= ready
    for end in ends:
        try:
            os.write(end, WORD)
        except OSError:  # it has ended this very moment
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
