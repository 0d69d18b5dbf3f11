"""What a replica of a deployment is, to those who look at it and to those who call it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from spear.calls import Callee

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.channels import CommunicationChannel
    from spear.runtimes import InstanceHealth, InstanceMetrics
    from spear.telemetry import InstanceState, LogLine


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

    async def metrics(self) -> InstanceMetrics | None:
        """What it uses now; None if it does not run, or its runtime cannot tell. A checkpoint."""

    def logs(self) -> tuple[LogLine, ...]:
        """What is kept of its stdout and stderr; nothing if it has no process of its own."""


class ServingReplica(Replica, Callee, Protocol):
    """A replica, as those see it that call it."""
