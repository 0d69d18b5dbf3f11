"""The cost to a host of a thousand functions, and of many idle instances."""

from __future__ import annotations

import time
from pathlib import Path

import trio

from bench import drive
from bench.model import BenchError, Effort, Figure, Sample, Unavailable, Workload
from bench.process import allow_descriptors, settle_gc
from spear import Agent
from spear.spearlet import HealthPolicy, Spearlet, open_spearlet

_FUNCTIONS = Path(__file__).with_name("functions.py")
_NEIGHBOURS = 999

_DESCRIPTORS_PER_INSTANCE = 8
_SECONDS_PER_INSTANCE = 0.2


def function(load: Workload, effort: Effort) -> Sample:
    """Measure `Function.call` with a look-up by name, while 999 other functions are deployed."""
    return trio.run(_drive_function, load, effort)


async def _drive_function(load: Workload, effort: Effort) -> Sample:
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(_FUNCTIONS)
        for number in range(_NEIGHBOURS):
            await _deploy_neighbour(spearlet, number)
        (replica,) = deployment.replicas
        assert replica.pid is not None

        async def call(body: bytes) -> bytes:
            result = await spearlet.find_function("echo").call(body)
            assert isinstance(result, bytes)
            return result

        return await drive.with_trio(call, load, effort, [replica.pid])


async def _deploy_neighbour(spearlet: Spearlet, number: int) -> None:
    agent = Agent(f"neighbour-{number}")

    @agent.function(name=f"echo-{number}")
    async def echo(body: bytes) -> bytes:
        return body

    await spearlet.deploy(agent)


def idle_instances(load: Workload, effort: Effort) -> Sample:
    """Measure the CPU of a host with `load.count` idle instances.

    Always starts all of them: with more instances, more heartbeats are read at a time.
    """
    if (
        allow_descriptors(load.count * _DESCRIPTORS_PER_INSTANCE)
        < load.count * _DESCRIPTORS_PER_INSTANCE
    ):
        raise Unavailable(f"{load.count} instances need more descriptors: increase ulimit -n")
    return {Figure.IDLE_CPU: trio.run(_measure_idle, load.count, effort) * 100}


async def _measure_idle(amount: int, effort: Effort) -> float:
    """Return the host's CPU seconds per second."""
    async with open_spearlet() as spearlet:
        with trio.fail_after(60 + amount * _SECONDS_PER_INSTANCE):
            deployment = await spearlet.deploy(_FUNCTIONS, replicas=amount)
        settle_gc()
        await trio.sleep(
            HealthPolicy().interval_seconds + 1
        )  # until each instance has answered that it has no health check
        cpu, begun = time.process_time(), time.perf_counter()
        await trio.sleep(max(effort.seconds, 5))
        used, passed = time.process_time() - cpu, time.perf_counter() - begun
        if sum(each.channel is not None for each in deployment.replicas) != amount:
            raise BenchError("instances were lost")
    return used / passed
