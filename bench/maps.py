"""A function over many items: a map, and a `ProcessPoolExecutor`, each with two processes.

Short items measure what an item costs beside its function. Items of 10 ms, one of which ends its process,
measure how many results are lost with the process.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import trio

from bench.items import fragile, square
from bench.model import BenchError, Effort, Figure, Pattern, Sample, Workload
from bench.process import die_with, settle_gc
from spear.spearlet import Deployment, open_spearlet

_ITEMS = Path(__file__).with_name("items.py")
_PROCESSES = 2
_CHUNK = 100
_MAX_ROUNDS = 50


async def _timed(run: Callable[[], Awaitable[int]], load: Workload, effort: Effort) -> Sample:
    """Return the fewest milliseconds of a run over all items: other load only adds to it."""
    fewest, end = float("inf"), trio.current_time() + effort.warmup_seconds + effort.seconds
    settle_gc()
    for _ in range(_MAX_ROUNDS):
        begun = time.perf_counter()
        if await run() != sum(square(number) for number in range(load.count)):
            raise BenchError("the sum of the results is wrong")
        fewest = min(fewest, time.perf_counter() - begun)
        if trio.current_time() >= end:
            break
    return {Figure.MAP: fewest * 1e3}


def spear(load: Workload, effort: Effort) -> Sample:
    """Measure `Function.map` of a plain function."""
    return trio.run(_measure_spear, load, effort)


async def _measure_spear(load: Workload, effort: Effort) -> Sample:
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(_ITEMS, replicas=_PROCESSES)
        if load.kind is Pattern.MAP_WITH_DEATH:
            return {Figure.LOST: await _count_lost(deployment, load.count)}

        async def run() -> int:
            total = 0
            async with deployment.square.map(range(load.count)) as results:
                async for result in results:
                    assert isinstance(result, int)
                    total += result
            return total

        return await _timed(run, load, effort)


async def _count_lost(deployment: Deployment, count: int) -> int:
    async with deployment.fragile.map(range(count), on_error="keep") as items:
        return sum([item.error is not None async for item in items])


def process_pool(load: Workload, effort: Effort) -> Sample:
    """Measure `ProcessPoolExecutor.map` with a chunk size that suits short items."""
    with ProcessPoolExecutor(
        max_workers=_PROCESSES,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(),),
    ) as pool:
        list(pool.map(square, range(_PROCESSES * _CHUNK)))  # both have started
        if load.kind is Pattern.MAP_WITH_DEATH:
            lost = 0
            for future in [pool.submit(fragile, number) for number in range(load.count)]:
                try:
                    future.result()
                except BrokenProcessPool:
                    lost += 1
            return {Figure.LOST: lost}

        async def run() -> int:
            return sum(pool.map(square, range(load.count), chunksize=_CHUNK))

        return trio.run(_timed, run, load, effort)


def _start_worker(parent: int) -> None:
    die_with(parent)
    settle_gc()
