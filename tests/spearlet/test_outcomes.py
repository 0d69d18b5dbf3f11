"""Calls with a key: executed once, whoever asks and however often."""

from __future__ import annotations

import math
import os
import random
import signal
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

import spear
from spear import DeploymentSettings, FunctionRaised, Rejected, WorkerDied, open_spearlet

from .helpers import Probe, deployed, pid, write

if TYPE_CHECKING:
    from pathlib import Path


@attrs.define
class Shop:
    """Functions that count their executions."""

    orders: list[object] = attrs.field(factory=list)
    release: trio.Event = attrs.field(factory=trio.Event)
    begun: trio.Event = attrs.field(factory=trio.Event)

    def agent(self) -> spear.Agent:
        app = spear.Agent("shop")
        app.function(self.order)
        app.function(self.slow)
        app.function(self.fail)
        app.function(self.large)
        return app

    async def order(self, item: object) -> int:
        self.orders.append(item)
        return len(self.orders)

    async def slow(self, item: object) -> int:
        self.begun.set()
        try:
            await self.release.wait()
        finally:
            self.orders.append(item)
        return len(self.orders)

    async def fail(self) -> None:
        self.orders.append("fail")
        raise ValueError(f"number {len(self.orders)}")

    async def large(self, size: int) -> bytes:
        self.orders.append(size)
        return bytes(size)


async def test_r14_calls_with_the_same_key_are_one_call() -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        order = deployment.order.options(key="a")
        assert [await order("tea") for _ in range(3)] == [1, 1, 1]
        assert await deployment.order.options(key="b")("tea") == 2
        assert await deployment.order("tea") == 3
        assert shop.orders == ["tea"] * 3


async def test_keys_of_other_functions_are_others() -> None:
    shop = Shop()
    shop.release.set()
    async with deployed(shop.agent()) as deployment:
        assert await deployment.order.options(key="a")("tea") == 1
        assert await deployment.slow.options(key="a")("tea") == 2


async def test_the_same_key_with_other_arguments_is_a_mistake() -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        order = deployment.order.options(key="a")
        await order("tea")
        with pytest.raises(Rejected, match="'a' was used for a call of order with other arg") as no:
            await order("coffee")
        assert no.value.delivered == "no"
        assert shop.orders == ["tea"]


async def test_who_comes_meanwhile_waits_for_the_same_outcome() -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        slow = deployment.slow.options(key="a")
        running = [slow.submit("tea") for _ in range(5)]
        await shop.begun.wait()
        await trio.testing.wait_all_tasks_blocked()
        shop.release.set()
        assert [await each.result() for each in running] == [1] * 5
        assert shop.orders == ["tea"]


async def test_what_it_raised_is_an_outcome_too() -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        for _ in range(3):
            with pytest.raises(FunctionRaised, match="number 1") as caught:
                await deployment.fail.options(key="a")()
            assert caught.value.delivered == "yes"
        assert shop.orders == ["fail"]


async def test_r14_who_gives_up_does_not_end_it() -> None:
    """Otherwise nobody could say whether it happened, and the next one might do it again."""
    shop = Shop()
    async with deployed(shop.agent()) as deployment, trio.open_nursery() as nursery:
        slow = deployment.slow.options(key="a")
        first = trio.CancelScope()

        @nursery.start_soon
        async def give_up() -> None:
            with first:
                await slow("tea")

        await shop.begun.wait()
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert shop.orders == []
        shop.release.set()
        assert await slow("tea") == 1
        assert shop.orders == ["tea"]


async def test_after_another_failure_it_is_executed_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        slow = deployment.slow.options(key="a", timeout=1)
        running = [slow.submit("tea") for _ in range(2)]
        for each in running:
            with pytest.raises(spear.DeadlineExceeded):
                await each.result()
        await trio.testing.wait_all_tasks_blocked()
        shop.release.set()
        assert await slow("tea") == 2


async def test_at_the_end_of_the_spearlet_it_is_cancelled() -> None:
    shop = Shop()
    limits = spear.Limits(drain_seconds=0.01)
    async with deployed(shop.agent(), limits=limits) as deployment:
        execution = deployment.slow.options(key="a").submit("tea")
        await shop.begun.wait()
    with pytest.raises((WorkerDied, spear.CallCancelled)):
        await execution.result()


async def test_who_waits_has_a_deadline_of_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        execution = deployment.slow.options(key="a").submit("tea")
        await shop.begun.wait()
        with pytest.raises(spear.DeadlineExceeded, match="being executed for the key 'a'") as late:
            await deployment.slow.options(key="a", timeout=3)("tea")
        assert late.value.delivered == "maybe"
        shop.release.set()
        assert await execution.result() == 1


