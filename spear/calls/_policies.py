"""Choice policies: which of the instances that have a free slot gets the next call.

A policy sees candidates and the attributes of the call. Queues, starts and losses are not its business.
Looking and choosing are one step, in which no other task runs: a candidate that has a free slot when the
policy chooses it has one when its call starts.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, final, get_args

if TYPE_CHECKING:
    from ._attributes import CallAttributes
    from ._candidates import Candidate, Candidates


class ChoicePolicy(Protocol):
    """Chooses the instance that gets a call.

    A policy object belongs to one deployment, so it may keep what it has learned.
    """

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        """Return a candidate that has a free slot; None if none has. Must neither block nor raise."""


PolicyFactory: TypeAlias = Callable[[Random], ChoicePolicy]
"""Makes a policy for one deployment. It gets the generator to draw from: simulations set its seed."""

SchedulingPolicy: TypeAlias = Literal[
    "round-robin", "least-loaded", "random", "power-of-two", "sticky"
]
"""Which of the replicas that have a free slot gets a call:

* ``round-robin``: each in its turn.
* ``least-loaded``: the one with the fewest calls.
* ``random``: any.
* ``power-of-two``: the one with fewer calls, of two that are drawn (Mitzenmacher 2001).
* ``sticky``: calls of the same ``session`` go to the same one as long as it is there and has a free slot;
  few sessions move when replicas come and go (rendezvous hashing). Without a session, as ``round-robin``.
"""

POLICIES: Final[tuple[SchedulingPolicy, ...]] = get_args(SchedulingPolicy)


@final
class RoundRobin:
    """Each in its turn."""

    def __init__(self, _: Random) -> None:
        self._turn = -1

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        """Return the next candidate that has a free slot."""
        members, turn = candidates.all, self._turn
        for _ in members:
            turn += 1
            if turn >= len(members):
                turn = 0
            if members[turn].has_capacity:
                self._turn = turn
                return members[turn]
        return None


@final
class LeastLoaded:
    """The one with the fewest calls; of several, each in its turn."""

    def __init__(self, _: Random) -> None:
        self._turn = 0

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        """Return the least loaded candidate that has a free slot."""
        free = candidates.free()
        if not free:
            return None
        # Otherwise idle replicas would all be passed over for the first of them.
        self._turn = turn = (self._turn + 1) % len(free)
        return min([*free[turn:], *free[:turn]], key=_load)


@final
class AnyOne:
    """Any."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        """Return a candidate that is drawn from those with a free slot."""
        free = candidates.free()
        return self._rng.choice(free) if free else None


@final
class PowerOfTwo:
    """The less loaded of two that are drawn."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        """Return the better of two that have a free slot; the only one, if there is but one."""
        free = candidates.free()
        if len(free) < 2:
            return free[0] if free else None
        return min(self._rng.sample(free, 2), key=_load)


@final
class Sticky:
    """The same one for the same session."""

    def __init__(self, rng: Random) -> None:
        self._others = RoundRobin(rng)

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        """Return the candidate that ranks first for this session among those with a free slot."""
        session = call.session
        if session is None:
            return self._others.choose(candidates, call)
        free = candidates.free()
        # By name, not by incarnation: a replica that is restarted keeps its sessions.
        return max(free, key=lambda each: _rank(session, each.name)) if free else None


def _load(candidate: Candidate) -> int:
    return candidate.calls_in_flight


def _rank(session: str, name: str) -> bytes:
    """Thaler and Ravishankar's rendezvous hashing: the highest rank wins, and each name has its own."""
    return blake2b(f"{name}\0{session}".encode(), digest_size=8).digest()


_POLICIES: Final[dict[SchedulingPolicy, PolicyFactory]] = {
    "round-robin": RoundRobin,
    "least-loaded": LeastLoaded,
    "random": AnyOne,
    "power-of-two": PowerOfTwo,
    "sticky": Sticky,
}


def make_policy(policy: SchedulingPolicy | PolicyFactory, rng: Random) -> ChoicePolicy:
    """Return a new policy.

    Args:
        policy: one of :data:`POLICIES` by name, or a factory of the program's own.
        rng: the generator that the policy draws from, if it draws.
    """
    factory = _POLICIES[policy] if isinstance(policy, str) else policy
    return factory(rng)
