"""The replicas of one deployment, and whose turn it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

from spear._errors import CallFailed, ChannelBroken, ChannelClosed, WorkerDied

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.channels import CommunicationChannel


class ReplicaHealth(Protocol):
    """How a replica is."""

    @property
    def reason(self) -> str:
        """Why it is so, if there is something to say."""


class Replica(Protocol):
    """An instance that takes calls, whatever runtime it lives in."""

    @property
    def id(self) -> InstanceId:
        """Which one."""

    @property
    def channel(self) -> CommunicationChannel | None:
        """Its channel now; None while it has none."""

    def health(self) -> ReplicaHealth:
        """How it is now."""

    async def explain_loss(self, error: ChannelBroken | ChannelClosed) -> CallFailed:
        """What to tell the caller of a call that was lost with the channel."""


@final
class ReplicaSet:
    """Ready replicas, served in turn.

    Attributes:
        call_seconds: the time for a call whose caller names none.
    """

    def __init__(self, name: str, call_seconds: float) -> None:
        self.call_seconds = call_seconds
        self._name = name
        self._ready: list[Replica] = []
        self._last_loss = "none was ready yet"
        self._turn = -1

    def add(self, replica: Replica) -> None:
        """It takes calls from now on."""
        self._ready.append(replica)

    def remove(self, replica: Replica, reason: str) -> None:
        """It takes no calls any more. Does nothing if it was removed before."""
        if replica in self._ready:
            self._ready.remove(replica)
            self._last_loss = reason

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def ready(self) -> tuple[Replica, ...]:
        """Those that take calls now."""
        return tuple(self._ready)

    def pick(self) -> tuple[Replica, CommunicationChannel]:
        """The replica whose turn it is, and its channel.

        Raises:
            WorkerDied: there is none; the message says what became of them.
        """
        ready = self._ready
        for _ in ready:
            turn = self._turn = (self._turn + 1) % len(ready)
            replica = ready[turn]
            channel = replica.channel
            if channel is not None and channel.is_connected:
                return replica, channel
        reasons = [f"{each.id} {each.health().reason}" for each in ready]
        reason = "; ".join(reasons) or self._last_loss
        raise WorkerDied(f"{self._name} has no replica that takes calls: {reason}", delivered="no")
