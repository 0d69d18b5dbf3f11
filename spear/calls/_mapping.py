"""Running a function over many items: lazily, with bounded concurrency, in batches.

A *mapper* pulls items from their source, gives them to a runner in batches, and hands over the outcomes.
The mapper does not know what a runner does with a batch; ``spear.spearlet`` makes calls.

Invariants:

* At most ``limit()`` batches run at a time.
* Each pulled item has exactly one outcome, unless the block is left.
* The number of items that were pulled, and whose outcomes were not taken, is bounded: a consumer that
  takes no outcomes stops the pulling. So does one slow item, if outcomes are taken in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from math import inf
from typing import Final, Generic, TypeAlias, TypeVar, final

import trio

from spear._errors import CallCancelled, InvalidArguments
from spear.channels import protected_class

T = TypeVar("T")
R = TypeVar("R")

CHECKPOINT_ITEMS: Final = 64
"""Outcomes that a consumer may take without a checkpoint."""

READ_AHEAD_ITEMS: Final = 64
"""Items of an asynchronous source that are pulled before a batch has room for them."""

AnyIterable: TypeAlias = Iterable[T] | AsyncIterable[T]


class Source(Generic[T]):
    """The items of a plain iterable, in batches.

    Attributes:
        failure: the exception that the iterable raised, if any.
        has_ended: whether the iterable has no more items.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self.failure: BaseException | None = None
        self.has_ended = False

    async def pull(self, most: int) -> list[T]:
        """Return 1 to ``most`` items; none after the end or the failure of the iterable."""
        await trio.lowlevel.checkpoint()
        pulled: list[T] = []
        try:
            for item in self._items:
                pulled.append(item)
                if len(pulled) >= most:
                    return pulled
        except Exception as error:
            self.failure = error
        self.has_ended = True
        return pulled


@final
class AsyncSource(Source[T]):
    """The items of an asynchronous iterable. A batch does not wait for items that are not there yet.

    An asynchronous generator is closed at its end, or when the reading task is cancelled.
    """

    def __init__(self, items: AsyncIterator[T], nursery: trio.Nursery) -> None:
        super().__init__(iter(()))
        self._sender, self._receiver = trio.open_memory_channel[T](READ_AHEAD_ITEMS)
        nursery.start_soon(self._read, items)

    async def _read(self, items: AsyncIterator[T]) -> None:
        with self._sender:
            try:
                await self._send_all(items)
            except Exception as error:
                if trio.current_effective_deadline() == -inf:  # the block is left: raise it there
                    raise
                self.failure = error

    async def _send_all(self, items: AsyncIterator[T]) -> None:
        try:
            async for item in items:
                try:  # send() would be a scheduler pass for each item
                    self._sender.send_nowait(item)
                except trio.WouldBlock:
                    await self._sender.send(item)
        finally:
            if isinstance(items, AsyncGenerator):  # a channel, for one, stays open
                await items.aclose()

    async def pull(self, most: int) -> list[T]:
        """Return 1 to ``most`` items; none after the end or the failure of the iterable."""
        pulled: list[T] = []
        try:
            pulled.append(await self._receiver.receive())
            while len(pulled) < most:
                pulled.append(self._receiver.receive_nowait())
        except trio.WouldBlock:
            pass
        except trio.EndOfChannel:
            self.has_ended = True
        return pulled


def open_source(items: AnyIterable[T], nursery: trio.Nursery) -> Source[T]:
    """Return the source of an iterable.

    Args:
        items: the iterable.
        nursery: runs the task that reads an asynchronous iterable.

    Raises:
        InvalidArguments: ``items`` cannot be iterated over.
    """
    if isinstance(items, AsyncIterable):
        return AsyncSource(aiter(items), nursery)
    try:
        return Source(iter(items))
    except TypeError:
        raise InvalidArguments(
            f"items must be an iterable or an asynchronous one, not {items!r:.60}"
        ) from None


