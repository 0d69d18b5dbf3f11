"""A naive one-way stream: `send_all` per item, `receive_exactly`, a memory channel."""

from __future__ import annotations

import itertools
import socket

import trio

from bench import drive
from bench.model import Effort, Sample, Workload
from bench.process import connected_pair, inherited_socket, serving

_LENGTH_BYTES = 4
_BUFFERED_ITEMS = 64


def measure(load: Workload, effort: Effort) -> Sample:
    here, there = connected_pair()
    with serving("bench.peers.stream_naive:send", str(load.size), sock=there) as sender:
        return trio.run(_receive, here, load, effort, sender.pid)


async def _receive(sock: socket.socket, load: Workload, effort: Effort, sender_pid: int) -> Sample:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    send_items, items = trio.open_memory_channel[bytes](_BUFFERED_ITEMS)

    async def receive_exactly(size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = await stream.receive_some(size - len(data))
            if not chunk:
                raise EOFError("the sender is gone")
            data += chunk
        return bytes(data)

    async def read() -> None:
        while True:
            size = int.from_bytes(await receive_exactly(_LENGTH_BYTES), "big")
            await send_items.send(await receive_exactly(size))

    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(read)
        sample = await drive.stream_with_trio(items, load, effort, [sender_pid])
        nursery.cancel_scope.cancel()
    return sample


def send(size: str, descriptor: str) -> None:
    trio.run(_send, inherited_socket(descriptor), int(size))


async def _send(sock: socket.socket, size: int) -> None:
    async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
        head = size.to_bytes(_LENGTH_BYTES, "big")
        try:
            for number in itertools.count():
                await stream.send_all(head + drive.stream_item(size, number))
        except trio.BrokenResourceError:
            pass  # the receiver has closed the connection
