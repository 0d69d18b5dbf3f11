"""Isolation of third-party code: the async context managers of runtimes and of transports.

A bug of third-party code must cost one instance or one deployment. Neither an exception nor a hang of a
runtime's or a transport's block may reach the tasks of the host, so every such block is opened by
:func:`open_extension`. This module knows neither runtimes nor transports.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from inspect import iscoroutine
from math import inf
from typing import Final, TypeVar

import trio

from spear._errors import SpearError
from spear._limits import shown
from spear._util import leaves_of, summary_of

from ._interrupts import protected_block

logger: Final = logging.getLogger("spear.channels")

T = TypeVar("T")

_NO_BUGS: Final = (trio.Cancelled, KeyboardInterrupt, GeneratorExit)


@protected_block
async def open_extension(
    whose: str,
    enter: Callable[[], AbstractAsyncContextManager[T]],
    kind: type,
    seconds: float,
    *,
    check: Callable[[T], object] = bool,
    refusals: tuple[type[Exception], ...] = (SpearError,),
    make_error: Callable[[str], SpearError] = SpearError,
) -> AsyncIterator[T]:
    """Enter an extension's context manager, and turn its bugs and hangs into errors of Spear.

    Exceptions that are raised inside the block come out unchanged; a further bug at its end is logged.

    Args:
        whose: the extension, for messages, such as "the transport 'unix'".
        enter: returns the extension's context manager.
        kind: the class of the object that the context manager must yield.
        seconds: the limit for entering the block, and once more for leaving it.
        check: raises if the object that the block yields cannot be used.
        refusals: exceptions by which the extension may refuse to open; they come out unchanged.
        make_error: makes the error of a block that did not open.

    Raises:
        SpearError: the extension has a bug, which showed after its block was open.
    """
    is_open = False
    failure: BaseException | None = None
    error: BaseException | None = None
    scope = trio.CancelScope(deadline=trio.current_time() + seconds)
    try:
        with scope:
            async with _block_of(enter) as opened:
                _expect_kind(kind, opened)
                check(opened)
                if not scope.cancel_called:
                    is_open, scope.deadline = True, inf
                    try:
                        yield opened
                    except BaseException as raised:
                        failure = raised
                        raise
                    finally:
                        scope.deadline = trio.current_time() + seconds
    except BaseException as raised:
        if raised is failure:
            raise
        error = raised
    try:
        bugs = _bugs_of(error, failure)
        if scope.cancelled_caught or not (is_open or error):
            bugs.append(_too_slow("end" if is_open else "open", seconds))
        known = (SpearError,) if is_open else refusals
        await _raise_others_first(whose, error, failure, bugs, known)
        if bugs or failure:
            fault = summary_of(bugs[0]) if bugs else "the block was cancelled from inside"
            raise (SpearError if is_open else make_error)(f"{whose} failed: {fault}") from error
    finally:
        del error, failure, bugs  # their tracebacks refer to this frame


def _block_of(
    enter: Callable[[], AbstractAsyncContextManager[T]],
) -> AbstractAsyncContextManager[T]:
    """Return the async context manager that ``enter`` makes. Raises TypeError for any other object."""
    block = enter()
    returned: object = block
    if not isinstance(returned, AbstractAsyncContextManager):
        if iscoroutine(returned):
            returned.close()  # or Python warns later that it was never awaited
        method = getattr(getattr(enter, "func", enter), "__name__", "it")
        raise TypeError(
            f"{method} must return an async context manager, as @asynccontextmanager makes one, not a "
            f"value of type {type(returned).__name__!r}"
        )
    return block


def _expect_kind(kind: type, opened: object) -> None:
    if not isinstance(opened, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"expected {article} {kind.__name__}, not {shown(opened)}")


def _too_slow(step: str, seconds: float) -> trio.TooSlowError:
    fault = f"did not {step} within {seconds:.3g} s (set by startup_seconds)"
    return trio.TooSlowError(fault)


def _bugs_of(error: BaseException | None, failure: BaseException | None) -> list[BaseException]:
    """Return the leaves of ``error`` that are neither in ``failure`` nor of a class in ``_NO_BUGS``."""
    inside = [] if failure is None else [*leaves_of(failure)]
    leaves = [] if error is None else leaves_of(error)
    return [
        each
        for each in leaves
        if not isinstance(each, _NO_BUGS) and not any(each is known for known in inside)
    ]


async def _raise_others_first(
    whose: str,
    error: BaseException | None,
    failure: BaseException | None,
    bugs: list[BaseException],
    known: tuple[type[Exception], ...],
) -> None:
    """Raise the first that exists of the exceptions that take precedence over bugs; otherwise return.

    They are: a KeyboardInterrupt, ``failure`` without Cancelled, a Cancelled from outside, and ``error``
    if its class is in ``known``.
    """
    failed = None if failure is None else _without_cancellations(failure)
    leaves = [leaf for each in (error, failure) if each is not None for leaf in leaves_of(each)]
    try:
        interrupts = [each for each in leaves if isinstance(each, KeyboardInterrupt)]
        is_cancelled = trio.current_effective_deadline() == -inf  # from outside
        if bugs and (interrupts or failed is not None or is_cancelled):
            logger.error("%s failed at the end of a block", whose, exc_info=bugs[0])
        if interrupts:
            raise interrupts[0]
        if failed is not None:
            raise failed
        if is_cancelled and (error or failure):
            await trio.lowlevel.checkpoint_if_cancelled()
        if isinstance(error, known):
            raise error
    finally:
        del error, failure, failed, leaves, interrupts  # their tracebacks refer to this frame


def _without_cancellations(failure: BaseException) -> BaseException | None:
    """Return an exception without its cancellations, which may belong to a scope of the extension."""
    if isinstance(failure, BaseExceptionGroup):
        return failure.split(trio.Cancelled)[1]
    return None if isinstance(failure, trio.Cancelled) else failure
