"""The interfaces of a deployment's replica: for observers, and for callers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from spear.calls import Callee

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.channels import CommunicationChannel
    from spear.runtimes import InstanceHealth, InstanceMetrics
    from spear.telemetry import InstanceState, LogLine


class Replica(Protocol):
    """An instance of a deployment, in any runtime; see :attr:`Deployment.replicas`."""

    @property
    def id(self) -> InstanceId:
        """The id of the instance."""

    @property
    def state(self) -> InstanceState:
        """The state of the instance."""

    @property
    def channel(self) -> CommunicationChannel | None:
        """The present channel to the instance; None while there is none."""

    @property
    def pid(self) -> int | None:
        """The pid of the instance's process; None if it has no process of its own."""

    @property
    def exit_status(self) -> int | None:
        """The exit status as in ``subprocess``: negative for a signal; None while it runs, or unknown."""

    def health(self) -> InstanceHealth:
        """Return the instance's health, as far as the host can tell without asking the instance."""

    async def metrics(self) -> InstanceMetrics | None:
        """Return present resource usage; None if it does not run, or is unknown. A checkpoint."""

    def logs(self) -> tuple[LogLine, ...]:
        """Return the kept lines of stdout and stderr; none if it has no process of its own."""


class ServingReplica(Replica, Callee, Protocol):
    """A replica with the methods that callers of its functions need."""