async def test_outcomes_are_kept_for_a_while(autojump_clock: trio.testing.MockClock) -> None:
    shop = Shop()
    settings = DeploymentSettings(dedup_seconds=60)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(shop.agent(), settings=settings)
        order = deployment.order.options(key="a")
        assert await order("tea") == 1
        await trio.sleep(59)
        assert await order("tea") == 1
        await trio.sleep(2)
        assert await order("tea") == 2


async def test_r18_outcomes_are_bounded() -> None:
    shop = Shop()
    limits = spear.Limits(max_outcomes=2, outcome_bytes=1000)
    async with deployed(shop.agent(), limits=limits) as deployment:
        for key in "abc":
            await deployment.order.options(key=key)("tea")
        assert await deployment.order.options(key="c")("tea") == 3
        assert await deployment.order.options(key="a")("tea") == 4  # was forgotten
        large = deployment.large.options(key="x")
        assert len(await large(600)) == 600  # type: ignore[arg-type]  # bytes
        assert len(await deployment.large.options(key="y")(600)) == 600  # type: ignore[arg-type]  # bytes
        assert shop.orders[-2:] == [600, 600]
        await large(600)
        assert shop.orders[-1] == 600
        assert len(shop.orders) == 7  # x was forgotten for y
        assert len(await deployment.large.options(key="z")(2000)) == 2000  # type: ignore[arg-type]  # bytes
        with pytest.raises(Rejected, match="too large to be kept") as caught:
            await deployment.large.options(key="z")(2000)
        assert caught.value.delivered == "yes"


@pytest.mark.parametrize("key", ["", "x" * 257, 5, b"a"])
async def test_a_key_that_is_none(key: object) -> None:
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(spear.InvalidArguments, match="key must be text of 1 to 256"):
            deployment.echo.options(key=key)  # type: ignore[arg-type]  # the mistake


DYING = """
import os, spear
app = spear.Agent("dying")

@app.function
async def die(book: str) -> None:
    with open(book, "a") as file:
        file.write("x")
    os._exit(7)
"""


@pytest.mark.slow
async def test_r14_a_function_whose_process_dies_is_started_3_times_under_one_key_and_else_once(
    tmp_path: Path,
) -> None:
    target = write(tmp_path, "dying.py", DYING)
    policy = spear.RestartPolicy(
        intensity=100, first_delay_seconds=0.01, longest_delay_seconds=0.05
    )
    settings = spear.DeploymentSettings(replicas=2, restart=policy)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(target, settings=settings)
        for key, starts in ((None, 1), ("one", 3), ("two", 3)):
            book = tmp_path / f"book of {key}"
            die = deployment.die.options(key=key)
            with pytest.raises(WorkerDied, match="exited with status 7") as caught:
                await die(str(book))
            assert caught.value.delivered == "maybe"
            assert book.read_text() == "x" * starts
        with pytest.raises(WorkerDied):  # nothing was kept: it is another call
            await deployment.die.options(key="two")(str(book))
        assert book.read_text() == "x" * 6


FLAKY = """
import os, spear
app = spear.Agent("flaky")

@app.function
async def count(number: int) -> int:
    # What it does to the world is done by another function, which is asked under the same key.
    key = spear.context().key
    return await spear.call_once(key, "book.enter", number)
"""


@pytest.mark.slow
async def test_r14_with_a_key_each_call_is_executed_once_whatever_is_killed(
    tmp_path: Path, seed: random.Random
) -> None:
    """Workers are killed at random; each call with a key is executed, and none twice."""
    calls, at_once = 2000, 32
    entries: Counter[int] = Counter()
    book = spear.Agent("book")

    @book.function
    async def enter(number: int) -> int:
        entries[number] += 1
        return number

    kills = sorted(seed.sample(range(calls // 10, calls), 3))
    target = write(tmp_path, "flaky.py", FLAKY)
    done: list[int] = []
    killed: set[spear.InstanceId] = set()
    async with open_spearlet() as spearlet:
        await spearlet.deploy(book, name="book")
        flaky = await spearlet.deploy(target, replicas=3)

        async def work(numbers: range) -> None:
            for number in numbers:
                count = flaky.count.options(key=f"number {number}", timeout=math.inf)
                while True:
                    try:
                        assert await count(number) == number
                        break
                    except WorkerDied:
                        await trio.lowlevel.checkpoint()  # tried three times: again, with its key
                done.append(number)
                alive = [each for each in flaky.replicas if each.id not in killed]
                if kills and len(done) >= kills[0] and alive:
                    kills.pop(0)
                    victim = seed.choice(alive)
                    killed.add(victim.id)
                    os.kill(pid(victim), signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            for first in range(at_once):
                nursery.start_soon(work, range(first, calls, at_once))
        assert len(killed) == 3
    assert entries == dict.fromkeys(range(calls), 1)
