"""Sustained load above the capacity."""

from __future__ import annotations

import contextlib
import gc
import math
import threading
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing
from runtimes.helpers import nothing_left

import spear
from spear import DeploymentSettings, Overloaded, Scale, WorkerDied, open_spearlet
from spear.spearlet._pace import Pace

from .helpers import WORKERS, shared

if TYPE_CHECKING:
    from spear.spearlet import Deployment

SERVICE_SECONDS = 0.2
CONCURRENCY = 4
REPLICAS = 2
QUEUE = 20
CAPACITY = REPLICAS * CONCURRENCY / SERVICE_SECONDS
"""Calls per second."""


@attrs.define
class Tally:
    """The outcomes of calls."""

    answered: list[float] = attrs.field(factory=list)
    refusals: list[tuple[str, float | None]] = attrs.field(factory=list)
    slowest_refusal: float = 0.0
    most_waiting: int = 0

    async def call(self, deployment: Deployment) -> None:
        begun = trio.current_time()
        try:
            await deployment.work()
            self.answered.append(trio.current_time())
        except Overloaded as error:
            self.refusals.append((error.delivered, error.retry_after_seconds))
            self.slowest_refusal = max(self.slowest_refusal, trio.current_time() - begun)
        self.most_waiting = max(self.most_waiting, deployment.statistics().waiting)


@pytest.mark.slow
async def test_r21_ten_times_the_capacity_is_refused_and_costs_no_goodput(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """10 times the capacity for 30 s of virtual time."""
    app = spear.Agent("busy", concurrency=CONCURRENCY)

    @app.function
    async def work() -> None:
        await trio.sleep(SERVICE_SECONDS)

    tally = Tally()
    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(replicas=Scale(min=REPLICAS, max=REPLICAS), queue=QUEUE)
        deployment = await spearlet.deploy(shared(app), settings=settings)
        begun, seconds = trio.current_time(), 30.0
        async with trio.open_nursery() as nursery:
            for _ in range(int(seconds * CAPACITY * 10)):
                nursery.start_soon(tally.call, deployment)
                await trio.sleep(1 / (CAPACITY * 10))
            stopped = trio.current_time()
        in_time = sum(each <= begun + seconds for each in tally.answered)
        assert in_time >= 0.9 * CAPACITY * seconds
        assert len(tally.refusals) >= 0.85 * 10 * CAPACITY * seconds
        assert {delivered for delivered, _ in tally.refusals} == {"no"}
        assert min(seconds or 0.0 for _, seconds in tally.refusals) >= 0.05
        # Up to the last refusal, the retry-after time is the time that the queue takes.
        told = [seconds or 0.0 for _, seconds in tally.refusals[-1000:]]
        assert min(told) >= 0.8 * (QUEUE + 1) / CAPACITY
        assert max(told) <= 1.2 * (QUEUE + 1) / CAPACITY
        assert tally.slowest_refusal <= 0.02
        assert tally.most_waiting <= QUEUE
        assert max(tally.answered) - stopped <= 1
        statistics = deployment.statistics()
        assert (statistics.waiting, statistics.calls_in_flight) == (0, 0)
        assert statistics.refused == len(tally.refusals)
        await deployment.work()


@pytest.mark.parametrize(
    ("service_seconds", "replicas", "queue"),
    [(0.2, 1, 9), (0.4, 1, 9), (0.2, 2, 9), (0.2, 1, 19), (10.0, 1, 99), (0.001, 4, 1)],
)
async def test_r21_when_to_try_again_follows_the_line_and_what_calls_take(
    autojump_clock: trio.testing.MockClock, service_seconds: float, replicas: int, queue: int
) -> None:
    """``retry_after_seconds`` is the expected time of the queued calls and the new one, 0.05 to 60 s."""
    app = spear.Agent("busy", concurrency=2)

    @app.function
    async def work() -> None:
        await trio.sleep(service_seconds)

    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(replicas=replicas, queue=queue, timeout=10_000)
        deployment = await spearlet.deploy(shared(app), settings=settings)
        for _ in range(3):
            await deployment.work()  # measures the duration of a call
        running = [deployment.work.submit() for _ in range(2 * replicas + queue)]
        await trio.testing.wait_all_tasks_blocked()
        assert deployment.statistics().waiting == queue
        with pytest.raises(Overloaded) as caught:
            await deployment.work()
        told = caught.value.retry_after_seconds
        assert told is not None
        expected = service_seconds * (queue + 1) / (2 * replicas)
        assert told == pytest.approx(min(max(expected, 0.05), 60.0), rel=0.01)
        assert f"try again in {told:.2g} s" in str(caught.value)
        if expected < 60:
            await trio.sleep(told)
            await deployment.work()  # by then a slot is free
        for each in running:
            await each.result()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("concurrency", "before", "bursts"),
    [
        (1, 0, [0.001, 0.001, 0.01, 0.001]),
        (1, 1, [0.0001, 0.0002]),
        (4, 0, [0.005, 0.01, 0.002]),
        (50, 0, [0.01, 0.01]),
        (50, 1, [0.2, 0.2]),  # calls longer than the wait for a refusal must have been measured
    ],
)
async def test_r21_of_1500_calls_at_once_the_refused_are_told_what_the_line_takes(
    autojump_clock: trio.testing.MockClock, concurrency: int, before: int, bursts: list[float]
) -> None:
    """Within a factor of 2, although the durations of calls are unknown at first, or have changed."""
    app = spear.Agent("busy", concurrency=concurrency)

    @app.function
    async def work(seconds: float) -> None:
        await trio.sleep(seconds)

    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(shared(app), replicas=2)
        for _ in range(before):
            await deployment.work(bursts[0])
        for seconds in bursts:
            told, ends = await burst(deployment, seconds)
            assert len(told) > 300
            for when, after in told:
                left = max(max(ends) - when, 0.05)
                assert left / 2 <= after <= left * 2


