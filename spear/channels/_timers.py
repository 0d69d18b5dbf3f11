"""Many timers, one task.

Deadlines of calls and heartbeats of channels have no task or cancel scope of their own: entering a
scope costs 7 us, and a sleeping task 3 KiB. Each of them is an entry in one heap, and one task sleeps
until the first entry is due.

Invariant: the heap holds at most twice as many entries as there are functions to be called, and a few
more (:data:`FEW`). Otherwise a peer whose calls have ever shorter deadlines would fill the heap.
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
"""Outdated entries that the heap may hold, however few other entries there are."""


@final
@protected_class
class Timers:
    """A scheduler of functions at times of Trio's clock, in the task of :func:`open_timers`."""

    __slots__ = ("_count", "_heap", "_next", "_outdated", "_scope")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0  # orders entries of the same time: first in, first out
        self._outdated = 0  # entries of alarms that have been set to another time
        self._scope = trio.CancelScope()
        self._next = inf

    def call_at(self, when: float, function: Callable[[float], None]) -> None:
        """Schedule ``function(now)`` for ``when`` or very soon after. The function must not raise.

        An entry cannot be cancelled, unless the function is an :class:`Alarm`.
        """
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, function))
        if when < self._next:
            self._next = when
            self._scope.deadline = when

    @property
    def entries(self) -> int:
        """The number of entries in the heap, including outdated ones."""
        return len(self._heap)

    async def run(self) -> None:
        """Call the functions when they are due, for ever."""
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
                    except Exception:  # a bug in one function must not stop all others
                        logger.exception("a timer failed")

    def _forget(self) -> None:
        """Count an outdated entry; once these are in the majority, remove all of them."""
        self._outdated += 1
        heap = self._heap
        if self._outdated > FEW and self._outdated * 2 > len(heap):
            heap[:] = [entry for entry in heap if not _is_outdated(entry)]
            heapq.heapify(heap)
            self._outdated = 0


@final
class Alarm:
    """A function with at most one scheduled call, whose time can be changed."""

    __slots__ = ("_function", "_number", "_timers")

    def __init__(self, timers: Timers, function: Callable[[float], None]) -> None:
        self._timers = timers
        self._function = function
        self._number = 0  # of the alarm's entry in the heap; 0 if it has none

    def set(self, when: float) -> None:
        """Schedule the function for ``when``, instead of the time that was set before."""
        self._drop()
        self._timers.call_at(when, self)
        self._number = self._timers._count

    def close(self) -> None:
        """Cancel the scheduled call, and drop the reference to the function."""
        self._drop()
        del self._function

    def _drop(self) -> None:
        if self._number:
            self._number = 0
            self._timers._forget()

    def __call__(self, now: float) -> None:
        """Call the function, because its time has come."""
        self._number = 0
        self._function(now)


def _is_outdated(entry: tuple[float, int, Callable[[float], None]]) -> bool:
    _, number, function = entry
    return isinstance(function, Alarm) and function._number != number


@protected_block
async def open_timers() -> AsyncIterator[Timers]:
    """Open timers that run for as long as the block does."""
    async with open_private_nursery() as nursery:
        timers = Timers()
        nursery.start_soon(timers.run, name="spear timers")
        yield timers
