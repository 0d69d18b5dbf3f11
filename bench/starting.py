"""Start-up time of Spear's instances until their first answer, spawned and forked, and their memory.

Also the start-up time that a caller sees: a call of a function that has no instance.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import attrs
import trio

from bench import drive
from bench.model import BenchError, Effort, Figure, Pattern, Sample, Workload
from spear import DeploymentSettings, InstanceId, Scale
from spear.channels import open_communication_factory
from spear.runtimes import (
    Instance,
    InstanceSpec,
    InstanceTemplate,
    ProcessRuntime,
    ProcessSettings,
)
from spear.spearlet import Deployment, DeploymentState, open_spearlet

_FUNCTIONS = Path(__file__).with_name("functions.py")
_SETTINGS = ProcessSettings(target=str(_FUNCTIONS))

_PAUSE_SECONDS = 0.3
"""Pause before each burst, and before memory is read; `drive` pauses between single starts."""

_BURSTS = 4

_COLD = DeploymentSettings(replicas=Scale(min=0, max=1, idle_seconds=0))
_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.01


def spawned(load: Workload, effort: Effort) -> Sample:
    """Measure instances that are spawned: each starts a new interpreter."""
    return trio.run(_drive, load, effort, False)


def forked(load: Workload, effort: Effort) -> Sample:
    """Measure instances that a zygote forks. The zygote's own start is not counted."""
    return trio.run(_drive, load, effort, True)


def cold_call(load: Workload, effort: Effort) -> Sample:
    """Measure `Function.call` when there is no instance: the time from the call to its result."""
    return trio.run(_drive_cold_calls, effort)


async def _drive_cold_calls(effort: Effort) -> Sample:
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(_FUNCTIONS, settings=_COLD)
        echo = deployment.function("echo")

        @asynccontextmanager
        async def call() -> AsyncIterator[None]:
            before = deployment.statistics().started
            assert await echo.call(b"first") == b"first"
            yield
            if deployment.statistics().started != before + 1:
                raise BenchError("an instance already existed before the call")
            _expect_forked(deployment)
            await _wait_cold(deployment)

        await _wait_cold(deployment)
        await trio.sleep(_PAUSE_SECONDS)
        async with call():  # warm-up: the zygote, byte-code caches
            pass
        return await drive.starts_with_trio(call, effort)


def _expect_forked(deployment: Deployment) -> None:
    (replica,) = deployment.replicas
    stat = Path(f"/proc/{replica.pid}/stat").read_text()
    if int(stat.rpartition(")")[2].split()[1]) == os.getpid():
        raise BenchError("the instance was spawned, not forked")


async def _wait_cold(deployment: Deployment) -> None:
    """Wait until the deployment has no instance."""
    with trio.fail_after(_PATIENCE_SECONDS):
        while deployment.health().state is not DeploymentState.IDLE or deployment.instances:
            await trio.sleep(_LOOK_SECONDS)


@attrs.frozen
class _Starter:
    template: InstanceTemplate
    numbers: count[int] = attrs.field(factory=lambda: count(1))

    @asynccontextmanager
    async def start(self) -> AsyncIterator[Instance]:
        instance_id = InstanceId("process", f"start-{next(self.numbers)}")
        spec = InstanceSpec(instance_id=instance_id)
        async with self.template.open_instance(spec) as instance:
            channel = await instance.wait_ready()
            assert (await channel.request("echo", b"first")).payload == b"first"
            yield instance

    @asynccontextmanager
    async def answered(self) -> AsyncIterator[None]:
        async with self.start():
            yield


async def _drive(load: Workload, effort: Effort, forks: bool) -> Sample:
    async with open_communication_factory() as factory, AsyncExitStack() as stack:
        opening = ProcessRuntime().open_template(_SETTINGS, factory, several=forks)
        starter = _Starter(await stack.enter_async_context(opening))
        async with starter.answered():  # warm-up: the zygote, byte-code caches
            pass
        if load.kind is Pattern.START:
            return await drive.starts_with_trio(starter.answered, effort)
        if load.kind is Pattern.BURST:
            return {Figure.START: await _burst(starter, load.count)}
        async with starter.start() as instance:
            await trio.sleep(_PAUSE_SECONDS)
            return {Figure.UNIQUE_MEMORY: _unique_bytes(instance)}


async def _burst(starter: _Starter, amount: int) -> float:
    """Start `amount` instances at once, in several bursts; return the median milliseconds for each."""
    times = []
    for _ in range(_BURSTS):
        await trio.sleep(_PAUSE_SECONDS)
        times.append(await _time_burst(starter, amount) * 1e3 / amount)
    return statistics.median(times)


async def _time_burst(starter: _Starter, amount: int) -> float:
    """Start `amount` instances at once; return the seconds until all have answered."""
    answered, all_have = 0, trio.Event()
    begun = time.perf_counter()

    async def start() -> None:
        nonlocal answered
        async with starter.start():
            answered += 1
            if answered == amount:
                all_have.set()
            await all_have.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(amount):
            nursery.start_soon(start)
        await all_have.wait()
        return time.perf_counter() - begun


def _unique_bytes(instance: Instance) -> int:
    """Return the bytes of memory that only this instance uses (USS)."""
    lines = Path(f"/proc/{instance.pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
