"""Blocks of Trio that another thread enters and leaves: a task of their own holds them open."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar, final

import trio

T = TypeVar("T")


class _LeftByException(Exception):
    """Raised inside a block whose caller leaves it by an exception, so that the block can see it."""


@final
class HeldBlock(Generic[T]):
    """A block, such as ``spear.open_spearlet()``, that is held open by a task. For Trio's thread.

    Args:
        open_block: returns the context manager.
    """

    def __init__(self, open_block: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._open_block = open_block
        self._scope = trio.CancelScope()
        self._leaving = trio.Event()
        self._ended = trio.Event()
        self._by_exception = False
        self._failure: BaseException | None = None

    async def enter(self, nursery: trio.Nursery) -> T:
        """Enter the block in a task of the nursery, and return its value. Raises as the block does.

        If cancelled, the block is left again.
        """
        value: T = await nursery.start(self._hold)
        return value

    async def leave(self, by_exception: bool) -> None:
        """Leave the block, and wait for the end of it. Raises as the block does.

        If cancelled, the block is cancelled.

        Args:
            by_exception: whether the caller leaves it by an exception, which a block may heed.
        """
        self._by_exception = by_exception
        self._leaving.set()
        try:
            await self._ended.wait()
        except trio.Cancelled:
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self._ended.wait()
            raise
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def _hold(self, *, task_status: trio.TaskStatus[T]) -> None:
        is_open = False
        try:
            with self._scope:
                async with self._open_block() as value:
                    is_open = True
                    task_status.started(value)
                    await self._leaving.wait()
                    if self._by_exception:
                        raise _LeftByException
        except trio.Cancelled:
            raise
        except BaseException as error:
            if not is_open:
                raise
            self._failure = _without_own(error)
        finally:
            self._ended.set()


def _without_own(error: BaseException) -> BaseException | None:
    """Return what is left of an exception without :class:`_LeftByException`."""
    if isinstance(error, _LeftByException):
        return None
    if isinstance(error, BaseExceptionGroup):
        return error.split(_LeftByException)[1]
    return error
