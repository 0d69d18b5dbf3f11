"""Items that another thread produces, and Trio's thread takes: lazily, and only so many ahead."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

import trio

from spear._arrays import Array

if TYPE_CHECKING:
    from ._portal import Portal

T = TypeVar("T")

AHEAD_ITEMS: Final = 64
"""Items that are produced before the spearlet takes them."""


def is_at_hand(items: object) -> bool:
    """Return whether iterating over ``items`` in any thread is quick, and runs no code of others."""
    return type(items) in _AT_HAND


_AT_HAND: Final = frozenset({Array, bytes, dict, frozenset, list, range, set, str, tuple})


@final
class ItemHandover(Generic[T]):
    """An asynchronous iterator over items that another thread puts.

    The producer may put :data:`AHEAD_ITEMS` items, and one more for each that ``allow`` allows.

    Args:
        portal: the way into Trio's thread.
        allow: called in Trio's thread with a number of further items that may be put.
    """

    def __init__(self, portal: Portal, allow: Callable[[int], object]) -> None:
        self._portal = portal
        self._allow = allow
        self._items: deque[T] = deque()
        self._taken = 0  # since allow() was called
        self._news: trio.Event | None = None  # while the iterator waits
        self._has_ended = False
        self._failure: Exception | None = None

    def put(self, item: T) -> None:
        """Add an item. In the producer's thread."""
        self._items.append(item)
        if self._news is not None:
            self._portal.run_soon(self._notify)

    def end(self, failure: Exception | None = None) -> None:
        """Tell that there are no more items; the iterator raises ``failure`` after them."""
        self._failure = failure
        self._has_ended = True
        self._portal.run_soon(self._notify)

    def _notify(self) -> None:
        if self._news is not None:
            self._news.set()

    def __aiter__(self) -> ItemHandover[T]:
        return self

    async def __anext__(self) -> T:
        """Return the next item. If cancelled, none is lost."""
        while not self._items:
            self._news = trio.Event()
            try:
                # Looked at again, the end first: items may have come before the producer saw the event.
                has_ended = self._has_ended
                if not self._items:
                    if has_ended:
                        failure, self._failure = self._failure, None
                        raise failure or StopAsyncIteration
                    await self._news.wait()
            finally:
                self._news = None
        self._taken += 1
        if self._taken >= AHEAD_ITEMS // 2:
            self._allow(self._taken)
            self._taken = 0
        return self._items.popleft()


@final
class ItemThread(Generic[T]):
    """A thread that iterates over the items of a map, as a user's iterator may block.

    The thread is not waited for when the map ends: the iterator may be anywhere.
    """

    def __init__(self, portal: Portal, items: Iterable[T]) -> None:
        self._iterator = iter(items)
        self._room = threading.Semaphore(AHEAD_ITEMS)
        self._is_closed = False
        self.handover: ItemHandover[T] = ItemHandover(portal, self._room.release)
        threading.Thread(target=self._run, name="spear items", daemon=True).start()

    def close(self) -> None:
        """Take no more items."""
        self._is_closed = True
        self._room.release()

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            for item in self._iterator:
                self._room.acquire()
                if self._is_closed:
                    break
                self.handover.put(item)
        except Exception as error:
            failure = error
        self.handover.end(failure)
