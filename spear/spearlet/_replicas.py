"""The replicas of one deployment, and whose turn it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

from spear._errors import CallFailed, ChannelBroken, ChannelClosed, WorkerDied
from spear.runtimes import InstanceState

if TYPE_CHECKING:
    from spear._errors import Delivered
    from spear._ids import InstanceId
    from spear.channels import CommunicationChannel
    from spear.runtimes import InstanceHealth, InstanceMetrics, LogLine


class Replica(Protocol):
    """An instance of a deployment, whatever it lives in; see :attr:`Deployment.replicas`."""

    @property
    def id(self) -> InstanceId:
        """Which one."""

    @property
    def state(self) -> InstanceState:
        """Where it stands."""

    @property
    def channel(self) -> CommunicationChannel | None:
        """Its channel now; None while it has none."""

    @property
    def pid(self) -> int | None:
        """Of its process; None if it has none of its own."""

    @property
    def exit_status(self) -> int | None:
        """As ``subprocess`` counts it: negative for a signal; None while it runs, or if unknown."""

    def health(self) -> InstanceHealth:
        """How it is now, as far as the host can tell without asking it."""

    def metrics(self) -> InstanceMetrics | None:
        """What it uses now; None if it does not run, or has no process of its own."""

    def logs(self) -> tuple[LogLine, ...]:
        """What is kept of its stdout and stderr; nothing if it has no process of its own."""


class ServingReplica(Replica, Protocol):
    """A replica, as those see it that call it."""

    async def explain_loss(self, error: ChannelBroken | ChannelClosed) -> CallFailed:
        """What to tell the caller of a call that was lost with the channel. A checkpoint."""


_ENDS: Final = frozenset(
    {InstanceState.STOPPING, InstanceState.EXITED, InstanceState.FAILED, InstanceState.DELETED}
)
"""Of a replica in one of these no call will ever be answered."""


@final
class ReplicaSet:
    """The replicas that calls go to, each in its turn.

    Attributes:
        call_seconds: the time for a call whose caller names none.
        lost: how many have ended without being asked to.
    """

    def __init__(self, name: str, call_seconds: float) -> None:
        self.call_seconds = call_seconds
        self.lost = 0
        self._name = name
        self._members: list[ServingReplica] = []
        self._last_loss = "none was ready yet"
        self._turn = -1

    def add(self, replica: ServingReplica) -> None:
        """It takes calls from now on."""
        self._members.append(replica)
        # Whichever was ready first, shop-2 comes in front of shop-10.
        self._members.sort(key=lambda each: (len(each.id.name), each.id))

    def remove(self, replica: ServingReplica, reason: str) -> None:
        """It takes no calls any more, as was wanted. Does nothing if it was removed before."""
        if replica in self._members:
            self._members.remove(replica)
            self._last_loss = reason

    def lose(self, replica: ServingReplica, reason: str) -> None:
        """It has ended. Does nothing if it was removed before."""
        if replica in self._members:
            self.lost += 1
            self.remove(replica, reason)

    async def explain_loss(
        self,
        replica: ServingReplica,
        error: ChannelBroken | ChannelClosed,
        delivered: Delivered,
    ) -> CallFailed:
        """What to tell the caller of a call that was lost with a replica's channel. A checkpoint.

        A replica that will not come back counts as :attr:`lost` by then.
        """
        failure = await replica.explain_loss(error)
        failure.delivered = delivered
        if replica.state in _ENDS:
            self.lose(replica, str(failure))
        return failure

    @property
    def ready(self) -> tuple[Replica, ...]:
        """Those that take calls now."""
        return tuple(
            each for each in self._members if each.channel is not None and each.channel.is_connected
        )

    def pick(self) -> tuple[ServingReplica, CommunicationChannel]:
        """The next replica that has room for a call, and its channel; if none has, the next one.

        Raises:
            WorkerDied: there is none; the message says what became of them.
        """
        members = self._members
        count, turn = len(members), self._turn
        for _ in range(count):
            turn = turn + 1 if turn + 1 < count else 0
            replica = members[turn]
            channel = replica.channel
            if channel is not None and channel.has_room:
                self._turn = turn
                return replica, channel
        turn = self._turn
        for _ in range(count):  # then one of those that are busy
            turn = turn + 1 if turn + 1 < count else 0
            replica = members[turn]
            channel = replica.channel
            if channel is not None and channel.is_connected:
                self._turn = turn
                return replica, channel
        reasons = [f"{each.id} {each.health().reason}" for each in members]
        reason = "; ".join(reasons) or self._last_loss
        raise WorkerDied(f"{self._name} has no replica that takes calls: {reason}", delivered="no")
