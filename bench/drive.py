"""The measuring loops. All figures of calls, streams and starts come from one of these.

Rules of the loops for calls: replies to many different payloads are checked before the clock starts and
again after it stopped; only calls that completed inside the window count; a warm-up comes first; the
garbage collector is settled just before. An error in a call ends the measurement: no loop catches
exceptions.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol

import attrs
import trio

from bench.model import BenchError, Effort, Figure, Pattern, Sample, Workload, WrongAnswer
from bench.process import cpu_seconds, settle_gc

Reply = bytes | bytearray | memoryview
Call = Callable[[bytes], Awaitable[Reply]]
BlockingCall = Callable[[bytes], Reply]

_MIN_STARTS = 5
_PAUSE_SECONDS = 0.3
"""Pause before each start: cold starts are rare, so a system has time to prepare for the next one."""

_STAMP_BYTES = 8
_STREAM_CHECKED_ITEMS = 1_000
_STREAM_ITEMS_PER_LOOK = 256


class Future(Protocol):
    """The part of the interface of concurrent.futures.Future that `futures` needs."""

    def result(self) -> Reply: ...


# --- payloads and their checks --------------------------------------------------------------------


def payload(size: int, number: int = 0) -> bytes:
    """Return `size` incompressible bytes, different for each `number`."""
    return (number.to_bytes(_STAMP_BYTES, "big") + _filler(size))[:size]


@functools.cache
def _filler(size: int) -> bytes:
    block = random.Random(size).randbytes(min(size, 1 << 20))
    return (block * (size // max(len(block), 1) + 1))[:size]


def _payloads(load: Workload) -> list[bytes]:
    return [payload(load.size, number) for number in range(1, load.count + 1)]


def _check(sent: bytes, reply: Reply) -> None:
    if bytes(reply) != sent:
        raise WrongAnswer(f"sent {len(sent)} bytes, received {len(reply)} different bytes")


# --- clocks ---------------------------------------------------------------------------------------


@attrs.frozen
class _Reading:
    at: float
    client_cpu: float
    server_cpu: float
    completed: int


@attrs.define
class _Tally:
    """A counter of completed calls, read at the start and at the end of the window."""

    server_pids: Sequence[int]
    completed: int = 0
    stopping: bool = False

    def read(self) -> _Reading:
        return _Reading(
            at=time.perf_counter(),
            client_cpu=time.process_time(),
            server_cpu=sum(map(cpu_seconds, self.server_pids)),
            completed=self.completed,
        )


def _rates(before: _Reading, after: _Reading) -> Sample:
    completed = after.completed - before.completed
    if completed < 1:
        raise BenchError("no call completed within the measuring window")
    client = (after.client_cpu - before.client_cpu) / completed * 1e6
    server = (after.server_cpu - before.server_cpu) / completed * 1e6
    return {
        Figure.RATE: completed / (after.at - before.at),
        Figure.CLIENT_CPU: client,
        Figure.SERVER_CPU: server,
        Figure.CPU: client + server,
    }


def _latencies(seconds: list[float]) -> Sample:
    seconds.sort()
    return {
        Figure.P50: seconds[len(seconds) // 2] * 1e6,
        Figure.P99: seconds[len(seconds) * 99 // 100] * 1e6,
    }


# --- one call after another -----------------------------------------------------------------------


def _repeat_blocking(call: BlockingCall, sent: bytes, seconds: float) -> list[float]:
    times: list[float] = []
    now, size = time.perf_counter, len(sent)
    begun = now()
    end = begun + seconds
    while begun < end:
        reply = call(sent)
        times.append(now() - begun)
        if len(reply) != size:
            raise WrongAnswer(f"sent {size} bytes, got {len(reply)}")
        begun = now()
    return times


async def _repeat(call: Call, sent: bytes, seconds: float) -> list[float]:
    times: list[float] = []
    now, size = time.perf_counter, len(sent)
    begun = now()
    end = begun + seconds
    while begun < end:
        reply = await call(sent)
        times.append(now() - begun)
        if len(reply) != size:
            raise WrongAnswer(f"sent {size} bytes, got {len(reply)}")
        begun = now()
    return times


def blocking(
    call: BlockingCall, load: Workload, effort: Effort, server_pids: Sequence[int]
) -> Sample:
    """Measure a blocking call, one after another."""
    sent = payload(load.size)
    _check(sent, call(sent))
    sample = repeated(functools.partial(_repeat_blocking, call, sent), effort, server_pids)
    other = payload(load.size, 1)
    _check(other, call(other))
    return sample


def repeated(
    run_for: Callable[[float], list[float]], effort: Effort, server_pids: Sequence[int]
) -> Sample:
    """Measure `run_for(seconds)`, which makes calls for that time and returns how long each took.

    `run_for` must check the replies itself.
    """
    settle_gc()
    run_for(effort.warmup_seconds)
    tally = _Tally(server_pids)
    before = tally.read()
    times = run_for(effort.seconds)
    tally.completed = len(times)
    return _rates(before, tally.read()) | _latencies(times)


async def _sequential(
    call: Call, load: Workload, effort: Effort, server_pids: Sequence[int]
) -> Sample:
    """Measure an async call, one after another; works in any event loop."""
    sent = payload(load.size)
    _check(sent, await call(sent))
    settle_gc()
    await _repeat(call, sent, effort.warmup_seconds)
    tally = _Tally(server_pids)
    before = tally.read()
    times = await _repeat(call, sent, effort.seconds)
    tally.completed = len(times)
    after = tally.read()
    other = payload(load.size, 1)
    _check(other, await call(other))
    return _rates(before, after) | _latencies(times)


# --- many calls in flight -------------------------------------------------------------------------


async def _caller(call: Call, sent: bytes, tally: _Tally) -> None:
    size = len(sent)
    reply: Reply = sent
    while not tally.stopping:
        reply = await call(sent)
        if len(reply) != size:
            raise WrongAnswer(f"sent {size} bytes, got {len(reply)}")
        tally.completed += 1
    _check(sent, reply)


async def _checked_call(call: Call, sent: bytes) -> None:
    _check(sent, await call(sent))


async def with_trio(
    call: Call, load: Workload, effort: Effort, server_pids: Sequence[int]
) -> Sample:
    """Measure a Trio call, sequential or pipelined depending on the load."""
    if load.kind in (Pattern.SEQUENTIAL, Pattern.HANDOVER, Pattern.ARRAYS):
        return await _sequential(call, load, effort, server_pids)

    async def check_all() -> None:
        async with trio.open_nursery() as nursery:
            for sent in _payloads(load):
                nursery.start_soon(_checked_call, call, sent)

    await check_all()
    settle_gc()
    tally = _Tally(server_pids)
    shared = payload(load.size)
    async with trio.open_nursery() as nursery:
        for _ in range(load.count):
            nursery.start_soon(_caller, call, shared, tally)
        await trio.sleep(effort.warmup_seconds)
        before = tally.read()
        await trio.sleep(effort.seconds)
        after = tally.read()
        tally.stopping = True
    await check_all()
    return _rates(before, after)


async def with_asyncio(
    call: Call, load: Workload, effort: Effort, server_pids: Sequence[int]
) -> Sample:
    """Measure an asyncio call, sequential or pipelined depending on the load."""
    if load.kind is Pattern.SEQUENTIAL:
        return await _sequential(call, load, effort, server_pids)

    async def check_all() -> None:
        async with asyncio.TaskGroup() as group:
            for sent in _payloads(load):
                group.create_task(_checked_call(call, sent))

    await check_all()
    settle_gc()
    tally = _Tally(server_pids)
    shared = payload(load.size)
    async with asyncio.TaskGroup() as group:
        for _ in range(load.count):
            group.create_task(_caller(call, shared, tally))
        await asyncio.sleep(effort.warmup_seconds)
        before = tally.read()
        await asyncio.sleep(effort.seconds)
        after = tally.read()
        tally.stopping = True
    await check_all()
    return _rates(before, after)


def futures(
    submit: Callable[[bytes], Future], load: Workload, effort: Effort, server_pids: Sequence[int]
) -> Sample:
    """Measure calls that return futures, sequential or with a window of futures in flight."""
    if load.kind is Pattern.SEQUENTIAL:
        return blocking(lambda sent: submit(sent).result(), load, effort, server_pids)

    def check_all() -> None:
        started = [(sent, submit(sent)) for sent in _payloads(load)]
        for sent, future in started:
            _check(sent, future.result())

    check_all()
    settle_gc()
    tally = _Tally(server_pids)
    shared = payload(load.size)
    window = deque(submit(shared) for _ in range(load.count))

    def run_for(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            if len(window.popleft().result()) != load.size:
                raise WrongAnswer("a reply has the wrong length")
            tally.completed += 1
            window.append(submit(shared))

    run_for(effort.warmup_seconds)
    before = tally.read()
    run_for(effort.seconds)
    after = tally.read()
    for future in window:
        _check(shared, future.result())
    check_all()
    return _rates(before, after)


# --- one-way streams ------------------------------------------------------------------------------


def stream_item(size: int, number: int) -> bytes:
    """Return item `number` of the stream that `stream_with_trio` expects: a counter, then filler.

    A sender may neither prepare items ahead nor send one twice: the last item's number is checked.
    """
    return number.to_bytes(_STAMP_BYTES, "big") + b"." * (size - _STAMP_BYTES)


async def stream_with_trio(
    items: AsyncIterable[Reply], load: Workload, effort: Effort, server_pids: Sequence[int]
) -> Sample:
    """Measure how fast the items of a stream reach `async for` in this process.

    The first items are compared in full. Each item carries its number, so the last item proves that all
    items before it arrived exactly once.
    """
    tally = _Tally(server_pids)
    started = time.perf_counter()
    before: _Reading | None = None
    number = 0
    async for item in items:
        if number < _STREAM_CHECKED_ITEMS:
            _check(stream_item(load.size, number), item)
        number += 1
        if number < _STREAM_CHECKED_ITEMS or number % _STREAM_ITEMS_PER_LOOK:
            continue
        now = time.perf_counter()
        tally.completed = number
        if before is None:
            if now - started >= effort.warmup_seconds:
                settle_gc()
                before = tally.read()
        elif now - before.at >= effort.seconds:
            after = tally.read()
            _check(stream_item(load.size, number - 1), item)
            return _rates(before, after)
    raise BenchError("the stream ended before the measuring window")


# --- starting processes ---------------------------------------------------------------------------


def starts(started: Callable[[], AbstractContextManager[None]], effort: Effort) -> Sample:
    """Measure the time to enter `started()`: from spawning a process to its first answer.

    The time to leave the context, which stops the process, is not counted. Each start follows a pause,
    which is not counted either, and is the same for every system.
    """
    with started():  # warm-up: byte-code caches, page cache
        pass
    times: list[float] = []
    end = time.perf_counter() + effort.seconds
    while len(times) < _MIN_STARTS or time.perf_counter() < end:
        time.sleep(_PAUSE_SECONDS)
        begun = time.perf_counter()
        with started():
            times.append(time.perf_counter() - begun)
    return {Figure.START: sorted(times)[len(times) // 2] * 1e3}


async def starts_with_trio(
    started: Callable[[], AbstractAsyncContextManager[None]], effort: Effort
) -> Sample:
    """Measure the time to enter `started()`, like `starts`, for an async context."""
    async with started():
        pass
    times: list[float] = []
    end = time.perf_counter() + effort.seconds
    while len(times) < _MIN_STARTS or time.perf_counter() < end:
        await trio.sleep(_PAUSE_SECONDS)
        begun = time.perf_counter()
        async with started():
            times.append(time.perf_counter() - begun)
    return {Figure.START: sorted(times)[len(times) // 2] * 1e3}
