"""Which of the replicas that have room gets the next call.

A policy sees replicas and their channels, and knows nothing of waiting, starting or losing them. To look
and to choose is one step: nobody else runs in between, so what has room when it is chosen has room when
it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

if TYPE_CHECKING:
    from random import Random

    from spear.channels import CommunicationChannel

    from ._replicas import ServingReplica
    from ._settings import SchedulingPolicy

Choice: TypeAlias = "tuple[ServingReplica, CommunicationChannel]"
"""A replica, and the channel it has now."""


class Policy(Protocol):
    """Chooses."""

    def choose(
        self, members: Sequence[ServingReplica], most: int | None, session: str | None
    ) -> Choice | None:
        """One that has room for a call, and its channel; None if none has.

        Args:
            members: in the order of their names.
            most: calls that each gets at a time, if that is less than it takes.
            session: of the caller, if it has one.
        """


def _channel_with_room(replica: ServingReplica, most: int | None) -> CommunicationChannel | None:
    channel = replica.channel
    if channel is None or not channel.has_room:
        return None
    return channel if most is None or channel.calls_in_flight < most else None


def _with_room(members: Sequence[ServingReplica], most: int | None) -> list[Choice]:
    found = ((each, _channel_with_room(each, most)) for each in members)
    return [(each, channel) for each, channel in found if channel is not None]


@final
class RoundRobin:
    """Each in its turn."""

    def __init__(self, _: Random) -> None:
        self._turn = -1

    def choose(
        self, members: Sequence[ServingReplica], most: int | None, session: str | None
    ) -> Choice | None:
        """The next one that has room."""
        turn = self._turn
        for _ in members:
            turn += 1
            if turn >= len(members):
                turn = 0
            replica = members[turn]
            # Not _channel_with_room: this is on the way of every call.
            channel = replica.channel
            if (
                channel is not None
                and channel.has_room
                and (most is None or channel.calls_in_flight < most)
            ):
                self._turn = turn
                return replica, channel
        return None


@final
class LeastLoaded:
    """The one with the fewest calls; of several, each in its turn."""

    def __init__(self, _: Random) -> None:
        self._turn = 0

    def choose(
        self, members: Sequence[ServingReplica], most: int | None, session: str | None
    ) -> Choice | None:
        """The least loaded that has room."""
        free = _with_room(members, most)
        if not free:
            return None
        # Otherwise idle replicas would all be passed over for the first of them.
        self._turn = turn = (self._turn + 1) % len(free)
        return min(free[turn:] + free[:turn], key=_load)


@final
class AnyOne:
    """Any."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(
        self, members: Sequence[ServingReplica], most: int | None, session: str | None
    ) -> Choice | None:
        """One that is drawn from those with room."""
        free = _with_room(members, most)
        return self._rng.choice(free) if free else None


@final
class PowerOfTwo:
    """The less loaded of two that are drawn."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(
        self, members: Sequence[ServingReplica], most: int | None, session: str | None
    ) -> Choice | None:
        """The better of two that have room; the only one, if there is but one."""
        free = _with_room(members, most)
        if len(free) < 2:
            return free[0] if free else None
        return min(self._rng.sample(free, 2), key=_load)


@final
class Sticky:
    """The same one for the same session."""

    def __init__(self, rng: Random) -> None:
        self._others = RoundRobin(rng)

    def choose(
        self, members: Sequence[ServingReplica], most: int | None, session: str | None
    ) -> Choice | None:
        """The one that ranks first for this session among those that have room."""
        if session is None:
            return self._others.choose(members, most, session)
        free = _with_room(members, most)
        # By name, not by incarnation: whoever is restarted keeps its sessions.
        return max(free, key=lambda each: _rank(session, each[0].id.name)) if free else None


def _load(choice: Choice) -> int:
    return choice[1].calls_in_flight


def _rank(session: str, name: str) -> bytes:
    """Thaler and Ravishankar's rendezvous hashing: the highest rank wins, and each name has its own."""
    return blake2b(f"{name}\0{session}".encode(), digest_size=8).digest()


_POLICIES: Final[dict[SchedulingPolicy, Callable[[Random], Policy]]] = {
    "round-robin": RoundRobin,
    "least-loaded": LeastLoaded,
    "random": AnyOne,
    "power-of-two": PowerOfTwo,
    "sticky": Sticky,
}


def make_policy(name: SchedulingPolicy, rng: Random) -> Policy:
    """The policy of that name.

    Args:
        name: which.
        rng: what it draws from, if it draws.
    """
    return _POLICIES[name](rng)
