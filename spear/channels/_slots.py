"""The queue of callers that wait until the peer takes another call."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from spear._errors import DeadlineExceeded
from spear.wire import Connection, ConnectionState


@final
class SlotQueue:
    """A queue of callers that wait until the peer takes another call, in the order of arrival.

    Attributes:
        waiting: the tasks of the callers; usually empty.
        on_free: called when a slot becomes free and no caller waits; may be None.
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
                place = 0  # a task that was woken in vain stays at the front

                def abort(_: object, task: Task = task) -> Abort:
                    waiting.remove(task)
                    return Abort.SUCCEEDED

                await wait_task_rescheduled(abort)
        if scope.cancelled_caught:
            raise DeadlineExceeded("the peer had no free slot before the deadline", delivered="no")

    def free(self) -> None:
        """Wake the next caller, or else call ``on_free``: a slot is free, or its caller gave it up."""
        if self.waiting:
            reschedule(self.waiting.pop(0))
        elif self.on_free is not None:
            self.on_free()

    def free_all(self) -> None:
        """Wake all callers, because the connection takes no more calls."""
        while self.waiting:
            self.free()
