"""Settings of deployments, valid and invalid."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from spear import (
    Agent,
    CallFailed,
    ConfigurationError,
    DeploymentSettings,
    RestartPolicy,
    open_spearlet,
)

from .bench import open_bench

if TYPE_CHECKING:
    from spear.calls import CallAttributes, Candidate, Candidates, PolicyFactory


class Last:
    """A policy of the program: it chooses the last candidate, whatever its load."""

    def __init__(self, _: random.Random) -> None:
        pass

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        free = [each for each in candidates.all if each.has_capacity]
        return free[-1] if free else None


async def test_a_policy_of_the_program() -> None:
    async with open_bench(3, settings=DeploymentSettings(policy=Last)) as bench:
        assert [await bench.where() for _ in range(3)] == ["c", "c", "c"]


class Waits:
    """A policy whose method a host cannot call."""

    def __init__(self, _: random.Random) -> None:
        pass

    async def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        return None


@pytest.mark.parametrize(
    ("policy", "fault"),
    [
        (lambda candidates, call: candidates.draw(call), "raises TypeError: .*missing 1 required"),
        (lambda rng: None, "returns None"),
        (lambda rng: rng, "returns <random.Random object"),
        (lambda rng: Last, "returns <class .*Last"),
        (Waits, "returns <.*Waits object"),
    ],
)
async def test_a_policy_that_cannot_choose_is_refused_when_it_is_deployed(
    policy: PolicyFactory, fault: str
) -> None:
    settings = DeploymentSettings(policy=policy)
    async with open_spearlet() as spearlet:
        with pytest.raises(ConfigurationError, match="policy must be a function that") as caught:
            await spearlet.deploy(Agent("shop"), settings=settings)
        assert caught.value.key == "policy"
        assert re.search(fault, str(caught.value))
        shop = await spearlet.deploy(Agent("shop"))
        with pytest.raises(ConfigurationError, match="policy must be a function that"):
            await shop.restart(settings=settings)
        assert str(shop.replicas[0].id) == "memory:shop-1#1"


async def test_a_policy_that_chooses_no_candidate_fails_the_call_alone(seed: random.Random) -> None:
    chosen: list[object] = []

    class Junk:
        def __init__(self, _: random.Random) -> None:
            pass

        def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
            return chosen[0] if chosen else candidates.draw(seed)  # type: ignore[return-value]  # the mistake

    agent = Agent("shop")

    @agent.function
    async def price() -> int:
        return 3

    settings = DeploymentSettings(policy=Junk)
    async with open_spearlet() as spearlet:
        shop = await spearlet.deploy(agent, settings=settings)
        other = await spearlet.deploy(agent, name="other", settings=settings)
        mistakes: tuple[object, ...] = ("shop-1", [], other._pool._candidates.all[0])
        for junk in mistakes:
            chosen[:] = [junk]
            with pytest.raises(CallFailed, match="the policy Junk of shop returned") as caught:
                await shop.price()
            assert (caught.value.code, caught.value.delivered) == ("bad_choice", "no")
        chosen.clear()
        assert await shop.price() == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"policy": "best"}, "policy must be one of round-robin, least-loaded.*, or a function"),
        ({"queue": -1}, "queue must be from 0"),
        ({"queue": True}, "queue must be a whole number"),
        ({"concurrency": 0}, "concurrency must be from 1"),
        ({"timeout": 0}, "timeout must be a number of seconds, at least"),
        ({"timeout": "2"}, "timeout must be"),
        ({"dedup_seconds": -1}, "dedup_seconds must be"),
        ({"abandoned_seconds": 0}, "abandoned_seconds must be a number of seconds, at least 0.1"),
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
        ({"retry_seconds": 0}, "restart.retry_seconds must be a number of seconds, at least 1"),
    ],
    ids=str,
)
def test_restarts_that_cannot_be(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RestartPolicy(**values)  # type: ignore[arg-type]  # the mistake


async def test_who_gives_up_at_the_head_of_the_line_lets_the_next_one_look(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Picky:
        """A policy that lets calls of the session "never" wait, even if there are free slots."""

        def __init__(self, rng: random.Random) -> None:
            self._rng = rng

        def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
            return None if call.session == "never" else candidates.draw(self._rng)

    agent = Agent("shop")

    @agent.function
    async def twice(number: int) -> int:
        return 2 * number

    async def wait_in_vain() -> None:
        with trio.move_on_after(3) as patience:
            await shop.twice.options(session="never")(1, timeout=60)
        assert patience.cancelled_caught

    settings = DeploymentSettings(policy=Picky)
    async with (
        open_spearlet() as spearlet,
        await spearlet.deploy(agent, settings=settings) as shop,
        trio.open_nursery() as nursery,
    ):
        begun = trio.current_time()
        nursery.start_soon(wait_in_vain)
        await trio.testing.wait_all_tasks_blocked()
        assert await shop.twice(2, timeout=60) == 4
        assert 3 <= trio.current_time() - begun < 4
