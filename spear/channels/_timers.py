"""Many timers, one task.

Deadlines of calls and heartbeats of channels do not get a task or a cancel scope each: entering a
scope costs 7 us and a sleeping task 3 KiB. They get an entry in one heap, and one task sleeps until
the first of them is due.

Invariant: the heap holds no more than twice as many entries as there are functions to be called, and
a few. Without that, a peer whose calls have ever shorter deadlines would fill it.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import AsyncIterator, Callable
from math import inf
from typing import Final, final

import trio

from ._interrupts import protected_block, protected_class
from ._nursery import open_private_nursery

logger: Final = logging.getLogger("spear.channels")

FEW: Final = 64
"""So many entries may be outdated before anybody counts."""


@final
@protected_class
class Timers:
    """Calls functions at times of Trio's clock, in the task of :func:`open_timers`."""

    __slots__ = ("_count", "_heap", "_next", "_outdated", "_scope")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0  # makes entries of the same time comparable, and first in first out
        self._outdated = 0  # entries of alarms that have been set to another time
        self._scope = trio.CancelScope()
        self._next = inf

    def call_at(self, when: float, function: Callable[[float], None]) -> None:
        """Have ``function(now)`` called at ``when`` or very soon after. It must not raise.

        An entry cannot be taken back, unless the function is an :class:`Alarm`.
        """
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, function))
        if when < self._next:
            self._next = when
            self._scope.deadline = when

    @property
    def entries(self) -> int:
        """How many there are, those counted that are outdated."""
        return len(self._heap)

    async def run(self) -> None:
        """Serve for ever."""
        heap = self._heap
        while True:
            self._next = heap[0][0] if heap else inf
            with trio.CancelScope(deadline=self._next) as self._scope:
                await trio.sleep_forever()
            now = trio.current_time()
            while heap and heap[0][0] <= now:
                entry = heapq.heappop(heap)
                if _is_outdated(entry):
                    self._outdated -= 1
                else:
                    try:
                        entry[2](now)
                    except Exception:  # a bug of ours: it must not silence all the others
                        logger.exception("a timer failed")

    def _forget(self) -> None:
        """An entry is outdated: once they are in the majority, throw them all away."""
        self._outdated += 1
        heap = self._heap
        if self._outdated > FEW and self._outdated * 2 > len(heap):
            heap[:] = [entry for entry in heap if not _is_outdated(entry)]
            heapq.heapify(heap)
            self._outdated = 0


@final
class Alarm:
    """A function that is called at most once, at a time that can be changed."""

    __slots__ = ("_function", "_number", "_timers")

    def __init__(self, timers: Timers, function: Callable[[float], None]) -> None:
        self._timers = timers
        self._function = function
        self._number = 0  # of its entry; 0: it has none

    def set(self, when: float) -> None:
        """Call the function at ``when``, and not at the time that was set before."""
        self._drop()
        self._timers.call_at(when, self)
        self._number = self._timers._count

    def close(self) -> None:
        """Never call the function, and do not keep it alive."""
        self._drop()
        del self._function

    def _drop(self) -> None:
        if self._number:
            self._number = 0
            self._timers._forget()

    def __call__(self, now: float) -> None:
        """The time has come."""
        self._number = 0
        self._function(now)


def _is_outdated(entry: tuple[float, int, Callable[[float], None]]) -> bool:
    _, number, function = entry
    return isinstance(function, Alarm) and function._number != number


@protected_block
async def open_timers() -> AsyncIterator[Timers]:
    """Timers that run while the block does."""
    async with open_private_nursery() as nursery:
        timers = Timers()
        nursery.start_soon(timers.run, name="spear timers")
        yield timers
