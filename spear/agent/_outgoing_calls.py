"""Calls of other functions of the host: the short forms of the methods of :class:`CallContext`."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from ._context import context

if TYPE_CHECKING:
    from ._context import T


@overload
async def call(
    function: str,
    /,
    *arguments: object,
    timeout: float | None = None,
    returns: type[T] | None = None,
    **keywords: object,
) -> T: ...


@overload
async def call(
    function: str,
    /,
    *arguments: object,
    timeout: float | None = None,
    returns: object,
    **keywords: object,
) -> object: ...


async def call(
    function: str,
    /,
    *arguments: object,
    timeout: float | None = None,
    returns: object = None,
    **keywords: object,
) -> object:
    """Call another function of the host; see :meth:`CallContext.call`."""
    return await context().call(function, *arguments, timeout=timeout, returns=returns, **keywords)


@overload
async def call_once(
    key: str,
    function: str,
    /,
    *arguments: object,
    timeout: float | None = None,
    returns: type[T] | None = None,
    **keywords: object,
) -> T: ...


@overload
async def call_once(
    key: str,
    function: str,
    /,
    *arguments: object,
    timeout: float | None = None,
    returns: object,
    **keywords: object,
) -> object: ...


async def call_once(
    key: str,
    function: str,
    /,
    *arguments: object,
    timeout: float | None = None,
    returns: object = None,
    **keywords: object,
) -> object:
    """:func:`call` a function at most once for a key, even if the calling function is executed again.

    The host executes calls of a function with the same key once, and returns its outcome to all of them,
    for as long as the deployment of the called function keeps outcomes. Cancellation does not stop the
    execution.

    Args:
        key: a name for the operation: ``context().key``, for example, or a text made from it.
        function, arguments, keywords, timeout, returns: see :meth:`CallContext.call`.

    Raises:
        Rejected: the key was used with other arguments.
        SpearError: :func:`call` failed.
    """
    return await context()._call_other(function, arguments, keywords, timeout, returns, key)
