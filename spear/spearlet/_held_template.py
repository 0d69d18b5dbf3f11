"""The template of one program, kept open while it is wanted, or a replica of it exists.

A draining replica may finish its calls while the deployment already runs another program. The zygote
that has started the replica as its child must not end before the replica.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from spear._errors import SpawnFailed
from spear._failures import first_line
from spear._ids import InstanceId
from spear._util import summary_of
from spear.channels import protected_block
from spear.runtimes import InstanceSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear._errors import SpearError
    from spear.channels import Service
    from spear.runtimes import InstanceTemplate, OnEvent, OnLine

    from ._supervisor import StartedReplica


@final
class HeldTemplate:
    """A template that starts replicas, and can tell when it is not needed any more.

    Args:
        runtime: the name of the runtime that has made the template.
        template: starts the replicas.
        service: the service that the replicas can call at their host.
        on_event: receives the events of the replicas.
        on_line: receives the lines that the replicas write.

    Attributes:
        failure: the error of the runtime that has ended the template, if any; no replica starts after it.
        unused: set when no more replicas of the template are wanted, and none is left.
    """

    def __init__(
        self,
        runtime: str,
        template: InstanceTemplate,
        service: Service,
        on_event: OnEvent,
        on_line: OnLine,
    ) -> None:
        self._runtime = runtime
        self._template = template
        self._service = service
        self._on_event = on_event
        self._on_line = on_line
        self._replicas = 0
        self._is_wanted = True
        self.failure: SpearError | None = None
        self.unused = trio.Event()

    @property
    def obstacle(self) -> str:
        """The reason that each replica starts from scratch; see :attr:`InstanceTemplate.obstacle`."""
        try:
            return self._template.obstacle
        except Exception as error:  # the runtime may be of another distribution
            return f"has a runtime whose obstacle property raised {summary_of(error)}"

    @protected_block
    async def open_replica(self, name: str, incarnation: int) -> AsyncIterator[StartedReplica]:
        """Start a replica, and stop it when the block is left. Raises also what the template raises.

        Raises:
            SpawnFailed: the template has failed.
        """
        instance_id = InstanceId(self._runtime, name, incarnation)
        if self.failure is not None:
            raise SpawnFailed(f"{instance_id} did not start: {first_line(self.failure)}")
        self._replicas += 1
        try:
            spec = InstanceSpec(
                instance_id=instance_id,
                service=self._service,
                on_event=self._on_event,
                on_line=self._on_line,
            )
            async with self._template.open_instance(spec) as replica:
                yield replica
        finally:
            self._replicas -= 1
            self._see_whether_unused()

    def retire(self) -> None:
        """Start no more replicas."""
        self._is_wanted = False
        self._see_whether_unused()

    def _see_whether_unused(self) -> None:
        if not self._is_wanted and not self._replicas:
            self.unused.set()
