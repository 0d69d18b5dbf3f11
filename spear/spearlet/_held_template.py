"""The template of one program, for as long as it is wanted, or a replica of it exists.

A replica that leaves may finish its calls, and meanwhile the deployment may run another program. Then
what has started the replica (a zygote, whose child it is) must not go first.
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
    """Starts replicas from a template, and knows when the template is not needed any more.

    Args:
        runtime: the name of the runtime that has made the template.
        template: starts them.
        service: what they can call at their host.
        on_event: receives what happens to them.
        on_line: receives what they write.

    Attributes:
        failure: the error of its runtime that has ended the template, if any; it starts no replicas then.
        unused: set when no more replicas of it are wanted, and there are none.
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
        """The reason that each replica is started from nothing; see :attr:`InstanceTemplate.obstacle`."""
        try:
            return self._template.obstacle
        except Exception as error:  # of another distribution
            return f"has a runtime that cannot tell: {summary_of(error)}"

    @protected_block
    async def open_replica(self, name: str, incarnation: int) -> AsyncIterator[StartedReplica]:
        """Start one, and stop it when the block is left. Raises what the template raises.

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
