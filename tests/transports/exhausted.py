"""R23 as a program: an accept loop that runs out of file descriptors, in virtual time.

The program lowers its own RLIMIT_NOFILE, so it cannot be a test function. It makes the assertions; the
test runs it and checks the exit status.
"""

from __future__ import annotations

import os
import resource
import socket

import trio
import trio.testing

from spear.transports import (
    Acceptor,
    IncomingConnection,
    SocketStream,
    connect_unix,
    make_private_directory,
    open_unix_listener,
)


async def echo(connection: IncomingConnection) -> None:
    connection.promote()
    async for data in connection.stream:
        await connection.stream.send_all(data)


async def assert_served(stream: SocketStream) -> None:
    await stream.send_all(b"ping")
    assert await stream.receive_some() == b"ping"


def use_up_all_descriptors() -> list[int]:
    """Make the process unable to open anything; return descriptors that can be closed again."""
    unused = os.dup(0)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused + 4, hard))
    fillers = [unused]
    while True:
        try:
            fillers.append(os.dup(0))
        except OSError:
            return fillers


async def check(path: str, clock: trio.testing.MockClock) -> None:
    acceptor = Acceptor()

    async def after(seconds: float) -> tuple[int, int]:
        """Let time pass; return the number of pauses of the loop, and of accepted connections."""
        clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked()
        statistics = acceptor.statistics()
        return statistics.pauses, statistics.accepted

    async with open_unix_listener(path) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(acceptor.serve, listener, echo)
        established = await connect_unix(path)
        await assert_served(established)

        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        fillers = use_up_all_descriptors()
        for client in clients:
            client.connect(path)

        assert await after(0) == (1, 1)
        pauses = 1
        for milliseconds in 10, 20, 40, 80, 160, 320, 640, 1000, 1000:
            # A busy loop would have paused more often.
            assert await after((milliseconds - 1) / 1000) == (pauses, 1)
            await assert_served(established)
            pauses += 1
            assert await after(0.0015) == (pauses, 1)
        await assert_served(established)

        os.close(fillers.pop())
        pauses += 1  # the first client is accepted; then there is no descriptor again
        assert await after(1.0) == (pauses, 2)
        streams = [SocketStream(client) for client in clients]
        await assert_served(streams[0])
        streams[0].close()  # both ends: descriptors for both other clients
        await trio.testing.wait_all_tasks_blocked()
        assert await after(0.01) == (pauses, 4)
        for stream in streams[1:]:
            await assert_served(stream)
            stream.close()
        await assert_served(established)
        established.close()
        await trio.testing.wait_all_tasks_blocked()
        assert acceptor.statistics().open == 0
        assert acceptor.statistics().refused == {}
        nursery.cancel_scope.cancel()
    for each in fillers:
        os.close(each)


if __name__ == "__main__":
    mock_clock = trio.testing.MockClock()
    with make_private_directory() as directory:
        trio.run(check, f"{directory}/socket", mock_clock, clock=mock_clock)
