"""A program for a descriptor that the kernel refuses, because too many are in flight.

The kernel exempts root from this limit, so the program changes to another user if it runs as root, and
cannot be a test function. It makes the assertions; the test runs it and checks the exit status.
"""

from __future__ import annotations

import errno
import os
import resource
import socket

import trio

from spear import SharedBuffer
from spear.testing import CHANNEL_CASES  # imports everything before the change of the user
from spear.wire import FrameType, LendingFrame

from .pipes import LIMITS, REQUEST, receive, socket_pipes

NOBODY = 65534
SIZE = 1_000_000


def become_nobody() -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))


def crowd() -> list[socket.socket]:
    """Pass unread descriptors until the kernel refuses more."""
    sockets = [*socket.socketpair()]
    sockets[0].setblocking(False)
    while True:
        try:
            socket.send_fds(sockets[0], [b"x"], [0])
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            return sockets


async def main() -> None:
    assert CHANNEL_CASES
    with SharedBuffer(SIZE) as buffer:
        buffer.view[:3] = b"abc"
        async with socket_pipes() as (pipe, peer):
            for each in (pipe, peer):
                each.segments.agree(LIMITS, trusts=each is peer)
                each.segments.on_lend(is_answer=False)
                each.segments.on_lend(is_answer=True)
            become_nobody()
            sockets = crowd()
            assert pipe.sink.may_lend(buffer)
            pipe.sink.push(REQUEST, 0, 1, 0, 0, b"before")
            pipe.sink.push(REQUEST, 0, 3, 0, 0, buffer)
            pipe.sink.push(REQUEST, 0, 5, 0, 0, b"behind")
            pipe.flush()
            await trio.sleep(0.05)
            assert any(isinstance(each, LendingFrame) for each in pipe._unsent)
            for sock in sockets:
                sock.close()
            lend, *requests = await receive(peer, 4)
            assert lend[0] == FrameType.LEND
            assert [frame[2] for frame in requests] == [1, 3, 5]
            assert bytes(requests[1][6])[:3] == b"abc"


if __name__ == "__main__":
    trio.run(main)
