"""The index of candidates, compared with a full scan, along random walks."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from spear import InstanceId
from spear.calls import POLICIES, CallAttributes, Candidates, SchedulingPolicy, make_policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from spear import CallFailed
    from spear.calls import Candidate
    from spear.channels import CallStream, ExecutionResponse

STEPS = 3000


@attrs.define(eq=False)
class Slots:
    """A target whose calls begin and end when the test says so."""

    max_calls: int
    calls_in_flight: int = 0
    is_connected: bool = True
    closed: trio.Event = attrs.field(factory=trio.Event)
    on_free: Callable[[], None] | None = None

    @property
    def has_capacity(self) -> bool:
        return self.is_connected and self.calls_in_flight < self.max_calls

    def when_free(self, call: Callable[[], None] | None) -> None:
        self.on_free = call

    def begin(self) -> None:
        assert self.has_capacity
        self.calls_in_flight += 1

    def end(self) -> None:
        self.calls_in_flight -= 1
        if self.on_free is not None:
            self.on_free()

    def start_request(
        self, function: str, payload: object, now: float, deadline: float, *, is_cbor: bool
    ) -> None:
        raise NotImplementedError

    async def request(self, function: str, payload: object = b"", **_: object) -> ExecutionResponse:
        raise NotImplementedError

    def open_stream(
        self, function: str, payload: object = b"", **_: object
    ) -> AbstractAsyncContextManager[CallStream]:
        raise NotImplementedError


@attrs.define(eq=False)
class Instance:
    id: InstanceId
    has_ended: bool = False

    async def wait_exited(self) -> None:
        raise NotImplementedError

    async def explain_loss(self, error: object) -> CallFailed:
        raise NotImplementedError


class Walk:
    """A random walk: instances come and go, get calls, disconnect and reconnect."""

    def __init__(self, policy: SchedulingPolicy, rng: Random) -> None:
        self.policy, self.rng = policy, rng
        self.chooser = make_policy(policy, rng)
        self.candidates = Candidates()
        self.targets: dict[Candidate, Slots] = {}
        self.added = self.told = 0

    def tell(self) -> None:
        self.told += 1

    def step(self) -> None:
        moves = [self.add, self.remove, self.lose, self.return_, self.limit, self.listen]
        likely = [self.call] * 60 + [self.end] * 60
        self.rng.choice([*moves, *moves, self.add, *likely])()

    def add(self) -> None:
        if len(self.candidates) < 12:
            self.added += 1
            target = Slots(self.rng.randint(1, 4))
            instance = Instance(InstanceId("memory", f"r-{self.added % 9}", self.added))
            self.targets[self.candidates.add(instance, target)] = target

    def remove(self) -> None:
        if self.targets and self.rng.random() < 0.3:
            candidate = self.rng.choice(self.candidates.all)
            self.candidates.remove(candidate)
            assert self.targets.pop(candidate).on_free is None

    def lose(self) -> None:
        if self.targets:
            self.targets[self.rng.choice(self.candidates.all)].is_connected = False

    def return_(self) -> None:
        lost = [each for each, target in self.targets.items() if not target.is_connected]
        for candidate in lost:
            self.targets[candidate] = target = Slots(self.rng.randint(1, 4))
            self.candidates.refresh(candidate, target)

    def limit(self) -> None:
        self.candidates.set_limit(self.rng.choice([None, 1, 2]))

    def listen(self) -> None:
        self.candidates.when_free(self.rng.choice([None, self.tell]))

    def end(self) -> None:
        busy = [each for each in self.targets.values() if each.calls_in_flight]
        if busy:
            target, before = self.rng.choice(busy), self.told
            target.end()
            if self.candidates._on_free is not None and target.is_connected:
                assert self.told == before + 1, "a free slot was not reported"

    def call(self) -> None:
        free = [each for each in self.candidates.all if each.has_capacity]
        session = self.rng.choice([None, "a", "b", str(self.rng.random())])
        chosen = self.chooser.choose(self.candidates, CallAttributes(function="f", session=session))
        assert (chosen is None) == (not free)
        if chosen is not None:
            assert chosen in free
            if self.policy == "least-loaded":
                least = min(each.calls_in_flight for each in free)
                assert chosen.calls_in_flight == least
            self.targets[chosen].begin()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_finds_a_free_slot_exactly_if_there_is_one(
    policy: SchedulingPolicy, seed: Random
) -> None:
    walk = Walk(policy, seed)
    for _ in range(STEPS):
        walk.step()
    assert walk.added > 12


def test_capacity_is_what_all_take() -> None:
    candidates = Candidates()
    assert (candidates.capacity, candidates.smallest) == (0, 0)
    small, large = Slots(2), Slots(5)
    for number, target in enumerate((small, large)):
        candidates.add(Instance(InstanceId("memory", f"r-{number}")), target)
    assert (candidates.capacity, candidates.smallest) == (7, 2)
    candidates.set_limit(3)
    assert (candidates.capacity, candidates.smallest) == (5, 2)
    small.is_connected = False
    candidates.refresh(candidates.all[0], None)
    assert (candidates.capacity, candidates.smallest) == (3, 3)
    assert repr(candidates.all[0]) == "<Candidate memory:r-0#1: 0 of 0 calls>"


def test_nothing_is_drawn_but_what_may_be(seed: Random) -> None:
    candidates = Candidates()
    assert candidates.draw(seed) is None
    one = candidates.add(Instance(InstanceId("memory", "one")), Slots(1))
    assert candidates.draw(seed) is one
    assert candidates.draw(seed, but=one) is None
    other = candidates.add(Instance(InstanceId("memory", "other")), Slots(1))
    assert {candidates.draw(seed) for _ in range(50)} == {one, other}
    assert {candidates.draw(seed, but=one) for _ in range(20)} == {other}
    full = candidates.add(Instance(InstanceId("memory", "full")), Slots(0))
    assert {candidates.draw(seed, but=full) for _ in range(50)} == {one, other}
    assert {candidates.at(number) for number in range(10)} == {one, other}
