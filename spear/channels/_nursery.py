"""Nurseries that users need not know of.

A channel, an endpoint, a factory: each of these blocks has tasks, hence a nursery inside. Trio's
nurseries wrap whatever leaves them in a group; were that visible, the ``except ChannelClosed`` around
a block of ours would miss the ChannelClosed that left it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_private_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery that is cancelled when the block is left, and lets its exception through as it is.

    Exceptions of other tasks still make a group.
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
            raise
        context = failure.__context__
        try:
            raise failure
        finally:
            failure.__context__ = context  # not the group around itself
    finally:
        del failure  # it refers to this frame


def _is_all(group: BaseExceptionGroup[BaseException], failure: BaseException) -> bool:
    # By the leaves: a nursery that was cancelled makes groups inside its group anew.
    return _leaves(group) == _leaves(failure)


def _leaves(error: BaseException) -> set[int]:
    if isinstance(error, BaseExceptionGroup):
        return {leaf for each in error.exceptions for leaf in _leaves(each)}
    return {id(error)}