@final
@protected_class
class Mapper(Generic[T, R]):
    """A run over many items, and an asynchronous iterator over their outcomes.

    Args:
        source: the items.
        run: returns the outcomes of a batch, one for each item, in order. Must not raise.
        limit: returns how many batches may run at a time.
        size: returns how many items the next batch may have.
        ordered: whether outcomes are in the order of the items; otherwise as they come.
    """

    def __init__(
        self,
        source: Source[T],
        run: Callable[[int, list[T]], Awaitable[list[R]]],
        limit: Callable[[], int],
        size: Callable[[], int],
        *,
        ordered: bool,
    ) -> None:
        self._source = source
        self._run_batch = run
        self._limit = limit
        self._size = size
        self._ordered = ordered
        self._waiting: dict[int, list[R]] = {}  # outcomes whose turn has not come, by first index
        self._ready: deque[R] = deque()
        self._next = 0  # index of the next outcome in order
        self._pulled = self._taken = 0
        self._running = 0
        self._is_stopped = False
        self._is_over = False
        self._is_closed = False
        self._has_ended = False  # whether the consumer has taken all outcomes
        self._news: trio.Event | None = None  # set when the consumer has something to take
        self._room: trio.Event | None = None  # set when another batch may be allowed

    async def run(self) -> None:
        """Run until all items have outcomes, or after :meth:`stop` until running batches have ended."""
        try:
            async with trio.open_nursery() as nursery:
                while not (self._source.has_ended or self._is_stopped):
                    if not self._has_room():
                        self._room = trio.Event()
                        await self._room.wait()
                        continue
                    batch = await self._source.pull(self._size())
                    if batch and not self._is_stopped:
                        self._running += 1
                        nursery.start_soon(self._perform, self._pulled, batch)
                        self._pulled += len(batch)
        finally:
            self._is_over = True
            self._notify_consumer()

    def _has_room(self) -> bool:
        limit = max(1, self._limit())
        window = 2 * limit * max(self._size(), 1)
        return self._running < limit and self._pulled - self._taken < window

    def look_again(self) -> None:
        """Start further batches if ``limit()`` or ``size()`` has grown."""
        if self._room is not None:
            self._room.set()

    def stop(self) -> None:
        """Pull no more items."""
        self._is_stopped = True
        self.look_again()

    def close(self) -> None:
        """Give no further outcomes: the block is being left. Tasks that wait for an outcome fail, too."""
        self._is_closed = True

    async def _perform(self, first: int, batch: list[T]) -> None:
        outcomes = await self._run_batch(first, batch)
        self._running -= 1
        if self._ordered:
            self._waiting[first] = outcomes
            while (due := self._waiting.pop(self._next, None)) is not None:
                self._next += len(due)
                self._ready.extend(due)
        else:
            self._ready.extend(outcomes)
        self._notify_consumer()
        self.look_again()

    def _notify_consumer(self) -> None:
        if self._news is not None:
            self._news.set()

    async def take(self) -> R:
        """Wait for the next outcome. A checkpoint at least every 64 outcomes; if cancelled, none is lost.

        Raises:
            StopAsyncIteration: all outcomes were taken.
            Exception: the iterable raised it, and all outcomes were taken.
            CallCancelled: the block was left before all outcomes were taken.
        """
        if self._taken % CHECKPOINT_ITEMS == 0:
            await trio.lowlevel.checkpoint()
        while self._is_closed or not self._ready:
            if self._is_closed and not self._has_ended:
                raise CallCancelled(
                    "the map was closed before its end: take the results inside its `async with` block",
                    delivered="maybe",
                )
            if self._is_over:
                self._has_ended = True
                failure, self._source.failure = self._source.failure, None
                raise failure or StopAsyncIteration
            if self._news is None or self._news.is_set():  # several tasks may take outcomes
                self._news = trio.Event()
            await self._news.wait()
        self._taken += 1
        self.look_again()
        return self._ready.popleft()
