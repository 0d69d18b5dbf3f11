"""Programs for simulations. Each asserts a guarantee under any faults that it is given.

The programs check three things: the outcomes that callers got, the notes of the instances, and the time
at which each instance was gone. A note is an effect on the outside world: it counts if it was made before
the instance was killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import trio

import spear
from spear import (
    Agent,
    CallFailed,
    HostLimits,
    InstanceTimeouts,
    SpearError,
    WireLimits,
    WorkerDied,
)

if TYPE_CHECKING:
    from random import Random

    from spear.calls import Function
    from spear.testing import Simulation

LIMITS = HostLimits(
    wire=WireLimits(heartbeat_seconds=0.2, reconnect_seconds=1.0),
    timeouts=InstanceTimeouts(startup_seconds=5.0, drain_seconds=2.0),
)
"""With these limits silence is noticed after 0.6 s, so that drawn faults are both shorter and longer."""

Outcome: TypeAlias = "object | SpearError"


@asynccontextmanager
async def disturbed(simulation: Simulation, *faults: str) -> AsyncIterator[None]:
    """Inject faults into instances while the block runs."""
    async with trio.open_nursery() as nursery:
        if faults:
            nursery.start_soon(lambda: simulation.disturb(faults=faults, fault_seconds=(0.01, 1.5)))
        yield
        nursery.cancel_scope.cancel()


def stay(rng: Random, most: float) -> Awaitable[None]:
    return trio.sleep(rng.uniform(0, most))


# -- R9: cancelling a caller cancels the function, and what it calls ------------------------------


def cancellable(simulation: Simulation) -> Callable[[], Agent]:
    """Return a factory of agents whose functions note when they begin and end."""

    def make() -> Agent:
        app, rng = Agent("shop"), simulation.generator("work")

        @app.function
        async def inner(number: int) -> int:
            simulation.note("begin", "inner", number)
            try:
                await trio.sleep(rng.choice([0.05, 0.1, 30]))
                return number
            finally:
                simulation.note("end", "inner", number)

        @app.function
        async def outer(number: int) -> object:
            simulation.note("begin", "outer", number)
            try:
                return await spear.call("inner", number)
            finally:
                simulation.note("end", "outer", number)

        return app

    return make


async def cancels(simulation: Simulation, *faults: str) -> None:
    """Callers give up at random times; soon afterwards no function runs, and every slot is free."""
    rng = simulation.rng
    shop = await simulation.deploy(cancellable(simulation), name="shop", replicas=2)

    async def call(number: int) -> None:
        await stay(rng, 0.5)
        with trio.move_on_after(rng.uniform(0, 0.3)):
            try:
                result = await rng.choice([shop.inner, shop.outer])(number)
            except CallFailed:
                assert faults
            else:
                assert result == number

    async with disturbed(simulation, *faults), trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(call, number)
    await trio.sleep(8.0 if faults else 1.0)  # a lost chunk takes up to 6.2 s
    running = Counter[tuple[object, ...]]()
    for instance, (kind, *what) in simulation.notes:
        running[instance, *what] += 1 if kind == "begin" else -1
    alive = {str(each) for each in simulation.instances}
    left = {each: count for each, count in running.items() if count and each[0] in alive}
    assert not left, f"still running: {left}"
    for replica in shop.replicas:
        assert replica.health().calls_in_flight == 0


# -- R10: a killed instance fails its own calls, and no other -------------------------------------


def noting(simulation: Simulation, seconds: float) -> Callable[[], Agent]:
    """Return a factory of agents that note each call before and after some work."""

    def make() -> Agent:
        app, rng = Agent("shop"), simulation.generator("work")

        @app.function
        async def work(number: int) -> int:
            simulation.note("begin", number)
            await stay(rng, seconds)
            simulation.note("done", number)
            return -number

        return app

    return make


async def outcomes_of(
    function: Function,
    numbers: range,
    rng: Random,
    spread: float,
    on_end: Callable[[], None] = lambda: None,
) -> dict[int, tuple[Outcome, float]]:
    """Call with each number, at random times; return the outcome and its time for each."""
    outcomes: dict[int, tuple[Outcome, float]] = {}

    async def call(number: int) -> None:
        await stay(rng, spread)
        try:
            outcome: Outcome = await function(number)
        except SpearError as error:
            outcome = error
        outcomes[number] = outcome, trio.current_time()
        on_end()

    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(call, number)
    return outcomes


async def kills(simulation: Simulation) -> None:
    """Of three instances under load one is killed: only its calls fail, soon and with typed errors."""
    rng = simulation.rng
    shop = await simulation.deploy(noting(simulation, 1.0), name="shop", replicas=3)
    victim = rng.choice(simulation.instances)
    killed = trio.current_time()

    async def kill() -> None:
        nonlocal killed
        await stay(rng, 1.0)
        killed = trio.current_time()
        simulation.crash(victim)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        outcomes = await outcomes_of(shop.work, range(12), rng, 0.5)
    for number, (outcome, ended) in outcomes.items():
        places = [instance for instance, note in simulation.notes if note == ("begin", number)]
        if isinstance(outcome, SpearError):
            assert isinstance(outcome, WorkerDied), repr(outcome)
            assert places in ([], [str(victim)]), f"call {number} failed, and ran on {places}"
            assert outcome.delivered != "no"
            assert 0 <= ended - killed <= 0.25
        else:
            assert outcome == -number
            assert len(places) == 1
    with trio.fail_after(2):
        while len(shop.replicas) < 3:
            await trio.sleep(0.01)


# -- R14: at most once ----------------------------------------------------------------------------


async def pays_at_most_once(simulation: Simulation, *faults: str) -> None:
    """No call without a key is executed twice; each failure's ``delivered`` is true."""
    rng = simulation.rng
    shop = await simulation.deploy(noting(simulation, 0.3), name="shop", replicas=3)
    async with disturbed(simulation, *faults):
        outcomes = await outcomes_of(shop.work, range(20), rng, 1.5)
    begun = Counter(note[1] for _, note in simulation.notes if note[0] == "begin")
    for number, (outcome, _) in outcomes.items():
        assert begun[number] <= 1, f"call {number} was executed {begun[number]} times"
        if not isinstance(outcome, SpearError):
            assert (outcome, begun[number]) == (-number, 1)
        elif outcome.delivered != "maybe":
            assert begun[number] == (outcome.delivered == "yes"), repr(outcome)


