"""With hundreds of replicas a call costs its host at most twice as much as with one.

Work is counted, not timed: function calls in the host and in the agents, as a profiler reports them. A
loop over all replicas that calls a function for each shows up as hundreds of calls.
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, TypeAlias

import pytest
import trio
import trio.testing
from spearlet.bench import Bench, open_bench

from spear import DeploymentSettings
from spear.calls import POLICIES, SchedulingPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from random import Random
    from types import FrameType

    from spear.calls import CallAttributes, Candidate, Candidates, Function, PolicyFactory

pytestmark = pytest.mark.slow

MANY = 300
MOST_TIMES = 2.0
CALLS = 200


class Counter:
    """A counter of the function calls inside a block."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, argument: object) -> None:
        self.count += event in ("call", "c_call")


Scene: TypeAlias = "Callable[[Bench], Awaitable[float]]"
"""A function that makes calls, and returns the number of Python functions called for each of them."""


@asynccontextmanager
async def replicas(
    count: int, policy: SchedulingPolicy | PolicyFactory, calls: int
) -> AsyncIterator[Bench]:
    settings = DeploymentSettings(policy=policy, queue=10 * MANY)
    names = [f"r-{number}" for number in range(count)]
    async with open_bench(names, calls, settings) as bench:
        yield bench


async def ask(bench: Bench, calls: int, sessions: int) -> None:
    for number in range(calls):
        function = bench.function
        if sessions:
            function = function.options(session=f"user {number % sessions}")
        await function()


async def idle(bench: Bench) -> float:
    """Every replica has free slots, and calls follow each other."""
    await ask(bench, 2 * len(bench.replicas), sessions=7)
    with Counter() as counter:
        await ask(bench, CALLS, sessions=7)
    return counter.count / CALLS


async def strangers(bench: Bench) -> float:
    """Each call has a new session."""
    with Counter() as counter:
        await ask(bench, CALLS, sessions=CALLS)
    return counter.count / CALLS


async def crowded(bench: Bench) -> float:
    """All of hundreds of replicas but one are full."""
    async with trio.open_nursery() as nursery:
        await bench.occupy(nursery, *range(1, len(bench.replicas)))
        await ask(bench, 10, sessions=7)
        with Counter() as counter:
            await ask(bench, CALLS, sessions=7)
        for service in bench.services:
            service.release.set()
    return counter.count / CALLS


async def ask_again(function: Function, times: int) -> None:
    for _ in range(times):
        await function()


async def full(bench: Bench) -> float:
    """All replicas are full, and calls wait."""
    callers = len(bench.replicas) * 2 + 32
    each = max(2 * CALLS // callers, 2)
    async with trio.open_nursery() as nursery:
        with Counter() as counter:
            for number in range(callers):
                function = bench.function.options(session=f"user {number % 7}")
                nursery.start_soon(ask_again, function, each)
            await trio.testing.wait_all_tasks_blocked()
    return counter.count / (callers * each)


SCENES = (idle, strangers, full, crowded)


async def work_of(
    scenes: Sequence[Scene], count: int, policy: SchedulingPolicy | PolicyFactory
) -> list[float]:
    """Return the number of Python functions called per call, scene by scene."""
    found: list[float] = []

    async def play() -> None:
        found.extend([await scene(bench) for scene in scenes])
        done.set()

    done = trio.Event()
    async with replicas(count, policy, calls=2) as bench:
        # Runs in a new task, because this one is inside a cancel scope of each replica.
        bench.nursery.start_soon(play)
        await done.wait()
    return found


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_call_costs_no_more_than_twice_as_much(policy: SchedulingPolicy) -> None:
    one, many = await work_of(SCENES, 1, policy), await work_of(SCENES, MANY, policy)
    for scene, few, more in zip(SCENES, one, many, strict=True):
        assert more <= MOST_TIMES * few, scene.__name__


class LookAtAll:
    """A policy that scans all replicas, which the rule forbids."""

    def __init__(self, _: Random) -> None:
        pass

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        return next(iter([each for each in candidates.all if each.has_capacity]), None)


async def test_the_count_notices_a_policy_that_looks_at_all_replicas() -> None:
    (one,), (many,) = await work_of([idle], 1, LookAtAll), await work_of([idle], MANY, LookAtAll)
    assert many > MOST_TIMES * one
