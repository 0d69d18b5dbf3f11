"""An RPC as one would write it after the Trio tutorial: clear, correct, and not optimized.

receive_exactly over a SocketStream, a Lock around send_all, a memory channel for each waiting call,
a nursery task for each request, cbor2 for the envelope. The same RPC over `memory_stream_pair` is the
reference for the in-memory channel.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import cbor2
import trio
import trio.testing

from bench import drive
from bench.model import Effort, Sample, Workload
from bench.process import connected_pair, inherited_socket, serving

_LENGTH_BYTES = 4


def measure(load: Workload, effort: Effort) -> Sample:
    here, there = connected_pair()
    with serving("bench.peers.textbook:serve", sock=there) as server:
        return trio.run(_drive_client, _stream(here), load, effort, [server.pid])


def measure_in_memory(load: Workload, effort: Effort) -> Sample:
    return trio.run(_measure_in_memory, load, effort)


async def _measure_in_memory(load: Workload, effort: Effort) -> Sample:
    here, there = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve, there)
        sample = await _drive_client(here, load, effort, [])
        nursery.cancel_scope.cancel()
    return sample


async def _drive_client(
    stream: trio.abc.Stream, load: Workload, effort: Effort, server_pids: list[int]
) -> Sample:
    async with _open_client(stream) as client:
        return await drive.with_trio(client.call, load, effort, server_pids)


def serve(descriptor: str) -> None:
    trio.run(_serve, _stream(inherited_socket(descriptor)))


def _stream(sock: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


class _Connection:
    """A connection that sends and receives whole frames over a byte stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._send_lock = trio.Lock()

    async def send(self, call_id: int, body: bytes) -> None:
        frame = cbor2.dumps([call_id, body])
        async with self._send_lock:
            await self._stream.send_all(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame)

    async def receive(self) -> tuple[int, bytes] | None:
        """Return the next call id and body, or None at the end of the stream."""
        head = await self._receive_exactly(_LENGTH_BYTES)
        if head is None:
            return None
        frame = await self._receive_exactly(int.from_bytes(head, "big"))
        if frame is None:
            return None
        call_id, body = cbor2.loads(frame)
        return call_id, body

    async def _receive_exactly(self, size: int) -> bytes | None:
        data = bytearray()
        while len(data) < size:
            chunk = await self._stream.receive_some(size - len(data))
            if not chunk:
                return None
            data += chunk
        return bytes(data)


class _Client:
    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._waiting: dict[int, trio.MemorySendChannel[bytes]] = {}
        self._last_id = 0

    async def call(self, body: bytes) -> bytes:
        self._last_id += 1
        call_id = self._last_id
        send, receive = trio.open_memory_channel[bytes](1)
        self._waiting[call_id] = send
        try:
            await self._connection.send(call_id, body)
            return await receive.receive()
        finally:
            del self._waiting[call_id]

    async def read_replies(self) -> None:
        while (message := await self._connection.receive()) is not None:
            call_id, body = message
            await self._waiting[call_id].send(body)
        raise EOFError("the server is gone")


@asynccontextmanager
async def _open_client(stream: trio.abc.Stream) -> AsyncIterator[_Client]:
    client = _Client(_Connection(stream))
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(client.read_replies)
        yield client
        nursery.cancel_scope.cancel()


async def _serve(stream: trio.abc.Stream) -> None:
    connection = _Connection(stream)
    async with stream, trio.open_nursery() as nursery:
        while (message := await connection.receive()) is not None:
            nursery.start_soon(connection.send, *message)
