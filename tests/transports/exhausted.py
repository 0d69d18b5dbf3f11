"""R23 as a program: an accept loop that runs out of file descriptors, in virtual time.

It lowers its own RLIMIT_NOFILE, which is why it is not a test function. What it finds is asserted
here; the test runs it and looks at its exit code.
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
    """Make the process unable to open anything; returns descriptors that can be given back."""
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
        """Let time pass, then say how often the loop has paused, and how many it has accepted."""
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
            # Not once too often: a loop that spins would have counted more.
            assert await after((milliseconds - 1) / 1000) == (pauses, 1)
            await assert_served(established)
            pauses += 1
            assert await after(0.0015) == (pauses, 1)
        await assert_served(established)

        os.close(fillers.pop())
        pauses += 1  # the first client is let in, and for the second there is no room again
        assert await after(1.0) == (pauses, 2)
        streams = [SocketStream(client) for client in clients]
        await assert_served(streams[0])
        streams[0].close()  # both ends: room for both others
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
