"""The instance that gets a call, for each policy."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio.testing

from spear.calls import POLICIES, ChoicePolicy, SchedulingPolicy, make_policy

from .helpers import open_bench

if TYPE_CHECKING:
    from spear.calls import CallAttributes, Candidate, Candidates


def policy(name: SchedulingPolicy) -> ChoicePolicy:
    return make_policy(name, random.Random(1))


@pytest.mark.parametrize("name", POLICIES)
async def test_instances_that_are_full_or_gone_get_nothing(name: SchedulingPolicy) -> None:
    async with open_bench(policy(name), "abcd", calls=1) as bench:
        await bench.occupy("a")
        await bench.lose("c")
        answers = await bench.ask(40) + await bench.ask(5, "s") + await bench.ask(5, "t")
        assert set(answers) <= {"b", "d"}
        await bench.occupy("b")
        await bench.occupy("d")
        assert bench.choose() is None
        assert bench.choose("a session") is None
        await bench.release("b")
        assert await bench.ask(3) == "bbb"
        assert await bench.ask(3, "a session") == "bbb"


@pytest.mark.parametrize("name", POLICIES)
async def test_instances_get_no_more_calls_than_they_are_limited_to(
    name: SchedulingPolicy,
) -> None:
    async with open_bench(policy(name), "ab") as bench:
        bench.candidates.set_limit(2)
        await bench.occupy("a", 2)
        assert set(await bench.ask(20) + await bench.ask(20, "s")) == {"b"}
        await bench.occupy("b", 2)
        assert bench.choose() is None
        bench.candidates.set_limit(3)
        assert set(await bench.ask(20)) <= {"a", "b"}
        bench.candidates.set_limit(2)
        assert bench.choose() is None
        bench.candidates.set_limit(None)
        assert bench.choose() is not None


@pytest.mark.parametrize("name", POLICIES)
async def test_no_policy_chooses_from_nothing(name: SchedulingPolicy) -> None:
    async with open_bench(policy(name)) as bench:
        assert bench.choose() is None
        assert bench.choose("a session") is None
        candidate = await bench.add("a")
        assert bench.choose() is candidate
        bench.candidates.remove(candidate)
        assert bench.choose() is None
        assert len(bench.candidates) == 0


async def test_round_robin() -> None:
    async with open_bench(policy("round-robin"), "abc") as bench:
        assert await bench.ask(7) == "abcabca"


async def test_candidates_stand_in_the_order_of_their_names() -> None:
    async with open_bench(policy("round-robin")) as bench:
        for name in ("n-10", "n-2", "n-1"):
            await bench.add(name)
        await bench.add("n-2", incarnation=2)
        assert [str(each.callee.id) for each in bench.candidates.all] == [
            "memory:n-1#1", "memory:n-2#1", "memory:n-2#2", "memory:n-10#1",
        ]  # fmt: skip


async def test_least_loaded() -> None:
    async with open_bench(policy("least-loaded"), "abc", calls=9) as bench:
        for _ in range(7):
            candidate = bench.choose()
            assert candidate is not None
            await bench.occupy(candidate.name, 1)
        assert sorted(bench.loads()) == [2, 2, 3]
        await bench.release("b")
        assert await bench.ask(3) == "bbb"


async def test_least_loaded_gives_idle_ones_their_turns() -> None:
    async with open_bench(policy("least-loaded"), "abc") as bench:
        assert Counter(await bench.ask(9)) == {"a": 3, "b": 3, "c": 3}


async def test_random_goes_everywhere() -> None:
    async with open_bench(policy("random"), "abc") as bench:
        found = Counter(await bench.ask(300))
        assert min(found[name] for name in "abc") > 60


async def test_power_of_two_keeps_loads_close() -> None:
    async with open_bench(policy("power-of-two"), "abcdefgh") as bench:
        for _ in range(160):
            candidate = bench.choose()
            assert candidate is not None
            await bench.occupy(candidate.name, 1)
        loads = bench.loads()
        assert sum(loads) == 160
        assert max(loads) - min(loads) <= 5  # random choice would give about 20


async def test_power_of_two_with_one() -> None:
    async with open_bench(policy("power-of-two"), "a") as bench:
        assert await bench.ask(2) == "aa"


async def test_sticky() -> None:
    async with open_bench(policy("sticky"), "abcde") as bench:
        homes = {f"user {n}": (await bench.ask(3, f"user {n}")) for n in range(50)}
        assert all(len(set(home)) == 1 for home in homes.values())
        assert {home[0] for home in homes.values()} == set("abcde")
        assert await bench.ask(5) == "abcde"  # without a session, round robin
        await bench.lose("c")
        for session, home in homes.items():
            moved = await bench.ask(1, session)
            assert moved == home[0] or home[0] == "c", "a session moved although its replica exists"


async def test_sticky_sessions_come_back_to_a_replacement() -> None:
    async with open_bench(policy("sticky"), "abcde") as bench:
        sessions = [f"user {n}" for n in range(50)]
        homes = {session: await bench.ask(1, session) for session in sessions}
        old = next(each for each in bench.candidates.all if each.name == "c")
        await bench.add("c", incarnation=2)
        bench.candidates.remove(old)
        await trio.testing.wait_all_tasks_blocked()
        assert {session: await bench.ask(1, session) for session in sessions} == homes


async def test_a_policy_of_the_program_sees_the_call_and_the_loads() -> None:
    class BySession:
        """Give sessions whose name ends in "!" the busiest instance, and all others the idlest."""

        def __init__(self, rng: random.Random) -> None:
            self.seen: list[str | None] = []

        def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
            self.seen.append(call.session)
            free = [each for each in candidates.all if each.has_capacity]
            free.sort(key=lambda each: each.calls_in_flight)
            is_urgent = call.session is not None and call.session.endswith("!")
            return free[-1 if is_urgent else 0] if free else None

    made = make_policy(BySession, random.Random(1))
    assert isinstance(made, BySession)
    async with open_bench(made, "ab") as bench:
        await bench.occupy("a", 3)
        assert await bench.ask(1, "one!") == "a"
        assert await bench.ask(1, "one") == "b"
    assert made.seen == ["one!", "one"]
