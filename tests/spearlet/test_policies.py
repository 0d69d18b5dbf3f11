"""Which replica gets a call, policy by policy."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio
import trio.testing

from spear import ConfigurationError, DeploymentSettings, RestartPolicy
from spear.spearlet import SchedulingPolicy
from spear.spearlet._settings import POLICIES

from .bench import OCCUPY, Bench, open_bench


def settings(policy: SchedulingPolicy) -> DeploymentSettings:
    return DeploymentSettings(policy=policy)


async def ask(bench: Bench, times: int, session: str | None = None) -> str:
    function = bench.function.options(session=session)
    answers = [await function() for _ in range(times)]
    return b"".join(each for each in answers if isinstance(each, bytes)).decode()


@pytest.mark.parametrize("policy", POLICIES)
async def test_who_is_full_or_gone_gets_nothing(policy: SchedulingPolicy) -> None:
    async with (
        open_bench(4, calls=1, settings=settings(policy)) as bench,
        trio.open_nursery() as nursery,
    ):
        await bench.occupy(nursery, 0)
        await bench.agents[2].aclose()
        await trio.testing.wait_all_tasks_blocked()
        answers = await ask(bench, 40) + await ask(bench, 5, "a") + await ask(bench, 5, "b")
        assert set(answers) <= {"b", "d"}
        await bench.occupy(nursery, 1, 3)
        assert bench.pool.pick() is None
        assert bench.pool.pick("a session") is None
        for service in bench.services:
            service.release.set()


async def test_round_robin() -> None:
    async with open_bench(3, settings=settings("round-robin")) as bench:
        assert await ask(bench, 7) == "abcabca"


async def test_least_loaded() -> None:
    async with (
        open_bench(3, calls=9, settings=settings("least-loaded")) as bench,
        trio.open_nursery() as nursery,
    ):
        for _ in range(7):
            nursery.start_soon(bench.function, OCCUPY)
            await trio.testing.wait_all_tasks_blocked()
        loads = [each.channel.calls_in_flight for each in bench.replicas]
        assert sorted(loads) == [2, 2, 3]
        bench.services[1].release.set()
        await trio.testing.wait_all_tasks_blocked()
        assert await ask(bench, 3) == "bbb"
        for service in bench.services:
            service.release.set()


async def test_least_loaded_gives_idle_ones_their_turns() -> None:
    async with open_bench(3, settings=settings("least-loaded")) as bench:
        assert Counter(await ask(bench, 9)) == {"a": 3, "b": 3, "c": 3}


async def test_random_goes_everywhere() -> None:
    async with open_bench(3, settings=settings("random")) as bench:
        found = Counter(await ask(bench, 300))
        assert min(found[name] for name in "abc") > 60


async def test_power_of_two_keeps_loads_close() -> None:
    async with (
        open_bench(8, settings=settings("power-of-two")) as bench,
        trio.open_nursery() as nursery,
    ):
        for _ in range(160):
            nursery.start_soon(bench.function, OCCUPY)
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        loads = [each.channel.calls_in_flight for each in bench.replicas]
        assert max(loads) - min(loads) <= 5  # at random it would be some 20
        for service in bench.services:
            service.release.set()


async def test_power_of_two_with_one() -> None:
    async with open_bench(1, settings=settings("power-of-two")) as bench:
        assert await ask(bench, 2) == "aa"


async def test_sticky() -> None:
    async with open_bench(5, settings=settings("sticky")) as bench:
        homes = {f"user {n}": (await ask(bench, 3, f"user {n}")) for n in range(50)}
        assert all(len(set(home)) == 1 for home in homes.values())
        assert {home[0] for home in homes.values()} == set("abcde")
        assert await ask(bench, 5) == "abcde"  # without a session, each in turn
        await bench.agents[2].aclose()
        await trio.testing.wait_all_tasks_blocked()
        for session, home in homes.items():
            moved = await ask(bench, 1, session)
            assert moved == home[0] or home[0] == "c", "only those move whose home is gone"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"policy": "best"}, "policy must be one of round-robin, least-loaded"),
        ({"queue": -1}, "queue must be from 0"),
        ({"queue": True}, "queue must be a whole number"),
        ({"concurrency": 0}, "concurrency must be from 1"),
        ({"timeout": 0}, "timeout must be at least"),
        ({"timeout": "2"}, "timeout must be"),
        ({"dedup_seconds": -1}, "dedup_seconds must be"),
        ({"replicas": 3.0}, r"replicas must be a whole number or spear.Scale"),
        ({"restart": None}, "restart must be RestartPolicy"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DeploymentSettings(**values)  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"intensity": -1}, "restart.intensity must be"),
        ({"period_seconds": float("inf")}, "restart.period_seconds must be"),
        ({"first_delay_seconds": None}, "restart.first_delay_seconds must be"),
        ({"retry_seconds": 0}, "restart.retry_seconds must be at least 1"),
    ],
    ids=str,
)
def test_restarts_that_cannot_be(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RestartPolicy(**values)  # type: ignore[arg-type]  # the mistake


def test_r17_the_same_seed_draws_the_same_delays_and_another_others(seed: random.Random) -> None:
    from spear.spearlet._restarts import RestartBudget

    def draw(number: float) -> list[float | None]:
        budget = RestartBudget(RestartPolicy(), random.Random(number))
        return [budget.delay_seconds(0, 0) for _ in range(3)]

    number = seed.random()
    assert draw(number) == draw(number)
    assert not set(draw(number)) & set(draw(number + 1))
