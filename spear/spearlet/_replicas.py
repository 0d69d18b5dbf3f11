"""What a replica of a deployment is, to those who look at it and to those who call it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from spear._errors import CallFailed, ChannelBroken, ChannelClosed, Delivered
    from spear._ids import InstanceId
    from spear.channels import CommunicationChannel
    from spear.runtimes import InstanceHealth, InstanceMetrics, InstanceState, LogLine


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

    async def wait_exited(self) -> object:
        """Wait until it is gone. A checkpoint."""

    async def explain_loss(self, error: ChannelBroken | ChannelClosed) -> CallFailed:
        """What to tell the caller of a call that was lost with the channel. A checkpoint."""


async def explain_loss(
    replica: ServingReplica, error: ChannelBroken | ChannelClosed, delivered: Delivered
) -> CallFailed:
    """What to tell the caller of a call that was lost with a replica's channel. A checkpoint."""
    failure = await replica.explain_loss(error)
    failure.delivered = delivered
    return failure
