"""Awaiting, in an asyncio program, what runs in the spearlet's thread.

Calls that begin in one pass of the event loop wake the spearlet's thread once, and calls that end in one
pass of Trio's scheduler wake the event loop once. With many calls in flight, that is half of the speed.
The first call does not wait for the end of the pass: it may be the only one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar, TypeVarTuple, Unpack, final

from spear._errors import ConfigurationError
from spear._util import NoPublicConstructor
from spear.portal import (
    AHEAD_ITEMS,
    HeldBlock,
    ItemHandover,
    Page,
    Portal,
    PortalCall,
    take_page,
)

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")
V = TypeVar("V")
Ts = TypeVarTuple("Ts")

logger: Final = logging.getLogger("spear.asyncio")


@final
class AwaitedCall(PortalCall[T]):
    """A call whose end resolves a future.

    Attributes:
        future: is resolved at the end, with nothing.
        has_ended: whether the event loop knows that it has ended.
    """

    __slots__ = ("_bridge", "future", "has_ended")

    def __init__(
        self, bridge: Bridge, function: Callable[[], Coroutine[object, object, T]]
    ) -> None:
        super().__init__(function)
        self._bridge = bridge
        self.future: asyncio.Future[None] = bridge.loop.create_future()
        self.has_ended = False

    def end(self) -> None:
        """Resolve the future, in the event loop's thread."""
        self._bridge.post(self._resolve)

    def _resolve(self) -> None:
        self.has_ended = True
        self._bridge.note_end()
        if not self.future.done():
            self.future.set_result(None)


