"""What starts the replicas of one source, for as long as it is wanted, or one of them exists.

A replica that leaves may finish its calls, and meanwhile the deployment may run something else: then what
has started it (a zygote, whose child it is) must not go before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from spear.channels import protected_block

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear._ids import InstanceId
    from spear.runtimes import OnEvent, OnLine

    from ._sources import Launcher
    from ._supervisor import StartedReplica


@final
class Starter:
    """Starts replicas, and knows when it is not needed any more.

    Args:
        launcher: is asked to.
        on_event: told of what happens to them.
        on_line: told of what they write.

    Attributes:
        unused: set when nobody wants more replicas of it, and there are none.
    """

    def __init__(self, launcher: Launcher, on_event: OnEvent, on_line: OnLine) -> None:
        self._launcher = launcher
        self._on_event = on_event
        self._on_line = on_line
        self._replicas = 0
        self._is_wanted = True
        self.unused = trio.Event()

    @property
    def obstacle(self) -> str:
        """Why its processes are spawned one by one; see :attr:`Launcher.obstacle`."""
        return self._launcher.obstacle

    @protected_block
    async def open_replica(self, instance_id: InstanceId) -> AsyncIterator[StartedReplica]:
        """Start one, and stop it when the block is left. Raises what the launcher raises."""
        self._replicas += 1
        try:
            opening = self._launcher.open_replica(instance_id, self._on_event, self._on_line)
            async with opening as replica:
                yield replica
        finally:
            self._replicas -= 1
            self._see_whether_unused()

    def retire(self) -> None:
        """Nobody wants more replicas of it."""
        self._is_wanted = False
        self._see_whether_unused()

    def _see_whether_unused(self) -> None:
        if not self._is_wanted and not self._replicas:
            self.unused.set()
