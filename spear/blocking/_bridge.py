"""Waiting, in a thread without an event loop, for what runs in the spearlet's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Generic, Self, TypeVar, TypeVarTuple, Unpack, final

from spear._util import NoPublicConstructor
from spear.portal import (
    HeldBlock,
    Page,
    Portal,
    PortalCall,
    expect_outside,
    take_page,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType


T = TypeVar("T")
V = TypeVar("V")
Ts = TypeVarTuple("Ts")


@final
class WaitedCall(PortalCall[T]):
    """A call for which a thread waits."""

    __slots__ = ("_ended", "_portal")

    def __init__(
        self, portal: Portal, function: Callable[[], Coroutine[object, object, T]]
    ) -> None:
        super().__init__(function)
        self._portal = portal
        self._ended = threading.Lock()
        self._ended.acquire()

    def end(self) -> None:
        """Wake the thread, as soon as Trio's thread leaves the interpreter to others."""
        self._portal.at_end_of_pass(self._ended.release)

    def wait(self, seconds: float = -1) -> bool:
        """Wait for the end; return whether it came in time. Ctrl-C interrupts the wait."""
        if not self._ended.acquire(timeout=seconds):
            return False
        self._ended.release()
        return True


@final
class Bridge:
    """The way of other threads into a portal. All methods may be called in any thread."""

    def __init__(self, portal: Portal) -> None:
        self.portal = portal

    def begin(
        self, function: Callable[[Unpack[Ts]], Coroutine[object, object, T]], *args: *Ts
    ) -> WaitedCall[T]:
        """Start an asynchronous function in Trio's thread."""
        self.portal.expect_usable()
        call: WaitedCall[T] = WaitedCall(self.portal, partial(function, *args))
        self.portal.submit(call)
        return call

    def run(self, function: Callable[[Unpack[Ts]], Coroutine[object, object, T]], *args: *Ts) -> T:
        """Run an asynchronous function in Trio's thread; return its value, or raise as it does.

        Ctrl-C cancels it, and is raised when it has ended; a second Ctrl-C does not wait for that.
        """
        call: WaitedCall[T] = WaitedCall(self.portal, partial(function, *args))
        self.portal.expect_usable()
        try:
            self.portal.submit(call)
            call.wait()
        except BaseException:
            self.portal.run_soon(call.cancel)
            call.wait()
            raise
        return call.result()

    def look(self, function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Run a plain function in Trio's thread; return its value, or raise as it does."""

        async def run() -> T:
            return function(*args)

        return self.run(run)


@final
class Block(Generic[T, V]):
    """A block of the spearlet, as a context manager of the caller's thread.

    Args:
        bridge: the way into the spearlet's thread.
        open_block: returns the asynchronous context manager; called in the spearlet's thread.
        wrap: makes what the caller gets from what the block gives.
        close: called when the block has been left, to end what feeds it; may be None.
    """

    def __init__(
        self,
        bridge: Bridge,
        open_block: Callable[[], AbstractAsyncContextManager[T]],
        wrap: Callable[[T], V],
        close: Callable[[], object] | None = None,
    ) -> None:
        self._bridge = bridge
        self._block = HeldBlock(open_block)
        self._wrap = wrap
        self._close = close

    def __enter__(self) -> V:
        opened = self._bridge.run(self._block.enter, self._bridge.portal.nursery)
        return self._wrap(opened)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._bridge.run(self._block.leave, error is not None)
        finally:
            if self._close is not None:
                self._close()


class Taken(Generic[T]):
    """An iterator over what an asynchronous iterator of the spearlet gives.

    If Ctrl-C interrupts it, no item is lost.
    """

    def __init__(self, bridge: Bridge, items: AsyncIterator[T]) -> None:
        self._bridge = bridge
        self._items = items
        self._page: Page[T] = Page()
        self._coming: WaitedCall[Page[T]] | None = None
        self._one_at_a_time = threading.Lock()

    def __iter__(self) -> Taken[T]:
        return self

    def __next__(self) -> T:
        with self._one_at_a_time:
            while not self._page.items:
                end, self._page.end = self._page.end, None
                if isinstance(end, StopAsyncIteration):
                    raise StopIteration
                if end is not None:
                    raise end
                if self._coming is None:
                    self._coming = self._bridge.begin(take_page, self._items)
                self._coming.wait()
                self._page, self._coming = self._coming.result(), None
            return self._page.items.popleft()


class InThread(Generic[T], metaclass=NoPublicConstructor):
    """A thread of its own with a block of Trio's, which is left by :meth:`close`.

    Args:
        open_block: returns the block; called in the new thread.
    """

    def __init__(self, open_block: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        expect_outside()
        self._portal = Portal.open()
        self._bridge = Bridge(self._portal)
        self._block = HeldBlock(open_block)
        self._is_closed = False
        try:
            self._inner = self._bridge.run(self._block.enter, self._portal.nursery)
        except BaseException:
            self._portal.close()
            raise

    def close(self) -> None:
        """Leave the block, as the end of a ``with`` block does. Closing again does nothing."""
        self._close(by_exception=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(by_exception=error is not None)

    def _close(self, *, by_exception: bool) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._bridge.run(self._block.leave, by_exception)
        finally:
            self._portal.close()