@final
class Bridge:
    """The way of an event loop into a portal. Made in the event loop."""

    def __init__(self, portal: Portal) -> None:
        self.portal = portal
        self.loop = asyncio.get_running_loop()
        self._in_flight = 0  # calls
        self._has_begun = False  # whether calls were put off in this pass of the loop
        self._posted: deque[Callable[[], object]] = deque()  # for the loop
        self._is_awake = False  # whether the loop will look at what was posted

    # -- in the event loop --------------------------------------------------------------------

    def begin(
        self, function: Callable[[Unpack[Ts]], Coroutine[object, object, T]], *args: *Ts
    ) -> AwaitedCall[T]:
        """Start an asynchronous function of Trio's in its thread.

        Raises:
            ConfigurationError: the event loop is not the one in which the spearlet was opened, or the
                process was forked since.
        """
        self.portal.expect_usable()
        if asyncio.get_running_loop() is not self.loop:
            raise ConfigurationError(
                "this spearlet was opened in another event loop: open one in each event loop",
                code="other_loop",
            )
        call = AwaitedCall(self, partial(function, *args))
        self.portal.put_off(call)
        if not self._in_flight:
            self.portal.wake()
        elif not self._has_begun:
            self._has_begun = True
            self.loop.call_soon(self._wake_portal)
        self._in_flight += 1
        return call

    def note_end(self) -> None:
        """Note that a call has ended, and that the event loop knows it."""
        self._in_flight -= 1

    def _wake_portal(self) -> None:
        self._has_begun = False
        self.portal.wake()

    async def run(
        self, function: Callable[[Unpack[Ts]], Coroutine[object, object, T]], *args: *Ts
    ) -> T:
        """Run an asynchronous function of Trio's; return its value, or raise as it does.

        If cancelled, the function is cancelled, too; CancelledError is raised when it has ended.
        """
        call = self.begin(function, *args)
        try:
            await call.future
        except asyncio.CancelledError:
            await self.cancel(call)
            raise
        return call.result()

    async def cancel(self, call: AwaitedCall[T]) -> None:
        """Cancel a call, and wait for its end, even if cancelled meanwhile."""
        call.future = self.loop.create_future()
        self.portal.run_soon(call.cancel)
        while not call.has_ended:
            with suppress(asyncio.CancelledError):
                await asyncio.wait([call.future])

    async def look(self, function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Run a plain function in Trio's thread; return its value, or raise as it does."""

        async def run() -> T:
            return function(*args)

        return await self.run(run)

    def called_in_loop(self, callback: Callable[[T], object]) -> Callable[[T], None]:
        """Return a function for Trio's thread that calls ``callback`` in the event loop."""

        def call_later(value: T) -> None:
            self.post(partial(callback, value))

        return call_later

    def _take_posted(self) -> None:
        self._is_awake = False  # first: what is posted from now on wakes the loop again
        while self._posted:
            try:
                self._posted.popleft()()
            except Exception:
                logger.exception("a callback raised")

    # -- in Trio's thread ---------------------------------------------------------------------

    def post(self, function: Callable[[], object]) -> None:
        """Call a function in the event loop, after those that were posted before."""
        self._posted.append(function)
        if not self._is_awake:
            self._is_awake = True
            self.portal.at_end_of_pass(self._wake_loop)

    def _wake_loop(self) -> None:
        with suppress(RuntimeError):  # the loop has been closed, and nobody waits any more
            self.loop.call_soon_threadsafe(self._take_posted)


@final
class Block(AbstractAsyncContextManager[V], Generic[T, V]):
    """A block of the spearlet, as an asynchronous context manager of the event loop.

    Args:
        bridge: the way into the spearlet's thread.
        open_block: returns Trio's context manager; called in the spearlet's thread.
        wrap: makes what the caller gets from what the block gives.
        close: called when the block has been left, to end what feeds it; may be None.
    """

    def __init__(
        self,
        bridge: Bridge,
        open_block: Callable[[], AbstractAsyncContextManager[T]],
        wrap: Callable[[T], V],
        close: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._bridge = bridge
        self._block = HeldBlock(open_block)
        self._wrap = wrap
        self._close = close

    async def __aenter__(self) -> V:
        try:
            opened = await self._bridge.run(self._block.enter, self._bridge.portal.nursery)
        except BaseException:
            await self._end()
            raise
        return self._wrap(opened)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._bridge.run(self._block.leave, error is not None)
        finally:
            await self._end()

    async def _end(self) -> None:
        if self._close is not None:
            await self._close()


class Taken(Generic[T]):
    """An asynchronous iterator over what an iterator of the spearlet gives.

    If cancelled, no item is lost.
    """

    def __init__(self, bridge: Bridge, items: AsyncIterator[T]) -> None:
        self._bridge = bridge
        self._items = items
        self._page: Page[T] = Page()
        self._coming: AwaitedCall[Page[T]] | None = None

    def __aiter__(self) -> Taken[T]:
        return self

    async def __anext__(self) -> T:
        while not self._page.items:
            end, self._page.end = self._page.end, None
            if end is not None:
                raise end
            coming = self._coming
            if coming is None:
                coming = self._coming = self._bridge.begin(take_page, self._items)
            await asyncio.shield(coming.future)
            if coming is self._coming:  # several tasks may take items
                self._page, self._coming = coming.result(), None
        return self._page.items.popleft()


@final
class ItemTask(Generic[T]):
    """A task that iterates over the asynchronous items of a map, in the event loop.

    Attributes:
        handover: gives the items to the spearlet's thread.
    """

    def __init__(self, bridge: Bridge, items: AsyncIterable[T]) -> None:
        self._bridge = bridge
        self._room = AHEAD_ITEMS
        self._has_room = asyncio.Event()
        self.handover: ItemHandover[T] = ItemHandover(bridge.portal, self._allow)
        self._task = bridge.loop.create_task(self._run(aiter(items)))

    def _allow(self, count: int) -> None:
        self._bridge.post(partial(self._add_room, count))

    def _add_room(self, count: int) -> None:
        self._room += count
        self._has_room.set()

    async def _run(self, items: AsyncIterator[T]) -> None:
        failure: Exception | None = None
        try:
            async for item in items:
                while not self._room:
                    self._has_room.clear()
                    await self._has_room.wait()
                self._room -= 1
                self.handover.put(item)
        except Exception as error:
            failure = error
        finally:
            self.handover.end(failure)
            if hasattr(items, "aclose"):
                await items.aclose()

    async def close(self) -> None:
        """Take no more items, and close the iterator if it is a generator."""
        self._task.cancel()
        await asyncio.wait([self._task])


class InThread(Generic[T], metaclass=NoPublicConstructor):
    """A thread of its own with a block of Trio's, which is left by :meth:`aclose`."""

    def __init__(self, bridge: Bridge, block: Block[T, T], inner: T) -> None:
        self._bridge = bridge
        self._block = block
        self._inner = inner
        self._is_closed = False

    async def aclose(self) -> None:
        """Leave the block, as the end of an ``async with`` block does. Closing again does nothing."""
        await self._close(None, None, None)

    async def _close(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self._block.__aexit__(kind, error, traceback)
        finally:
            await _end(self._bridge.portal)


class Closable(Protocol):
    """What :class:`OpeningBlock` opens; see :class:`InThread`."""

    async def _close(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


Held = TypeVar("Held", bound=Closable)


@final
class OpeningBlock(AbstractAsyncContextManager[Held], Generic[Held]):
    """An object that ``async with`` opens, or that ``await`` opens and ``aclose()`` ends.

    Args:
        opening: opens it; see :func:`open_in_thread`.
    """

    def __init__(self, opening: Callable[[], Awaitable[Held]]) -> None:
        self._opening = opening
        self._opened: Held | None = None

    def __await__(self) -> Generator[object, None, Held]:
        """Open it."""
        return self._opening().__await__()

    async def __aenter__(self) -> Held:
        self._opened = await self._opening()
        return self._opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._opened is not None
        await self._opened._close(kind, error, traceback)


async def open_in_thread(
    wrap: Callable[[Bridge, Block[T, T], T], Held],
    open_block: Callable[[], AbstractAsyncContextManager[T]],
) -> Held:
    """Open a block of Trio's in a new thread.

    Args:
        wrap: makes what the caller gets, from the arguments of :class:`InThread`.
        open_block: returns the block.
    """
    bridge = Bridge(Portal.open())
    block = Block(bridge, open_block, _same)
    try:
        inner = await block.__aenter__()
    except BaseException:
        await _end(bridge.portal)
        raise
    return wrap(bridge, block, inner)


def _same(value: T) -> T:
    return value


async def _end(portal: Portal) -> None:
    """End the thread of a portal whose blocks have been left, without holding up the event loop."""
    await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(portal.close)))
