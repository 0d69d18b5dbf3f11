"""The cost of hundreds of replicas to their host: per call, and to start, replace and restart them."""

from __future__ import annotations

import os
import signal
import time
from itertools import cycle
from pathlib import Path

import attrs
import trio

from bench import drive
from bench.model import Effort, Figure, Sample, Unavailable, Workload
from bench.process import allow_descriptors, settle_gc
from spear import DeploymentSettings, Scale
from spear.calls import POLICIES, Function, SchedulingPolicy
from spear.spearlet import Deployment, open_spearlet

_FUNCTIONS = Path(__file__).with_name("functions.py")
_IN_FLIGHT = 64
_SESSIONS = 1000
_DESCRIPTORS_PER_INSTANCE = 10
_START_SECONDS = 90.0
_LOOK_SECONDS = 0.005

_FIGURES: dict[SchedulingPolicy, Figure] = {
    "round-robin": Figure.CPU_ROUND_ROBIN,
    "least-loaded": Figure.CPU_LEAST_LOADED,
    "random": Figure.CPU_RANDOM,
    "power-of-two": Figure.CPU_POWER_OF_TWO,
    "sticky": Figure.CPU_STICKY,
}


def calls(load: Workload, effort: Effort) -> Sample:
    """Measure `Function.call`, 64 at a time, to `load.count` replicas, under each policy."""
    return trio.run(_measure_calls, load, effort)


async def _measure_calls(load: Workload, effort: Effort) -> Sample:
    _expect_descriptors(load.count)
    sample: Sample = {}
    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(replicas=Scale(min=load.count, max=load.count))
        with trio.fail_after(_START_SECONDS):
            deployment = await spearlet.deploy(_FUNCTIONS, settings=settings)
        for policy in POLICIES:
            deployment._pool.configure(attrs.evolve(settings, policy=policy))  # without a restart
            functions = [deployment.function("echo")]
            if policy == "sticky":
                functions = [functions[0].options(session=f"user {n}") for n in range(_SESSIONS)]
            share = attrs.evolve(effort, seconds=effort.seconds / 2)
            sample[_FIGURES[policy]] = await _host_cpu(functions, load.size, share)
        for each in deployment.replicas:  # draining 300 would take longer than the measurement
            _kill(each.pid)
    return sample


async def _host_cpu(functions: list[Function], size: int, effort: Effort) -> float:
    """Return the CPU microseconds of this process per call."""
    sent, turn, completed = drive.payload(size), cycle(functions), 0
    end = trio.current_time() + effort.warmup_seconds

    async def caller() -> None:
        nonlocal completed
        while trio.current_time() < end:
            await next(turn).call(sent)
            completed += 1

    settle_gc()
    used = 0.0
    for seconds in (effort.warmup_seconds, effort.seconds):
        end, completed, used = trio.current_time() + seconds, 0, time.process_time()
        async with trio.open_nursery() as nursery:
            for _ in range(_IN_FLIGHT):
                nursery.start_soon(caller)
        used = time.process_time() - used
    return used / completed * 1e6


def life(load: Workload, effort: Effort) -> Sample:
    """Deploy `load.count` replicas, kill all, restart all; return milliseconds per replica."""
    return trio.run(_measure_life, load.count)


async def _measure_life(count: int) -> Sample:
    _expect_descriptors(count)
    async with open_spearlet() as spearlet:
        begun = trio.current_time()
        deployment = await spearlet.deploy(_FUNCTIONS, replicas=count)
        deployed = trio.current_time()
        before = _pids(deployment)
        for each in before:
            _kill(each)
        while len(after := _pids(deployment)) < count or after & before:
            await trio.sleep(_LOOK_SECONDS)
        replaced = trio.current_time()
        await deployment.restart()
        restarted = trio.current_time()
        for each in _pids(deployment):
            _kill(each)
    return {
        Figure.DEPLOY: (deployed - begun) / count * 1e3,
        Figure.REPLACE: (replaced - deployed) / count * 1e3,
        Figure.RESTART: (restarted - replaced) / count * 1e3,
    }


def _pids(deployment: Deployment) -> set[int]:
    return {each.pid for each in deployment.replicas if each.pid is not None}


def _kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def _expect_descriptors(count: int) -> None:
    needed = count * _DESCRIPTORS_PER_INSTANCE + 100
    if allow_descriptors(needed) < needed:
        raise Unavailable(f"{count} replicas need more descriptors: increase ulimit -n")
