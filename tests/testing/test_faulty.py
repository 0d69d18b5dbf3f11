"""Agents whose calls suffer faults, in virtual time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

import spear
from spear.channels import CommunicationStrategy
from spear.runtimes import MemorySettings
from spear.spearlet import open_spearlet
from spear.testing import Faulty, InjectedFault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear.testing import FaultyCalls

ONCE = spear.RetryPolicy(max_attempts=1)


class Shop:
    """An agent, and what its functions have done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.app = spear.Agent("shop", concurrency=10)

        @self.app.function
        async def charge(card: str) -> str:
            self.done.append(card)
            return f"charged {card}"

        @self.app.function
        async def ship(number: int) -> int:
            self.done.append(f"ship {number}")
            return number

        @self.app.function
        def plain(number: int) -> int:
            return number

        @self.app.function
        async def count(end: int) -> AsyncIterator[int]:
            for number in range(end):
                yield number

        @self.app.function
        async def wait() -> None:
            await trio.sleep_forever()


async def test_a_death_is_that_of_a_process_and_the_instance_is_replaced(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shop, events = Shop(), list[str]()
    faulty = Faulty(shop.app, die=1, die_at_end=3, exit_status=3, stderr="no memory\n")
    async with open_spearlet() as spearlet:
        deployed = await spearlet.deploy(
            faulty, on_event=lambda each: events.append(f"{each.instance_id} {each.state.value}")
        )
        assert deployed.name == "shop"
        with pytest.raises(spear.WorkerDied) as caught:
            await deployed.charge("a")
        error = caught.value
        assert (error.delivered, error.exit_status, error.stderr_tail) == ("maybe", 3, "no memory")
        assert error.summary == "memory:shop-1#1 exited with status 3"
        assert shop.done == []

        assert await deployed.charge("b") == "charged b"
        assert [str(each.id) for each in deployed.replicas] == ["memory:shop-1#2"]
        assert [each.line.text for each in deployed.logs()] == ["no memory"]

        with pytest.raises(spear.WorkerDied):
            await deployed.charge("c")
        assert shop.done == ["b", "c"]
        assert await deployed.ship(4) == 4
        assert deployed.statistics().lost == 2
    assert faulty.faults == [
        InjectedFault("die", "charge", 1),
        InjectedFault("die_at_end", "charge", 3),
    ]
    assert [each for each in events if each.endswith(("ready", "exited"))] == [
        f"memory:shop-1#{number} {state}" for number in (1, 2, 3) for state in ("ready", "exited")
    ]


async def test_a_death_takes_the_other_calls_of_its_instance_and_no_calls_of_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shop, lost = Shop(), list[spear.WorkerDied]()
    faulty = MemorySettings(agent=Faulty(shop.app, die={"charge": 1}), shares_process=True)

    async def wait(deployed: spear.Deployment) -> None:
        with trio.move_on_after(1000):
            try:
                await deployed.wait(timeout=2000)
            except spear.WorkerDied as error:
                lost.append(error)

    async with open_spearlet() as spearlet, trio.open_nursery() as nursery:
        deployed = await spearlet.deploy(faulty, replicas=2)
        for _ in range(2):
            nursery.start_soon(wait, deployed)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(spear.WorkerDied) as caught:
            await deployed.charge("a")
        await trio.testing.wait_all_tasks_blocked()
        assert [(each.exit_status, each.delivered) for each in lost] == [(-9, "maybe")]
        assert lost[0].summary == caught.value.summary
        assert lost[0].summary.endswith("was killed by SIGKILL")


async def test_slow_and_hanging_calls_take_virtual_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shop = Shop()
    faulty = Faulty(shop.app, slow=[1, 2], hang={"charge": 3}, slow_seconds=1000)
    async with open_spearlet() as spearlet:
        deployed = await spearlet.deploy(faulty)
        begun = trio.current_time()
        assert await deployed.charge("a", timeout=2000) == "charged a"
        assert trio.current_time() - begun == pytest.approx(1000)
        for _ in range(2):
            with pytest.raises(spear.DeadlineExceeded):
                await deployed.charge("b", timeout=500)
        assert shop.done == ["a"]
        async with deployed.count.stream(3) as stream:
            assert [each async for each in stream] == [0, 1, 2]
    assert [each.kind for each in faulty.faults] == ["slow", "slow", "hang"]


async def test_retries_and_items_of_a_map_are_calls_of_their_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shop = Shop()
    faulty = Faulty(shop.app, die=[1, 2], slow={"charge": 3}, die_at_end=6)
    again = spear.RetryPolicy(max_attempts=3, idempotent=True)
    async with open_spearlet() as spearlet:
        deployed = await spearlet.deploy(faulty)
        assert await deployed.charge.options(retry=again)("a") == "charged a"
        async with deployed.ship.options(retry=again).map(range(20)) as results:
            assert [each async for each in results] == list(range(20))
    kinds = [(each.kind, each.number) for each in faulty.faults]
    assert kinds == [("die", 1), ("die", 2), ("slow", 3), ("die_at_end", 6)]
    assert {*shop.done} == {"a", *(f"ship {number}" for number in range(20))}
    assert len(shop.done) > 21  # the item whose result was lost has run again


async def test_plain_functions_suffer_faults_too() -> None:
    async with open_spearlet() as spearlet:
        deployed = await spearlet.deploy(Faulty(Shop().app, die=1, slow=2, slow_seconds=0.001))
        with pytest.raises(spear.WorkerDied):
            await deployed.plain(3)
        assert await deployed.plain(4) == 4


async def suffered(seed: int, order: str) -> set[tuple[str, int]]:
    """Return the calls that suffer a fault: (function, number of its call)."""
    shop = Shop()
    faulty = Faulty(shop.app, hang={"charge": 0.5, "ship": 1.0}, seed=seed)
    counts, found = {"c": 0, "s": 0}, set[tuple[str, int]]()
    async with open_spearlet() as spearlet:
        deployed = await spearlet.deploy(faulty)
        for letter in order:
            counts[letter] += 1
            before = len(faulty.faults)
            with trio.move_on_after(1):
                await (deployed.charge("x") if letter == "c" else deployed.ship(1))
            if len(faulty.faults) > before:
                found.add((letter, counts[letter]))
    return found


async def test_a_seed_decides_by_function_and_number_whatever_the_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    first = await suffered(1, "c" * 20 + "s")
    assert await suffered(1, "s" + "c" * 20) == first
    assert await suffered(2, "c" * 20 + "s") != first
    assert ("s", 1) in first
    assert 3 < len(first) < 19


async def test_health_checks_suffer_nothing_and_faults_need_the_memory_channel(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = spear.Agent("sick")
    checks = list[float]()

    @app.health
    async def health() -> None:
        checks.append(trio.current_time())

    @app.function
    async def one() -> int:
        return 1

    faulty = Faulty(app, die=1)
    async with open_spearlet() as spearlet:
        deployed = await spearlet.deploy(faulty)
        assert [*await deployed.descriptions()] == ["one"]
        await trio.sleep(60)
        assert len(checks) > 2
        assert deployed.statistics().lost == 0
    strategies = {"memory": CommunicationStrategy(("unix",))}
    async with open_spearlet(strategies=strategies) as spearlet:
        with pytest.raises(spear.SpawnFailed, match="needs a channel in memory"):
            await spearlet.deploy(faulty)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (0, "die must be the number of a call"),
        (True, "not True"),
        (1.5, "not 1.5"),
        ([1, 0], "die must be the number of a call"),
        ("charge", "die must be the number of a call"),
        ({"charg": 1}, "names no function of the agent: 'charg'; did you mean 'charge'"),
        ({"charge": -1}, "not -1"),
    ],
)
async def test_faults_that_cannot_be_are_refused(calls: FaultyCalls, message: str) -> None:
    with pytest.raises(spear.ConfigurationError, match=re.escape(message)) as caught:
        Faulty(Shop().app, die=calls)
    assert caught.value.key == "die"
    with pytest.raises(spear.ConfigurationError, match="slow_seconds"):
        Faulty(Shop().app, slow_seconds=-1)


def test_only_an_agent_can_be_faulty() -> None:
    with pytest.raises(spear.ConfigurationError, match=r"must be a spear\.Agent") as caught:
        Faulty(cast("spear.Agent", "shop.py"), die=1)
    assert caught.value.key == "agent"


async def test_it_shows_its_faults() -> None:
    shop = Shop()
    assert repr(Faulty(shop.app)) == "<Faulty shop: no faults>"
    assert repr(Faulty(shop.app, die=2, slow={"wait": 0.5})) == (
        "<Faulty shop: slow={'wait': 0.5}, die=2>"
    )
