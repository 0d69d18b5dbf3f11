"""Idle connections with naive heartbeats: two Trio tasks per connection.

One task reads and notes the time of the last read. The other sends a heartbeat every few seconds, and
drops a peer that was silent for too long.
"""

from __future__ import annotations

import gc
import math
import os
import random
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import trio

from bench.model import BenchError, Effort, Figure, Pattern, Sample, Workload
from bench.process import allow_descriptors, resident_bytes, serving, settle_gc

_BEAT = bytes(45)  # as long as Spear's heartbeat frame
_WELCOME = b"!"
_SECONDS = {Pattern.IDLE: 5.0, Pattern.IDLE_INSTANCE: 1.0}
"""Seconds between two heartbeats, as in the measurements of Spear."""
_MISSES = 3
_BACKLOG = 1024
_LOGINS_AT_ONCE = 64
_DESCRIPTORS_TO_SPARE = 1000


def measure(load: Workload, effort: Effort) -> Sample:
    amount = int(load.count * (effort.share if load.kind is Pattern.IDLE else 1))
    allowed = allow_descriptors(amount + _DESCRIPTORS_TO_SPARE)
    amount = min(amount, allowed - _DESCRIPTORS_TO_SPARE)
    sample = trio.run(_measure, amount, _SECONDS[load.kind], effort)
    sample[Figure.IDLE_CPU] *= load.count / amount
    return sample


@attrs.define
class _Host:
    """The end that sends the heartbeats."""

    interval: float
    open: int = 0
    beats: int = 0

    async def keep(self, stream: trio.SocketStream) -> None:
        self.open += 1
        heard = trio.current_time()

        async def read() -> None:
            nonlocal heard
            while data := await stream.receive_some():
                heard = trio.current_time()
                self.beats += len(data) // len(_BEAT)
            raise BenchError("a connection was lost")

        await stream.send_all(_WELCOME)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(random.uniform(0, self.interval))
            while trio.current_time() - heard < _MISSES * self.interval + self.interval:
                await stream.send_all(_BEAT)
                await trio.sleep(self.interval)
            raise BenchError("a peer is silent")


async def _measure(amount: int, interval: float, effort: Effort) -> Sample:
    host = _Host(interval)
    with TemporaryDirectory() as directory:
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(f"{directory}/s")
        listener.listen(_BACKLOG)
        with serving("bench.peers.textbook_heartbeats:serve", f"{directory}/s", str(amount)):
            async with trio.open_nursery() as nursery:
                settle_gc()
                before = _resident_bytes()
                serve = trio.serve_listeners
                nursery.start_soon(serve, host.keep, [trio.SocketListener(listener)])
                while host.open < amount:
                    await trio.sleep(0.05)
                await trio.sleep(interval)  # until heartbeats are evenly spread
                memory = (_resident_bytes() - before) / amount
                beats = -host.beats
                cpu, begun = time.process_time(), time.perf_counter()
                await trio.sleep(max(effort.seconds, math.ceil(5 / interval) * interval))
                used, passed = time.process_time() - cpu, time.perf_counter() - begun
                beats += host.beats
                nursery.cancel_scope.cancel()
    return {
        Figure.CHANNEL_MEMORY: memory,
        Figure.HEARTBEAT_CPU: used / beats * 1e6,
        Figure.IDLE_CPU: used / passed * 100,
    }


def _resident_bytes() -> int:
    gc.collect()
    return resident_bytes(os.getpid())


def serve(path: str, amount: str) -> None:
    """Run the other ends of all connections, in one process."""
    allow_descriptors(int(amount) + _DESCRIPTORS_TO_SPARE)
    trio.run(_serve, Path(path), int(amount))


async def _serve(path: Path, amount: int) -> None:
    connecting = trio.CapacityLimiter(_LOGINS_AT_ONCE)

    async def answer() -> None:
        async with connecting:
            stream = await trio.open_unix_socket(path)
            # Wait until accepted: with a full backlog, connecting would seem to succeed.
            if await stream.receive_some(len(_WELCOME)) != _WELCOME:
                raise BenchError("the host has not accepted the connection")
        with suppress(trio.BrokenResourceError):
            async for data in stream:
                await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)  # until this process is stopped
        for _ in range(amount):
            nursery.start_soon(answer)