async def pays_once_for_each_key(simulation: Simulation, *faults: str) -> None:
    """Callers of calls with keys give up: a key is executed again only if its process is gone."""
    rng = simulation.rng
    began: dict[int, str] = {}

    def make() -> Agent:
        app, work = Agent("shop"), simulation.generator("work")

        @app.function
        async def pay(key: int) -> int:
            simulation.note("begin", key)
            instance = simulation.notes[-1][0]
            alive = {str(each) for each in simulation.instances}
            assert began.get(key) not in alive, f"{key} runs on {began[key]} and {instance}"
            began[key] = instance
            await stay(work, 0.3)
            return -key

        return app

    shop = await simulation.deploy(make, name="shop", replicas=3)
    failures: list[SpearError] = []

    async def call(number: int) -> None:
        key = number // 3
        await stay(rng, 1.5)
        with trio.move_on_after(rng.choice([0.05, 5.0])):
            try:
                assert await shop.pay.options(key=str(key))(key) == -key
            except SpearError as failure:
                failures.append(failure)

    async with disturbed(simulation, *faults), trio.open_nursery() as nursery:
        for number in range(21):
            nursery.start_soon(call, number)
    assert all(isinstance(each, CallFailed) for each in failures), failures
    assert not any(isinstance(each, spear.FunctionRaised) for each in failures), failures


# -- R15: a draining replica fails no call --------------------------------------------------------


async def restarts(simulation: Simulation) -> None:
    """Every replica is replaced under continuous calls: no call fails or runs twice."""
    rng = simulation.rng
    shop = await simulation.deploy(noting(simulation, 0.1), name="shop", replicas=2)
    ready = [shop.statistics().ready]

    async def restart() -> None:
        await stay(rng, 0.2)
        await shop.restart()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(restart)
        outcomes = await outcomes_of(
            shop.work, range(20), rng, 1.0, lambda: ready.append(shop.statistics().ready)
        )
    begun = Counter(note[1] for _, note in simulation.notes if note[0] == "begin")
    assert {number: outcome for number, (outcome, _) in outcomes.items()} == {
        number: -number for number in range(20)
    }
    assert set(begun.values()) == {1}
    assert min(ready) >= 2
    assert [each.incarnation for each in simulation.instances] == [2, 2]


async def leavings(simulation: Simulation) -> None:
    """Two of three replicas drain under continuous calls: no call fails or runs twice."""
    rng = simulation.rng
    shop = await simulation.deploy(noting(simulation, 0.1), name="shop", replicas=3)

    async def leave() -> None:
        await stay(rng, 0.5)
        await shop.scale(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        outcomes = await outcomes_of(shop.work, range(20), rng, 1.0)
    assert all(outcome == -number for number, (outcome, _) in outcomes.items()), outcomes
    begun = Counter(note[1] for _, note in simulation.notes if note[0] == "begin")
    assert set(begun.values()) == {1}
