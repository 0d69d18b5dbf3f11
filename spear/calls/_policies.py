"""Choice policies: which of the instances that have a free slot gets the next call.

A policy sees candidates and the attributes of the call, but neither the queue nor replicas that are
starting or have died. A candidate is the instance that a replica runs at present, and a free slot is its
room for one more call. No other task runs between the policy's choice and the start of the call, so the
slot is still free then.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, final, get_args

from spear._errors import ConfigurationError
from spear._hooks import is_plain_function
from spear._util import summary_of

from ._ring import HashRing, hash_of

if TYPE_CHECKING:
    from ._attributes import CallAttributes
    from ._candidates import Candidate, Candidates


class ChoicePolicy(Protocol):
    """A policy that chooses the instance for each call.

    A policy object belongs to one deployment, so it may keep what it has learned.
    """

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        """Return a candidate that has a free slot, or None to let the call wait in the queue.

        Must not block. An exception is raised to the caller of the function. Spear does not check
        for the free slot: a call for a full candidate is queued at that instance. A value that is
        neither a candidate nor None fails the call with CallFailed, code ``bad_choice``.
        """


PolicyFactory: TypeAlias = Callable[[Random], ChoicePolicy]
"""Makes a policy for one deployment, with the generator to draw from, whose seed simulations set."""

SchedulingPolicy: TypeAlias = Literal[
    "round-robin", "least-loaded", "random", "power-of-two", "sticky"
]
"""Which of the replicas that have a free slot gets a call:

* ``round-robin``: each in its turn.
* ``least-loaded``: the one with the fewest calls.
* ``random``: one drawn at random.
* ``power-of-two``: the one with fewer calls, of two that are drawn (Mitzenmacher 2001).
* ``sticky``: calls of the same ``session`` go to the same one as long as it is there and has a free slot;
  few sessions move when replicas come and go (consistent hashing). Without a session, as ``round-robin``.
"""

POLICIES: Final[tuple[SchedulingPolicy, ...]] = get_args(SchedulingPolicy)


MOST_LOOKS: Final = 8
"""Candidates that a policy with its own order looks at, before it takes any that has a free slot."""


@final
class RoundRobin:
    """A policy that takes the candidates in turn."""

    def __init__(self, _: Random) -> None:
        self._turn = -1

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        """Return the next candidate that has a free slot."""
        members, turn = candidates.all, self._turn + 1
        looks = 0
        while looks < MOST_LOOKS and members:
            if turn >= len(members):
                turn = 0
            candidate = members[turn]
            if candidate.has_capacity:
                self._turn = turn
                return candidate
            turn += 1
            looks += 1
        self._turn = turn
        return candidates.at(turn)


@final
class LeastLoaded:
    """A policy that takes the candidate with the fewest calls; several such candidates in turn."""

    def __init__(self, _: Random) -> None:
        pass

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        """Return the least loaded candidate that has a free slot."""
        return candidates.least_loaded()


@final
class AnyOne:
    """A policy that draws a candidate at random."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        """Return a candidate that is drawn from those with a free slot."""
        return candidates.draw(self._rng)


@final
class PowerOfTwo:
    """A policy that draws two candidates, and takes the one with fewer calls."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        """Draw two candidates that have a free slot; return the one with fewer calls in flight.

        If only one has a free slot, return that one.
        """
        one = candidates.draw(self._rng)
        if one is None or len(candidates) == 1:
            return one
        other = candidates.draw(self._rng, but=one)
        return one if other is None or one.calls_in_flight <= other.calls_in_flight else other


@final
class Sticky:
    """A policy that sends the calls of one session to one candidate."""

    def __init__(self, rng: Random) -> None:
        self._others = RoundRobin(rng)
        self._ring = HashRing()
        self._changes = -1  # value of ``Candidates.changes`` when the names were read
        self._by_name: dict[str, list[Candidate]] = {}

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        """Return the first replica after the session's point on the ring that has a free slot.

        If the first 8 points lead to none, return any replica with a free slot: the same one while
        nothing changes.
        """
        session = call.session
        if session is None:
            return self._others.choose(candidates, call)
        if candidates.changes != self._changes:
            self._look_at(candidates)
        number = hash_of(session)
        for name in self._ring.behind(number, MOST_LOOKS):
            for candidate in self._by_name[name]:
                if candidate.has_capacity:
                    return candidate
        return candidates.at(number)

    def _look_at(self, candidates: Candidates) -> None:
        # By name, not by incarnation: a replica that is restarted keeps its sessions.
        self._by_name = {}
        for each in candidates.all:
            self._by_name.setdefault(each.name, []).append(each)
        self._ring.have(self._by_name)
        self._changes = candidates.changes


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

    Raises:
        ConfigurationError: the program's factory fails, or makes no object with a plain method
            ``choose``.
    """
    if isinstance(policy, str):
        return _POLICIES[policy](rng)
    try:
        made = policy(rng)
    except Exception as error:  # raised by the program's factory
        raise _no_policy(policy, f"raises {summary_of(error)}") from error
    if isinstance(made, type) or not is_plain_function(getattr(made, "choose", None)):
        raise _no_policy(policy, f"returns {made!r:.100}")
    return made


def _no_policy(policy: PolicyFactory, fault: str) -> ConfigurationError:
    return ConfigurationError.about(
        "policy",
        "must be a function that takes a random.Random and returns an object with a plain method "
        f"choose(candidates, call), but {policy!r:.100} {fault}",
    )
