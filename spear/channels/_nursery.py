"""Nurseries that users do not see, because they do not wrap the block's exception in a group.

Channels, endpoints and factories are blocks with tasks, so each of them has a nursery inside. Trio's
nurseries wrap exceptions that leave them in a group. The ``except ChannelClosed`` around a block of
Spear would then miss the ChannelClosed that left the block.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVarTuple, Unpack

import trio

from ._interrupts import protected_block

Ts = TypeVarTuple("Ts")


@protected_block
async def open_private_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that is cancelled when its block is left, and never wraps the block's exception.

    Exceptions of other tasks still make a group. A KeyboardInterrupt is never raised in a group: it is
    raised alone, with the other exceptions as its cause.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as error:
                failure = error
                raise
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if failure is None or not _is_all(group, failure):
            _raise_interrupt(group)
            raise
        context = failure.__context__
        try:
            raise failure
        finally:
            failure.__context__ = context  # and not the group that contains the failure
    finally:
        del failure  # its traceback refers to this frame


async def run_to_its_end(function: Callable[[Unpack[Ts]], Awaitable[object]], *args: *Ts) -> None:
    """Await a clean-up in a task of its own, where Ctrl-C does not cut it short.

    Trio raises KeyboardInterrupt in the main task, and a clean-up that awaits there would end half-way.
    Here the interrupt is raised after the clean-up has ended. If cancelled, ``function`` is cancelled,
    unless it shields itself.
    """
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(function, *args)
    except BaseExceptionGroup as group:
        _raise_interrupt(group)
        raise


def _raise_interrupt(group: BaseExceptionGroup[BaseException]) -> None:
    """Raise the KeyboardInterrupt of a group, if there is one, with the rest as its cause."""
    interrupts, others = group.split(KeyboardInterrupt)
    if interrupts is not None:
        raise _first_leaf(interrupts) from others


def _is_all(group: BaseExceptionGroup[BaseException], failure: BaseException) -> bool:
    # Compare leaf exceptions: the nursery is cancelled here, and rebuilds groups to remove Cancelled.
    # Ignore remaining Cancelled: a cancellation from outside also reaches the nursery's other tasks.
    _, others = group.split(trio.Cancelled)
    return others is None or _leaves(others) <= _leaves(failure)


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _leaves(error: BaseException) -> set[int]:
    if isinstance(error, BaseExceptionGroup):
        return {leaf for each in error.exceptions for leaf in _leaves(each)}
    return {id(error)}
