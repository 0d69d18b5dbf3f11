"""Restarts of ended instances, within limits; replacements without failing calls."""

from __future__ import annotations

import math
import os
import random
import signal
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Literal

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from runtimes.helpers import children, is_alive, nothing_left

import spear
from spear import (
    DeadlineExceeded,
    DeploymentSettings,
    FunctionRaised,
    HostLimits,
    InstanceTimeouts,
    RestartPolicy,
    SpawnFailed,
    WireLimits,
    WorkerDied,
    open_spearlet,
)
from spear.runtimes import MemoryRuntime, ProcessSettings
from spear.spearlet import DeploymentState
from spear.spearlet._restarts import RestartBudget
from spear.telemetry import CallRecord, InstanceEvent, InstanceState

from .helpers import (
    CRASHING,
    PATIENCE_SECONDS,
    WORKERS,
    Probe,
    instance,
    number,
    pid,
    shared,
    write,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from spear.calls import Function
    from spear.spearlet import Deployment

QUICKLY = RestartPolicy(first_delay_seconds=0.01, longest_delay_seconds=0.05)
NEVER = RestartPolicy(intensity=0, retry_seconds=math.inf)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():
            await trio.sleep(0.01)


# -- the arithmetic ---------------------------------------------------------------------------


@given(st.lists(st.floats(0, 20), max_size=60), st.integers(0, 6), st.randoms())
def test_r17_never_more_restarts_in_a_period_than_allowed(
    lives: list[float], intensity: int, rng: random.Random
) -> None:
    policy = RestartPolicy(intensity=intensity, retry_seconds=60)
    budget, now, starts = RestartBudget(policy, rng), 0.0, list[float]()
    for lived in lives:
        now += lived
        delay = budget.delay_seconds(now, lived)
        if delay is None:
            now += budget.give_up()
            starts.clear()
            continue
        assert 0 < delay <= policy.longest_delay_seconds
        now += delay
        starts.append(now)
        assert sum(start > now - policy.period_seconds for start in starts) <= max(intensity, 1)


def test_r17_delays_double_with_jitter_and_begin_anew_after_a_long_life() -> None:
    """Half of each delay is fixed, and the other half is random, drawn anew each time."""
    budgets = [RestartBudget(RestartPolicy(intensity=100), random.Random(n)) for n in range(200)]

    def draw(now: float, lived: float) -> list[float]:
        delays = [each.delay_seconds(now, lived) for each in budgets]
        return sorted(delay for delay in delays if delay is not None)

    for failures in range(12):
        expect_spread(draw(failures * 100.0, 1.0), min(0.1 * 2**failures, 5.0))
    expect_spread(draw(5000.0, 10.0), 0.1)


def test_r17_the_same_seed_draws_the_same_delays_and_another_others(seed: random.Random) -> None:
    def draw(number: float) -> list[float | None]:
        budget = RestartBudget(RestartPolicy(), random.Random(number))
        return [budget.delay_seconds(0, 0) for _ in range(3)]

    number = seed.random()
    assert draw(number) == draw(number)
    assert not set(draw(number)) & set(draw(number + 1))


def expect_spread(delays: list[float], longest: float) -> None:
    """Assert that delays are between ``longest / 2`` and ``longest``, about a quarter in each quarter."""
    assert len(delays) == 200
    assert longest / 2 <= delays[0] < longest * 0.52
    assert longest * 0.98 < delays[-1] <= longest
    for quarter in range(4):
        low = longest * (1 + quarter / 4) / 2
        within = sum(low <= delay <= low + longest / 8 for delay in delays)
        assert 25 <= within <= 80, (longest, quarter)


# -- crash loops ------------------------------------------------------------------------------


@attrs.define
class Fragile:
    """An agent whose lifespan a test can make fail."""

    fails: bool = False
    starts: list[float] = attrs.field(factory=list)

    def agent(self) -> spear.Agent:
        app = spear.Agent("fragile")
        app.function(self.echo)

        @app.lifespan
        async def lifespan() -> AsyncIterator[None]:
            self.starts.append(trio.current_time())
            if self.fails:
                raise RuntimeError("no database")
            yield

        return app

    async def echo(self, value: object) -> object:
        return value


async def lose(deployment: Deployment) -> None:
    channel = deployment.replicas[0].channel
    assert channel is not None
    await channel.aclose()


async def test_r17_a_crash_loop_ends_in_a_clear_state(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """After 5 restarts in 10 s with growing delays the host gives up; other deployments go on."""
    fragile = Fragile()
    async with open_spearlet(rng=random.Random(3)) as spearlet:
        other = await spearlet.deploy(Probe().agent)
        deployment = await spearlet.deploy(fragile.agent())
        assert deployment.health().state is DeploymentState.READY
        fragile.fails = True
        begun = trio.current_time()
        await lose(deployment)
        await trio.testing.wait_all_tasks_blocked()
        health = deployment.health()
        assert health.state is DeploymentState.DEGRADED
        waiting = deployment.echo.submit(1)  # it waits as long as restarts are tried
        with pytest.raises(WorkerDied, match="given up after 5 restarts within 10 s") as caught:
            await waiting.result()
        assert (caught.value.code, caught.value.delivered) == ("given_up", "no")
        assert "no database" in str(caught.value)
        assert 0.1 < trio.current_time() - begun < 10
        assert len(fragile.starts) == 6
        health = deployment.health()
        assert (health.state, deployment.statistics().restarts) == (DeploymentState.UNHEALTHY, 5)
        assert "no database" in health.reason
        assert health.code == "spawn_failed"
        with pytest.raises(WorkerDied, match="no database"):
            await deployment.echo(1)
        assert (await other.echo(1), other.health().code) == (1, "")
        fragile.fails = False
        await trio.sleep(61)  # the next attempt comes after a minute
        assert deployment.health().state is DeploymentState.READY
        assert await deployment.echo(1) == 1


async def test_r17_a_crash_loop_leaves_the_others_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each call of another function is answered, and the loop starts at most 6 times."""
    fragile, probe = Fragile(), Probe()
    async with open_spearlet(rng=random.Random(4)) as spearlet:
        other = await spearlet.deploy(probe.agent)
        deployment = await spearlet.deploy(fragile.agent())
        fragile.fails = True
        answered: list[float] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def knock() -> None:
                while True:
                    assert await other.echo(1, timeout=0.01) == 1
                    answered.append(trio.current_time())
                    await trio.sleep(0.05)

            await lose(deployment)
            begun = trio.current_time()
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        assert deployment.health().state is DeploymentState.UNHEALTHY
        # On a clock that moves only when all tasks are blocked, each call takes no time.
        late = [
            one - before for before, one in pairwise([begun, *answered]) if one - before > 0.051
        ]
        assert late == []
        assert 199 <= len(answered) <= 201
        assert other.statistics().functions["echo"].failures == {}
        assert len(fragile.starts) == 6
        assert (other.statistics().started, other.statistics().lost) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["zygote", "spawn"])
async def test_r17_processes_that_crash_at_their_start_leave_the_others_alone(
    tmp_path: Path, start: Literal["zygote", "spawn"]
) -> None:
    book, flag = tmp_path / "book", tmp_path / "broken"
    path = write(tmp_path, "crashing.py", CRASHING.format(book=str(book), flag=str(flag)))
    answered = 0
    async with open_spearlet() as spearlet:
        other = await spearlet.deploy(WORKERS)
        process = await other.who()
        deployment = await spearlet.deploy(
            ProcessSettings(target=str(path), start=start),
            settings=DeploymentSettings(restart=QUICKLY),
        )
        flag.touch()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def knock() -> None:
                nonlocal answered
                while True:
                    assert await other.who() == process
                    answered += 1
                    await trio.sleep(0.001)

            with pytest.raises(WorkerDied, match="exited with status 9"):
                await deployment.die()
            before = answered
            with pytest.raises(WorkerDied, match="given up"):
                await deployment.die()
            assert answered - before >= 5  # at least as many as starts meanwhile
            nursery.cancel_scope.cancel()
        assert book.read_text() == "x" * 6
        statistics = deployment.statistics()
        assert (statistics.started, statistics.lost, statistics.restarts) == (1, 1, 5)
        assert other.statistics().functions["who"].failures.keys() <= {"Cancelled"}
        assert other.statistics().lost == 0


async def test_r17_a_restart_by_hand_needs_no_patience(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fragile = Fragile()
    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(restart=NEVER)
        deployment = await spearlet.deploy(fragile.agent(), settings=settings)
        fragile.fails = True
        await lose(deployment)
        await trio.sleep(1000)
        assert len(fragile.starts) == 1
        assert deployment.health().state is DeploymentState.UNHEALTHY
        with pytest.raises(SpawnFailed, match="no database"):
            await deployment.restart()
        assert deployment.health().state is DeploymentState.UNHEALTHY
        fragile.fails = False
        await deployment.restart()
        assert deployment.health().state is DeploymentState.READY
        assert await deployment.echo(1) == 1


@pytest.mark.slow
async def test_r17_what_it_wrote_last_is_told(tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    code = f"""
import os, spear, sys
app = spear.Agent()
if os.path.exists({str(flag)!r}):
    sys.exit("the disk is full")

@app.function
async def die() -> None:
    os._exit(3)
"""
    async with open_spearlet() as spearlet:
        policy = attrs.evolve(QUICKLY, intensity=1)
        deployment = await spearlet.deploy(
            write(tmp_path, "broken.py", code), settings=DeploymentSettings(restart=policy)
        )
        flag.touch()
        with pytest.raises(WorkerDied, match="exited with status 3"):
            await deployment.die()
        with pytest.raises(WorkerDied, match="within 10 s: process:broken-1#2") as caught:
            await deployment.die()
        assert "the disk is full" in caught.value.stderr_tail
        health = deployment.health()
        assert health.state is DeploymentState.UNHEALTHY
        assert "the disk is full" in health.stderr_tail
        assert any("the disk is full" in each.line.text for each in deployment.logs())


@pytest.mark.slow
async def test_r10_what_was_killed_is_replaced_and_the_new_one_serves_within_2_seconds() -> None:
    with nothing_left():
        async with open_spearlet() as spearlet:
            deployment = await spearlet.deploy(WORKERS, replicas=5)
            seconds: list[float] = []
            for number in range(1, 6):  # each has a restart limit of its own
                victim = deployment.replicas[number - 1]
                heir = f"process:workers-{number}#2"
                os.kill(pid(victim), signal.SIGKILL)
                killed = trio.current_time()
                with trio.fail_after(PATIENCE_SECONDS):
                    await instance(victim).wait_exited()
                    while heir != str((await deployment.who.ask()).instance):
                        await trio.sleep(0.002)
                seconds.append(trio.current_time() - killed)
                assert victim not in deployment.replicas
            assert deployment.health().state is DeploymentState.READY
            assert deployment.statistics().restarts == 5
            # One may have been delayed by other work of the machine; half of them have not.
            assert median(seconds) < 2


@pytest.mark.slow
async def test_r11_a_frozen_worker_is_replaced_and_fenced() -> None:
    limits = HostLimits(wire=WireLimits(heartbeat_seconds=0.1))
    async with open_spearlet(limits=limits) as spearlet:
        deployment = await spearlet.deploy(WORKERS)
        frozen = instance(deployment.replicas[0])
        process = pid(frozen)
        os.kill(process, signal.SIGSTOP)
        await until(lambda: frozen.state in (InstanceState.EXITED, InstanceState.DELETED))
        assert not is_alive(process)  # so it cannot come back
        assert await deployment.who() != process
        assert str(deployment.replicas[0].id) == "process:workers-1#2"


# -- rolling ----------------------------------------------------------------------------------


async def test_r15_a_new_one_is_ready_before_an_old_one_leaves() -> None:
    probe = Probe()
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(shared(probe.agent), replicas=2)
        running = deployment.wait.submit()
        await probe.begun.wait()
        ready: list[int] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def watch() -> None:
                while True:
                    ready.append(deployment.statistics().ready)
                    await trio.lowlevel.checkpoint()

            @nursery.start_soon
            async def release() -> None:
                await until(lambda: deployment.statistics().started > 2)
                probe.release.set()

            await deployment.restart()
            nursery.cancel_scope.cancel()
        assert min(ready) == 2
        assert await running.result() == "released"
        assert [str(each.id) for each in deployment.replicas] == [
            "memory:probe-1#2", "memory:probe-2#2",
        ]  # fmt: skip


async def test_r15_a_restart_that_fails_changes_nothing() -> None:
    fragile = Fragile()
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(shared(fragile.agent()), replicas=2)
        fragile.fails = True
        with pytest.raises(SpawnFailed, match="no database"):
            await deployment.restart()
        await trio.testing.wait_all_tasks_blocked()
        assert [str(each.id) for each in deployment.replicas] == [
            "memory:fragile-1#1", "memory:fragile-2#1",
        ]  # fmt: skip
        assert deployment.health().state is DeploymentState.READY
        assert await deployment.echo(1) == 1


async def test_a_restart_at_max_instances_replaces_one_at_a_time() -> None:
    probe = Probe()
    async with open_spearlet(runtimes=[MemoryRuntime(max_instances=2)]) as spearlet:
        deployment = await spearlet.deploy(shared(probe.agent), replicas=2)
        running = deployment.wait.submit()
        await probe.begun.wait()
        ready: list[int] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def watch() -> None:
                while True:
                    ready.append(deployment.statistics().ready)
                    await trio.lowlevel.checkpoint()

            @nursery.start_soon
            async def release() -> None:
                await until(lambda: deployment.statistics().ready == 1)
                probe.release.set()

            await deployment.restart()
            nursery.cancel_scope.cancel()
        assert min(ready) == 1
        assert await running.result() == "released"
        assert deployment.statistics().started == 4
        assert [each.id.name for each in deployment.replicas] == ["probe-1", "probe-2"]
        with pytest.raises(SpawnFailed, match="'memory' has 2 instances; at most 2 are") as it:
            await deployment.scale(3)
        assert it.value.code == "max_instances"


async def test_a_restart_at_max_instances_that_fails_brings_the_old_program_back() -> None:
    old, new = Fragile(), Fragile(fails=True)
    async with open_spearlet(runtimes=[MemoryRuntime(max_instances=1)]) as spearlet:
        deployment = await spearlet.deploy(old.agent())
        with pytest.raises(SpawnFailed, match="no database"):
            await deployment.restart(new.agent())
        await until(lambda: deployment.statistics().ready == 1)
        assert (len(old.starts), len(new.starts)) == (2, 1)
        assert await deployment.echo(1) == 1
        await deployment.restart()
        assert (len(old.starts), len(new.starts)) == (3, 1)


UNFINISHED = """
import spear
app = spear.Agent()

@app.lifespan
async def lifespan():
    raise RuntimeError("it is unfinished")
    yield
"""


@pytest.mark.slow
async def test_a_restart_that_fails_leaves_no_zygote_behind(tmp_path: Path) -> None:
    path = write(tmp_path, "app.py", "import spear\napp = spear.Agent()\n")
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(path, replicas=2)
        write(tmp_path, "app.py", UNFINISHED)  # it can be loaded, so there is a zygote
        before = children()
        for _ in range(2):
            with pytest.raises(SpawnFailed, match="unfinished"):
                await deployment.restart()
        await until(lambda: children() <= before)
        assert deployment.statistics().ready == 2


async def test_a_restart_can_be_an_update() -> None:
    one, two = spear.Agent("one"), spear.Agent("two")

    @one.function
    async def version() -> int:
        return 1

    @two.function(name="version")
    async def newer() -> int:
        return 2

    @two.function
    async def more() -> str:
        return "more"

    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(one, name="app")
        function = deployment.version
        assert await function() == 1
        settings = DeploymentSettings(replicas=spear.Scale(min=2, max=2), policy="random")
        await deployment.restart(shared(two), settings)
        assert (await function(), await deployment.more()) == (2, "more")
        assert await spearlet.find_function("more")() == "more"
        assert len(deployment.replicas) == 2
        assert deployment.settings == settings


@pytest.mark.slow
async def test_r15_a_rolling_restart_under_load_fails_no_call(tmp_path: Path) -> None:
    """Every worker is replaced twice under continuous load: no call fails, and none runs twice."""
    book = tmp_path / "book"
    done: list[int] = []
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(WORKERS, replicas=3)
        first = {each.id for each in deployment.replicas}
        is_over = False

        async def work(numbers: range) -> None:
            for each in numbers:
                if is_over:
                    return
                assert await deployment.note(str(book), str(each)) == str(each)
                done.append(each)
                await trio.sleep(0.005)

        async with trio.open_nursery() as nursery:
            for task in range(8):
                nursery.start_soon(work, range(task, 1_000_000, 8))
            for _ in range(2):
                await deployment.restart()
            is_over = True
        assert not first & {each.id for each in deployment.replicas}
        assert {each.id.incarnation for each in deployment.replicas} == {3}
        statistics = deployment.statistics()
        assert (statistics.lost, statistics.restarts, statistics.ready) == (0, 0, 3)
        assert not statistics.functions["note"].failures
    assert Counter(map(int, book.read_text().split())) == Counter(done)
    assert len(done) > 50


# -- abandoned calls --------------------------------------------------------------------------


class Stubborn:
    """An agent with a function that no cancellation stops, as a plain function in a thread.

    Attributes:
        release: set to let the function end.
        starts: how often the agent was started.
        failing: the numbers of the starts that fail.
    """

    def __init__(self, *failing: int) -> None:
        self.release = trio.Event()
        self.starts = 0
        self.failing = failing
        self.agent = spear.Agent("stubborn")
        self.agent.function(self.hang)
        self.agent.function(self.rest)
        self.agent.lifespan(self.life)

    async def life(self) -> AsyncIterator[None]:
        self.starts += 1
        if self.starts in self.failing:
            raise OSError("cannot start now")
        yield

    async def hang(self, seconds: float = math.inf) -> None:
        with trio.move_on_after(seconds, shield=True):
            await self.release.wait()

    async def rest(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return str(spear.context().instance_id)


def incarnations(deployment: Deployment) -> list[int]:
    return [each.id.incarnation for each in deployment.replicas]


async def give_up(function: Function, *arguments: object) -> None:
    with pytest.raises(DeadlineExceeded):
        await function(*arguments, timeout=1)


async def comes_true(condition: Callable[[], bool]) -> None:
    """Wait as long as it takes: a start needs real threads, for which a virtual clock does not wait."""
    while not condition():
        await trio.sleep(0.01)


async def test_an_instance_with_an_abandoned_call_is_replaced_and_its_other_calls_end(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = Stubborn()
    settings = DeploymentSettings(abandoned_seconds=10, timeout=math.inf)
    async with open_spearlet() as spearlet, trio.open_nursery() as nursery:
        deployment = await spearlet.deploy(shared(app.agent), settings=settings)
        others: list[object] = []

        @nursery.start_soon
        async def call_beside() -> None:
            others.append(await deployment.rest(30))

        await give_up(deployment.hang, 5)  # it ends in time
        await trio.sleep(20)
        assert incarnations(deployment) == [1]
        await give_up(deployment.hang)
        await trio.sleep(9)
        assert incarnations(deployment) == [1]
        await comes_true(lambda: 2 in incarnations(deployment))
        assert await deployment.rest(0) == "memory:stubborn-1#2"  # the old one takes no more calls
        await comes_true(lambda: others == ["memory:stubborn-1#1"])
        await comes_true(lambda: incarnations(deployment) == [2])
        assert app.starts == 2
        app.release.set()
    assert "memory:stubborn-1#1 is to be replaced: 1 calls go on 10 s after" in caplog.text


async def test_an_instance_with_an_abandoned_call_goes_on_until_a_successor_starts(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = Stubborn(2)
    settings = DeploymentSettings(abandoned_seconds=10)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(shared(app.agent), settings=settings)
        await give_up(deployment.hang)
        await comes_true(lambda: app.starts == 2)
        assert await deployment.rest(0) == "memory:stubborn-1#1"
        await comes_true(lambda: 3 in incarnations(deployment))
        assert app.starts == 3
        assert await deployment.rest(0) == "memory:stubborn-1#3"
        app.release.set()
    assert "memory:stubborn-1#1 goes on: no successor has started" in caplog.text


async def test_an_instance_that_is_stopped_meanwhile_gets_no_successor(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = Stubborn()
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(
            shared(app.agent), settings=DeploymentSettings(abandoned_seconds=1)
        )
        await give_up(deployment.hang)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deployment.stop, 9)
            await trio.sleep(4)
            app.release.set()
        assert app.starts == 1


@pytest.mark.slow
async def test_a_process_whose_thread_hangs_is_killed_and_replaced() -> None:
    settings = DeploymentSettings(
        abandoned_seconds=0.2, timeouts=InstanceTimeouts(terminate_seconds=0.1)
    )
    pids: list[spear.Result] = []
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(WORKERS, settings=settings)
        stubborn = deployment.stubborn.options(on_progress=pids.append)
        with trio.move_on_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stubborn)
                await until(lambda: bool(pids))
                nursery.cancel_scope.cancel()
        (hung,) = pids
        assert type(hung) is int
        await until(lambda: not is_alive(hung))
        assert await deployment.who() != hung


async def test_r15_draining_lets_all_finish_and_takes_nothing_new(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = spear.Agent("slow", concurrency=1)

    @app.function
    async def nap(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(app)
        running = [deployment.nap.submit(5) for _ in range(4)]  # three of them are queued
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spearlet.drain)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(spear.Rejected, match="takes no new calls"):
                await deployment.nap(1)
            with pytest.raises(spear.SpearError, match="this spearlet is draining"):
                await spearlet.deploy(Probe().agent)
            assert deployment.statistics().calls_in_flight == 1
        assert [await each.result() for each in running] == [5] * 4
        assert 20 <= trio.current_time() - begun < 20.5


async def test_r15_draining_ends_at_its_deadline_with_typed_errors(
    autojump_clock: trio.testing.MockClock,
) -> None:
    probe = Probe()
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(probe.agent, settings=DeploymentSettings(concurrency=1))
        running = [deployment.wait.options(timeout=math.inf).submit() for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        await spearlet.drain(3)
        assert trio.current_time() - begun < 3.5
        for each in running:
            with pytest.raises((WorkerDied, spear.CallCancelled)):
                await each.result()


# -- order of changes, and events -------------------------------------------------------------


@pytest.mark.slow
async def test_r28_whatever_happens_events_come_in_order(seed: random.Random) -> None:
    events: dict[spear.InstanceId, list[InstanceState]] = {}

    def note(event: InstanceEvent) -> None:
        events.setdefault(event.instance_id, []).append(event.state)

    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(restart=attrs.evolve(QUICKLY, intensity=1000))
        deployment = await spearlet.deploy(WORKERS, replicas=3, settings=settings, on_event=note)
        # Each action three times, in any order: three restarts make at least three instances.
        actions = 3 * ["kill", "term", "scale", "restart"]
        seed.shuffle(actions)
        for action in actions:
            await until(lambda: len(deployment.instances) > 0)
            victim = seed.choice(deployment.instances)
            if action == "scale":
                await deployment.scale(seed.randint(1, 4))
            elif action == "restart":
                await deployment.restart()
            elif victim.pid is not None and victim.exit_status is None:
                blow = signal.SIGKILL if action == "kill" else signal.SIGTERM
                with suppress(ProcessLookupError):
                    os.kill(victim.pid, blow)
                await trio.sleep(seed.uniform(0, 0.05))
    rank = {
        InstanceState.CREATED: 0, InstanceState.STARTING: 1, InstanceState.READY: 2,
        InstanceState.UNHEALTHY: 2, InstanceState.DRAINING: 3, InstanceState.STOPPING: 4,
        InstanceState.EXITED: 5, InstanceState.FAILED: 5, InstanceState.DELETED: 6,
    }  # fmt: skip
    assert len(events) >= 6
    for states in events.values():
        ranks = [rank[each] for each in states]
        assert ranks == sorted(ranks)
        assert (states[0], states[-1]) == (InstanceState.CREATED, InstanceState.DELETED)
        assert len({InstanceState.EXITED, InstanceState.FAILED} & set(states)) == 1


async def test_logs_of_all_instances_in_one_book() -> None:
    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(restart=QUICKLY)
        deployment = await spearlet.deploy(WORKERS, settings=settings)
        async with deployment.follow_logs() as lines:
            with pytest.raises(WorkerDied):
                await deployment.die(4)
            entry = await anext(lines)
            assert (str(entry.instance), entry.line.text) == ("process:workers-1#1", "so long")
            with pytest.raises(WorkerDied):
                await deployment.die(5)
            assert str((await anext(lines)).instance) == "process:workers-1#2"
            assert [each.line.text for each in deployment.logs()] == ["so long"] * 2
            assert [str(each.instance) for each in deployment.logs(1)] == ["process:workers-1#2"]
            assert deployment.logs(0) == ()
            await deployment.stop()
            assert [line async for line in lines] == []
        async with deployment.follow_logs() as lines:
            assert [line async for line in lines] == []


async def test_calls_are_counted_by_function() -> None:
    records: list[CallRecord] = []
    probe = Probe()
    async with open_spearlet(on_call=records.append) as spearlet:
        deployment = await spearlet.deploy(probe.agent)
        with pytest.raises(FunctionRaised):
            await deployment.boom()
        await deployment.echo.options(metadata={"trace": "1"})(1)
        await deployment.echo(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deployment.wait)
            await probe.begun.wait()
            nursery.cancel_scope.cancel()
        functions = deployment.statistics().functions
        assert (functions["echo"].calls, functions["echo"].latency.count) == (2, 2)
        assert functions["boom"].failures == {"FunctionRaised": 1}
        assert functions["wait"].failures == {"Cancelled": 1}
        assert number(functions["echo"].latency.mean_seconds) > 0
        assert [(each.deployment, each.function) for each in records] == [
            ("probe", "boom"), ("probe", "echo"), ("probe", "echo"), ("probe", "wait"),
        ]  # fmt: skip
        assert [type(each.failure) for each in records] == [
            FunctionRaised, type(None), type(None), trio.Cancelled,
        ]  # fmt: skip
        assert records[1].metadata == {"trace": "1"}
        assert records[1].seconds > 0


async def test_stopping_in_the_middle_of_a_restart_ends_both() -> None:
    probe = Probe()
    hold = trio.Event()
    app = spear.Agent("slow")

    @app.lifespan
    async def lifespan() -> AsyncIterator[None]:
        if probe.calls:
            probe.begun.set()
            await hold.wait()
        probe.calls += 1
        yield

    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(app)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deployment.restart)
            await probe.begun.wait()
            nursery.start_soon(deployment.stop)
            await trio.testing.wait_all_tasks_blocked()
            hold.set()
        assert deployment.instances == ()
        assert deployment.health().state is DeploymentState.STOPPED


async def test_two_may_wait_for_the_same_replicas() -> None:
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(shared(Probe().agent))
        async with trio.open_nursery() as nursery:
            for replicas in (2, 3, 4):
                nursery.start_soon(deployment.scale, replicas)
        assert deployment.statistics().ready == deployment.settings.replicas.max


async def test_it_can_be_seen_starting() -> None:
    hold, held = trio.Event(), trio.Event()
    app = spear.Agent("slow")

    @app.lifespan
    async def lifespan() -> AsyncIterator[None]:
        held.set()
        await hold.wait()
        yield

    async with open_spearlet() as spearlet, trio.open_nursery() as nursery:
        nursery.start_soon(spearlet.deploy, app)
        await held.wait()
        deployment = spearlet.deployments["slow"]
        assert deployment.health().state is DeploymentState.STARTING
        assert deployment.statistics().ready == 0
        hold.set()


async def test_a_reader_of_logs_who_is_too_slow_is_told(tmp_path: Path) -> None:
    code = """
import spear
app = spear.Agent()

@app.function
async def say(count: int) -> None:
    for number in range(count):
        print(number)
"""
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(write(tmp_path, "talks.py", code))
        async with deployment.follow_logs() as lines:
            await deployment.say(1500)
            await deployment.stop()
            read = [each.line.text async for each in lines]
        assert read == [str(number) for number in range(1024)]
        assert lines.lost == 1500 - 1024


async def test_settings_that_are_none() -> None:
    async with open_spearlet() as spearlet:
        with pytest.raises(spear.ConfigurationError, match=r"must be spear.DeploymentSettings"):
            await spearlet.deploy(WORKERS, settings=5)  # type: ignore[arg-type]  # the mistake
