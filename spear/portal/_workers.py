"""Tasks that run the calls of other threads, each one at a time: leader and followers.

The leader waits for the bell, and then runs a call itself, in the pass of Trio's scheduler that the bell
has begun; a follower becomes the leader. A task for each call would begin one pass later, which costs
more than all the rest of a call's way in.
"""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from typing import Final, final

import trio
from trio.lowlevel import Abort

from ._calls import PortalCall

SPARE_WORKERS: Final = 64
"""Workers that are kept while there is nothing to do. One takes about 4 KiB."""


@final
class PortalWorkers:
    """Tasks that run calls, as many as there are calls, and the queue from which they take them."""

    def __init__(self) -> None:
        self._running: set[PortalCall[object]] = set()  # begun, and not ended
        self._waiting: deque[PortalCall[object]] = deque()
        self._spare: list[trio.lowlevel.Task] = []
        self._has_leader = False
        self._is_awake = True  # whether a worker will look at the queue without hearing the bell
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)

    # -- in other threads ---------------------------------------------------------------------

    def put(self, call: PortalCall[object]) -> None:
        """Let a call start after the next :meth:`ring`, or earlier."""
        self._waiting.append(call)

    def ring(self) -> None:
        """Let workers take the calls that wait."""
        if not self._is_awake:
            self._is_awake = True
            with suppress(OSError):  # closed: there are no workers any more
                self._rope.send(b"!")

    def give_up_waiting(self) -> None:
        """End the calls that wait: nobody will take them."""
        while self._waiting:
            self._waiting.popleft().give_up("no")

    # -- in Trio's thread ---------------------------------------------------------------------

    async def run(self) -> None:
        """Run calls until cancelled. Raises Cancelled only."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._work)

    def close(self) -> None:
        """Give up all calls: Trio has ended, and, if it failed, has dropped its tasks."""
        self._bell.close()
        self._rope.close()
        for call in list(self._running):
            call.give_up("maybe")
        self.give_up_waiting()

    async def _work(self) -> None:
        while True:
            if self._waiting:
                await self._run_call(self._waiting.popleft())
            elif not self._has_leader:
                await self._lead()
            elif len(self._spare) < SPARE_WORKERS:
                await self._follow()
            else:
                return

    async def _run_call(self, call: PortalCall[object]) -> None:
        self._running.add(call)
        try:
            await call.run()
        finally:
            self._running.discard(call)

    async def _lead(self) -> None:
        self._is_awake = False  # first: who puts a call from now on rings
        if not self._waiting:
            self._has_leader = True
            await trio.lowlevel.wait_readable(self._bell)
            self._bell.recv(1)
            self._has_leader = False
        for _ in self._waiting:  # one of them this worker runs itself, so another one can lead
            if self._spare:
                trio.lowlevel.reschedule(self._spare.pop())
            else:
                self._nursery.start_soon(self._work)

    async def _follow(self) -> None:
        task = trio.lowlevel.current_task()

        def give_up_waiting(_: object) -> Abort:
            self._spare.remove(task)
            return Abort.SUCCEEDED

        self._spare.append(task)
        await trio.lowlevel.wait_task_rescheduled(give_up_waiting)
