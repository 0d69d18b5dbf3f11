"""Workers: tasks that run handlers, and are used again for further calls.

A new task with a new cancel scope for every call costs 15 us; waking a parked task whose scope has
been entered already costs 3 us. So a worker parks after its call and takes the next one, with the same
scope, until the scope is cancelled. Context variables of a call do not outlive the call: before a worker
parks, it gets a fresh copy of the context in which the channel is served.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TYPE_CHECKING, Final, final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ._interrupts import protected_class

if TYPE_CHECKING:
    from ._calls import InboundCall

MAX_PARKED: Final = 64


@final
@protected_class
class Workers:
    """A pool of tasks that run ``handle(call)`` for each call, under a cancel scope of its own.

    Args:
        nursery: where the tasks run.
        handle: runs one call; must not raise anything but ``trio.Cancelled``.
    """

    __slots__ = ("_context", "_handle", "_nursery", "_parked")

    def __init__(
        self, nursery: trio.Nursery, handle: Callable[[InboundCall], Awaitable[None]]
    ) -> None:
        self._nursery = nursery
        self._handle = handle
        self._parked: list[Task] = []
        self._context: Context = current_task().context.copy()

    def start(self, call: InboundCall) -> None:
        """Run the call's handler, in this or the next pass of the scheduler."""
        if self._parked:
            # See OutboundCall.on_response for why the call itself may be the outcome.
            reschedule(self._parked.pop(), call)  # type: ignore[arg-type]  # as there
        else:
            # This may run outside of any task, and a new task inherits the current context.
            self._context.run(self._spawn, call)

    def _spawn(self, call: InboundCall) -> None:
        self._nursery.start_soon(self._work, call, name="spear worker")

    async def _work(self, call: InboundCall | None) -> None:
        task = current_task()
        while call is not None:
            with trio.CancelScope() as scope:
                while call is not None:
                    current, call = call, None
                    current.scope = scope
                    try:
                        await self._handle(current)
                    finally:
                        current.scope = None
                        del current  # a parked worker must not keep a call's arguments alive
                    if scope.cancel_called or len(self._parked) >= MAX_PARKED:
                        break
                    call = await self._park(task)
            if call is None and scope.cancelled_caught and len(self._parked) < MAX_PARKED:
                call = await self._park(task)

    async def _park(self, task: Task) -> InboundCall:
        task.context = self._context.copy()
        self._parked.append(task)
        call: InboundCall = await wait_task_rescheduled(self._abort)
        return call

    def _abort(self, _: object) -> Abort:
        """Forget all parked workers: only the nursery cancels one, so none takes further calls."""
        self._parked.clear()
        return Abort.SUCCEEDED
