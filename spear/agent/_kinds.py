"""The class that runs a function, by the way in which the function is written."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from spear._errors import ConfigurationError

from ._functions import (
    AsyncFunction,
    AsyncStream,
    PlainFunction,
    RegisteredFunction,
    WrappedFunction,
)

if TYPE_CHECKING:
    from ._arguments import AnyFunction
    from ._dynamic_batches import BatchedFunction


def kind_of(function: AnyFunction, name: str, asyncio: bool) -> type[RegisteredFunction]:
    """Return the class that runs this kind of function. Raises ConfigurationError."""
    is_async_stream = inspect.isasyncgenfunction(function)
    is_async = inspect.iscoroutinefunction(function)
    is_wrapper = not is_async and inspect.iscoroutinefunction(inspect.unwrap(function))
    if asyncio:
        is_async |= is_wrapper  # the wrapper returns an awaitable
        if not (is_async or is_async_stream):
            raise ConfigurationError(f"{name}() is not an `async def`: remove asyncio=True")
        from ._asyncio_bridge import AsyncioFunction, AsyncioStream

        return AsyncioFunction if is_async else AsyncioStream
    if is_async:
        return AsyncFunction
    if is_async_stream:
        return AsyncStream
    if inspect.isgeneratorfunction(function):
        from ._generators import PlainStream

        return PlainStream
    return WrappedFunction if is_wrapper else PlainFunction


def batched_kind_of(kind: type[RegisteredFunction], name: str) -> type[BatchedFunction]:
    """Return the class that runs a batched function of a kind. Raises ConfigurationError."""
    from ._dynamic_batches import AsyncBatchedFunction, PlainBatchedFunction

    if issubclass(kind, AsyncFunction):
        return AsyncBatchedFunction
    if issubclass(kind, PlainFunction):
        return PlainBatchedFunction
    if kind.kind == "stream":
        raise ConfigurationError(
            f"{name}() has a `yield`: a batched function must return a list of results"
        )
    from ._asyncio_bridge import AsyncioBatchedFunction

    return AsyncioBatchedFunction
