"""Guarantees in seconds, with real processes and a real clock, on an otherwise idle machine.

``test_overload`` and ``test_supervision`` test the same guarantees under a virtual clock. There work
takes no time, so they cannot show the cost for other calls.
"""

from __future__ import annotations

import time
from statistics import quantiles
from typing import TYPE_CHECKING, Literal

import pytest
import trio

from spear import DeploymentSettings, Overloaded, Scale, WorkerDied, open_spearlet
from spear.runtimes import ProcessSettings
from spear.spearlet import DeploymentState

from .helpers import CRASHING, WORKERS, write

if TYPE_CHECKING:
    from pathlib import Path

    from spear.spearlet import Deployment, Spearlet

pytestmark = pytest.mark.soak

CONCURRENCY = 4
REPLICAS = 2
QUEUE = 20

BUSY = f"""
import spear, trio
app = spear.Agent("busy", concurrency={CONCURRENCY})

@app.function
async def work() -> None:
    await trio.sleep(0.02)
"""


async def capacity(deployment: Deployment, seconds: float) -> float:
    """Return the calls per second with as many callers as can be served."""
    answered = 0

    async def call_again_and_again() -> None:
        nonlocal answered
        while True:
            await deployment.work()
            answered += 1

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(REPLICAS * CONCURRENCY):
                nursery.start_soon(call_again_and_again)
    return answered / seconds


async def test_r21_overload_costs_no_goodput_and_is_refused_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "busy.py", BUSY)
    settings = DeploymentSettings(replicas=Scale(min=REPLICAS, max=REPLICAS), queue=QUEUE)
    answered: list[float] = []
    refusals: list[float] = []
    told: list[float] = []
    most_waiting = 0
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(path, settings=settings)
        most = await capacity(deployment, 5)

        async def call() -> None:
            nonlocal most_waiting
            begun = time.perf_counter()
            try:
                await deployment.work()
                answered.append(time.perf_counter())
            except Overloaded as error:
                refusals.append(time.perf_counter() - begun)
                told.append(error.retry_after_seconds or 0)
            most_waiting = max(most_waiting, deployment.statistics().waiting)

        begun, seconds = time.perf_counter(), 30.0
        async with trio.open_nursery() as nursery:
            called = 0
            while (passed := time.perf_counter() - begun) < seconds:
                while called < 10 * most * passed:
                    nursery.start_soon(call)
                    called += 1
                await trio.sleep(0.001)
            stopped = time.perf_counter()
        in_time = sum(each <= stopped for each in answered)
        assert in_time >= 0.9 * most * seconds
        assert len(refusals) >= 0.85 * 10 * most * seconds
        assert quantiles(refusals, n=100)[-1] <= 0.02
        assert min(told) > 0
        assert most_waiting <= QUEUE
        assert max(answered) - stopped <= 1


SHORT = """
import spear, time
app = spear.Agent("short", concurrency=1)

@app.function
def work() -> None:
    time.sleep(0.001)
"""


async def test_r21_the_time_to_try_again_is_true_within_a_factor_of_2(tmp_path: Path) -> None:
    path = write(tmp_path, "short.py", SHORT)
    ratios: list[float] = []
    for _ in range(10):
        async with open_spearlet() as spearlet:
            deployment = await spearlet.deploy(path, replicas=2)
            for _ in range(3):
                ratios += await burst(deployment)
    low, *_, high = quantiles(ratios, n=10)
    assert 0.5 < low < high < 2


async def burst(deployment: Deployment) -> list[float]:
    """Call 1,500 times at once; return the ratios of the retry-after times to the real duration."""
    refused: list[tuple[float, float]] = []
    answered: list[float] = []

    async def call() -> None:
        try:
            await deployment.work()
            answered.append(time.perf_counter())
        except Overloaded as error:
            refused.append((time.perf_counter(), error.retry_after_seconds or 0.0))

    async with trio.open_nursery() as nursery:
        for _ in range(1500):
            nursery.start_soon(call)
    return [told / (max(answered) - when) for when, told in refused]


@pytest.mark.parametrize("start", ["zygote", "spawn"])
async def test_r17_a_crash_loop_costs_the_host_little_and_others_next_to_nothing(
    tmp_path: Path, start: Literal["zygote", "spawn"]
) -> None:
    flag = tmp_path / "broken"
    path = write(
        tmp_path, "crashing.py", CRASHING.format(book=str(tmp_path / "book"), flag=str(flag))
    )
    settings = ProcessSettings(target=str(path), start=start)

    async def crash(spearlet: Spearlet, name: str) -> None:
        """Deploy a program that crashes, and wait until the host has given it up."""
        flag.unlink(missing_ok=True)
        deployment = await spearlet.deploy(settings, name=name)
        flag.touch()
        with pytest.raises(WorkerDied):
            await deployment.die()
        while deployment.health().state is not DeploymentState.UNHEALTHY:
            await trio.sleep(0.1)
        assert deployment.statistics().restarts == 5

    async with open_spearlet() as spearlet:
        begun, spent = time.perf_counter(), time.process_time()
        await crash(spearlet, "first")
        assert time.process_time() - spent < 0.05 * (time.perf_counter() - begun)
        other = await spearlet.deploy(WORKERS)
        before, meanwhile = list[float](), list[float]()
        with trio.move_on_after(10):
            await knock(other, before)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(knock, other, meanwhile)
            await crash(spearlet, "second")
            nursery.cancel_scope.cancel()
    slow_before, slow_meanwhile = (quantiles(each, n=100)[-1] for each in (before, meanwhile))
    assert slow_meanwhile <= 1.5 * slow_before + 0.0005


async def knock(deployment: Deployment, times: list[float]) -> None:
    """Call repeatedly, and record how long each call takes."""
    while True:
        begun = time.perf_counter()
        await deployment.who()
        times.append(time.perf_counter() - begun)
        await trio.sleep(0.002)
