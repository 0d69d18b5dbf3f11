"""A ping-pong on `trio.lowlevel` alone: the least cost of a round trip through Trio's event loop.

No streams, no framing beyond a known size, no tasks: each side waits for its socket and answers.
"""

from __future__ import annotations

import socket

import trio
from trio.lowlevel import wait_readable, wait_writable

from bench import drive
from bench.model import Effort, Sample, Workload
from bench.process import connected_pair, inherited_socket, serving

_LENGTH_BYTES = 4


def measure(load: Workload, effort: Effort) -> Sample:
    here, there = connected_pair()
    with here, serving("bench.peers.trio_raw:serve", str(load.size), sock=there) as server:
        here.setblocking(False)
        view = memoryview(bytearray(_LENGTH_BYTES + load.size))
        head = load.size.to_bytes(_LENGTH_BYTES, "big")

        async def call(sent: bytes) -> memoryview:
            await _send(here, memoryview(head + sent))
            if not await _receive_exactly(here, view):
                raise EOFError("the server is gone")
            return view[_LENGTH_BYTES:]

        return trio.run(drive.with_trio, call, load, effort, [server.pid])


def serve(size: str, descriptor: str) -> None:
    with inherited_socket(descriptor) as sock:
        trio.run(_serve, sock, int(size))


async def _serve(sock: socket.socket, size: int) -> None:
    sock.setblocking(False)
    frame = memoryview(bytearray(_LENGTH_BYTES + size))
    while await _receive_exactly(sock, frame):
        await _send(sock, frame)


async def _send(sock: socket.socket, data: memoryview) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            await wait_writable(sock)


async def _receive_exactly(sock: socket.socket, view: memoryview) -> bool:
    """Fill `view`, or return False at the end of the stream."""
    while view:
        await wait_readable(sock)
        received = sock.recv_into(view)
        if not received:
            return False
        view = view[received:]
    return True
