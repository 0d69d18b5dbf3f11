"""Who may start the next call, while the peer takes no more of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from spear._errors import DeadlineExceeded
from spear.wire import Connection, ConnectionState


@final
class SlotQueue:
    """Callers that wait until the peer takes another call, in the order of arrival.

    Attributes:
        waiting: their tasks; usually empty.
        on_free: told of slots that nobody here waits for.
    """

    __slots__ = ("_connection", "on_free", "waiting")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.waiting: list[Task] = []
        self.on_free: Callable[[], None] | None = None

    async def wait(self, deadline: float) -> None:
        """Wait for a slot, or for the end of the connection. A checkpoint.

        Raises:
            DeadlineExceeded: the peer took no further call in time.
        """
        await trio.lowlevel.checkpoint()
        connection, waiting = self._connection, self.waiting
        with trio.CancelScope(deadline=deadline) as scope:
            place = len(waiting)
            while connection.state is ConnectionState.OPEN and (
                connection.outbound_open >= connection.peer.max_calls or (place and waiting)
            ):
                task = current_task()
                waiting.insert(place, task)
                place = 0  # who was woken in vain keeps its place

                def abort(_: object, task: Task = task) -> Abort:
                    waiting.remove(task)
                    return Abort.SUCCEEDED

                await wait_task_rescheduled(abort)
        if scope.cancelled_caught:
            raise DeadlineExceeded("the peer took no further call in time", delivered="no")

    def free(self) -> None:
        """A slot is free, or is not needed by whom it was free for."""
        if self.waiting:
            reschedule(self.waiting.pop(0))
        elif self.on_free is not None:
            self.on_free()

    def free_all(self) -> None:
        """Nobody need wait any more: there will be no slot."""
        while self.waiting:
            self.free()