@pytest.mark.parametrize("turns", range(1, 8))
async def test_r21_a_call_that_waited_for_all_to_begin_says_little_of_the_pace(
    autojump_clock: trio.testing.MockClock, turns: int
) -> None:
    """The first of 1,500 concurrent calls takes 0.1 s, and the ones after it 4 ms each."""
    pace = Pace()
    pace.begin(1)
    for _ in range(turns):
        await trio.sleep(0.004)
        pace.turn()
    told = pace.estimate(1, usual_seconds=0.1)
    assert 0.004 <= told <= 0.004 * (2.5 if turns == 1 else 2.01)


async def burst(
    deployment: Deployment, seconds: float
) -> tuple[list[tuple[float, float]], list[float]]:
    """Call 1,500 times at once; return (time, retry-after) of refusals, and the times of answers."""
    told: list[tuple[float, float]] = []
    ends: list[float] = []

    async def call() -> None:
        try:
            await deployment.work(seconds, timeout=1000)
            ends.append(trio.current_time())
        except Overloaded as error:
            told.append((trio.current_time(), error.retry_after_seconds or math.nan))

    async with trio.open_nursery() as nursery:
        for _ in range(1500):
            nursery.start_soon(call)
    return told, ends


async def churn(calls: int, channels: int, restarts: int) -> None:
    """Make calls, deploy and stop deployments, and replace instances."""
    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(
            restart=spear.RestartPolicy(
                intensity=1000, first_delay_seconds=0.01, longest_delay_seconds=0.01
            )
        )
        deployment = await spearlet.deploy(WORKERS, replicas=2, settings=settings)
        for _ in range(channels):
            async with await spearlet.deploy(local(), name="local") as other:
                await other.echo(1)
        for round_ in range(restarts):
            async with trio.open_nursery() as nursery:
                for _ in range(calls // restarts // 16):
                    for number in range(16):
                        nursery.start_soon(deployment.echo, number)
            if round_ % 5:
                with contextlib.suppress(WorkerDied):
                    await deployment.die(1)
            else:
                await deployment.restart()
            if round_ == restarts // 2:
                gc.collect()
        statistics = deployment.statistics()
        assert (statistics.waiting, statistics.calls_in_flight) == (0, 0)
        assert len(spearlet.deployments) == 1


def local() -> spear.Agent:
    app = spear.Agent("local")

    @app.function
    async def echo(value: object) -> object:
        return value

    return app


@pytest.mark.slow
@pytest.mark.repetitive
async def test_r22_churn_leaves_nothing() -> None:
    """2,000 calls, 100 channels, 10 restarts; the soak run has a million, 10,000 and 1,000."""
    threads = threading.active_count()
    with nothing_left():
        await churn(2000, 100, 10)
        gc.collect()
    assert threading.active_count() <= threads + 8  # Trio's idle threads, which end after 10 s


@pytest.mark.soak
async def test_r22_a_million_calls_leave_nothing(caplog: pytest.LogCaptureFixture) -> None:
    # pytest keeps each line of a log, which would count as growth.
    caplog.set_level("CRITICAL", "spear")
    with nothing_left():
        await churn(10_000, 100, 10)
        gc.collect()
        before = memory_kib()
        await churn(1_000_000, 10_000, 1000)
        gc.collect()
    assert memory_kib() - before <= 1024


def memory_kib() -> int:
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss"))
