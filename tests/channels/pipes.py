"""Pairs of pipes, connected in one process."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from spear import WireLimits
from spear.channels._memory_pipe import MemoryPipe
from spear.channels._pipes import SocketPipe
from spear.channels._stream_pipe import StreamPipe
from spear.transports import SocketStream, memory_stream_pair
from spear.wire import Frame, FrameType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMITS = WireLimits(write_seconds=5)
REQUEST = int(FrameType.EXECUTION_REQUEST)


def socket_streams(send_buffer_bytes: int = 0) -> tuple[SocketStream, SocketStream]:
    """Return two connected streams; the first one's kernel buffer may be tiny."""
    left, right = (SocketStream(each) for each in socket.socketpair())
    if send_buffer_bytes:
        left.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    return left, right


@asynccontextmanager
async def socket_pipes(
    send_buffer_bytes: int = 0,
) -> AsyncIterator[tuple[SocketPipe, SocketPipe]]:
    async with trio.open_nursery() as nursery:
        pipes = [SocketPipe(each, LIMITS, nursery) for each in socket_streams(send_buffer_bytes)]
        for pipe in pipes:
            pipe.receiver.open(lambda *_: True)
        try:
            yield pipes[0], pipes[1]
        finally:
            for pipe in pipes:
                pipe.close()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def stream_pipes() -> AsyncIterator[tuple[StreamPipe, StreamPipe]]:
    async with trio.open_nursery() as nursery:
        pipes = [StreamPipe(each, LIMITS, nursery) for each in memory_stream_pair()]
        for pipe in pipes:
            pipe.receiver.open(lambda *_: True)
        yield pipes[0], pipes[1]
        nursery.cancel_scope.cancel()


def push(pipe: SocketPipe | StreamPipe | MemoryPipe, call_id: int, payload: bytes = b"") -> None:
    pipe.sink.push(REQUEST, 0, call_id, 0, 0, payload)


async def receive(pipe: SocketPipe | StreamPipe | MemoryPipe, count: int) -> list[Frame]:
    frames: list[Frame] = []
    while len(frames) < count:
        frames += await pipe.receive()
        while pipe.receiver is not None and pipe.receiver.paused:
            frames += pipe.receiver.resume()
    return frames
