"""An RPC on asyncio, as fast as its public API allows: a Protocol on each side, no streams.

The client has a future per call, the server a task per request. A frame's head is packed by one struct,
the writes of one loop pass are joined into one, and the transport's flow control is obeyed.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

from bench import drive, loops
from bench.model import Effort, Sample, Workload
from bench.process import connected_pair, inherited_socket, serving

_HEAD = struct.Struct(">II")  # length of the body, call id
_BATCH_BYTES = 128 << 10


class _FrameProtocol(asyncio.Protocol):
    """A protocol that sends frames, and passes received frames to `on_frame`."""

    def __init__(self, on_frame: Callable[[int, bytes], None]) -> None:
        self._on_frame = on_frame
        self._chunks: list[bytes] = []  # bytes of the first incomplete frame
        self._have = 0  # number of bytes in _chunks
        self._need = _HEAD.size  # bytes to receive before parsing can go on
        self._unsent: deque[bytes] = deque()
        self._paused = False
        self._transport: asyncio.Transport | None = None
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._have += len(data)
        if self._have < self._need:
            return
        received = b"".join(self._chunks) if len(self._chunks) > 1 else data
        position, available = 0, len(received)
        self._need = _HEAD.size
        while available - position >= _HEAD.size:
            size, call_id = _HEAD.unpack_from(received, position)
            body = position + _HEAD.size
            if body + size > available:
                self._need = _HEAD.size + size
                break
            position = body + size
            self._on_frame(call_id, received[body:position])
        self._chunks = [received[position:]] if position < available else []
        self._have = available - position

    def send(self, call_id: int, body: bytes) -> None:
        if not self._unsent and not self._paused:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(_HEAD.pack(len(body), call_id) + body)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def _flush(self) -> None:
        """Write the frames of this loop pass, but keep the transport's backlog short.

        The transport copies bytes that the socket does not take. Before Python 3.12 it copies its whole
        backlog each time bytes are added.
        """
        assert self._transport is not None
        while self._unsent and not self._paused:
            batch, size = [], 0
            while self._unsent and size < _BATCH_BYTES:
                frame = self._unsent.popleft()
                batch.append(frame)
                size += len(frame)
            self._transport.write(b"".join(batch))


def measure(load: Workload, effort: Effort) -> Sample:
    """Measure the event loop of the standard library."""
    return loops.run(_measure(load, effort, loops.ASYNCIO), loops.ASYNCIO)


def measure_uvloop(load: Workload, effort: Effort) -> Sample:
    """Measure uvloop at both ends."""
    return loops.run(_measure(load, effort, loops.UVLOOP), loops.UVLOOP)


async def _measure(load: Workload, effort: Effort, kind: str) -> Sample:
    here, there = connected_pair()
    with serving("bench.peers.asyncio_protocol:serve", kind, sock=there) as server:
        loop = asyncio.get_running_loop()
        waiting: dict[int, asyncio.Future[bytes]] = {}
        last_id = 0

        def on_reply(call_id: int, body: bytes) -> None:
            waiting.pop(call_id).set_result(body)

        transport, protocol = await loop.create_unix_connection(
            lambda: _FrameProtocol(on_reply), sock=here
        )

        async def call(body: bytes) -> bytes:
            nonlocal last_id
            last_id += 1
            reply: asyncio.Future[bytes] = loop.create_future()
            waiting[last_id] = reply
            protocol.send(last_id, body)
            return await reply

        sample = await drive.with_asyncio(call, load, effort, [server.pid])
        transport.close()
        return sample


def serve(kind: str, descriptor: str) -> None:
    loops.run(_serve(descriptor), kind)


async def _serve(descriptor: str) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def handle(call_id: int, body: bytes) -> None:
        protocol.send(call_id, body)

    def on_request(call_id: int, body: bytes) -> None:
        task = loop.create_task(handle(call_id, body))
        tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(tasks.discard)

    _, protocol = await loop.create_unix_connection(
        lambda: _FrameProtocol(on_request), sock=inherited_socket(descriptor)
    )
    await protocol.closed
