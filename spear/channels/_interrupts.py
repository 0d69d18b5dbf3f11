"""Decorators that mark where Ctrl-C may raise KeyboardInterrupt, and where the exception has to wait.

Trio raises KeyboardInterrupt between any two steps of unprotected code. Inside Spear an interrupt could
leave a registration for a task that no longer waits, or a slot that is never freed. Spear is therefore
protected (:func:`trio.lowlevel.enable_ki_protection`): Trio raises the interrupt at the main task's next
checkpoint instead.

Trio goes by the innermost marked function on the stack. It is enough to mark the entry points: public
methods, public context managers, and the functions that tasks begin with. Callables of the user are
marked as unprotected, by :func:`call_unprotected`, so that Ctrl-C can interrupt an endless loop in them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar, TypeVarTuple, Unpack, cast, final

from trio.lowlevel import disable_ki_protection, enable_ki_protection

if TYPE_CHECKING:
    from logging import Logger

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def protected_class(cls: type[T]) -> type[T]:
    """Mark all methods of a class: while one runs, Ctrl-C waits for the next checkpoint."""
    for member in vars(cls).values():
        function = member.fget if isinstance(member, property) else member
        function = getattr(function, "__func__", function)  # of a class method
        if isinstance(function, FunctionType):
            enable_ki_protection(function)
    return cls


@final
class _Exit:
    """An ``__aexit__`` that ``async with`` calls as a plain function; see :func:`protected_exit`."""

    __slots__ = ("_method",)

    def __init__(self, method: FunctionType) -> None:
        self._method = method

    @enable_ki_protection
    def __get__(self, block: object, cls: type) -> FunctionType:
        if block is None:  # contextlib's stacks look it up in the class
            return self._method
        return FunctionType(_call_exit.__code__, globals(), "__aexit__", (self._method, block))


@enable_ki_protection
def _call_exit(
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
    method: Callable[
        [object, type[BaseException] | None, BaseException | None, TracebackType | None], object
    ],
    block: object,
) -> object:
    return method(block, kind, error, traceback)


def protected_exit(method: T) -> T:
    """Protect an ``__aexit__`` from the moment at which ``async with`` calls it.

    CPython handles signals after each call of anything but a plain function. ``async with`` calls a bound
    method, so an interrupt could be raised in the user's frame, and the coroutine be dropped unawaited.
    """
    assert isinstance(method, FunctionType)
    return cast("T", _Exit(enable_ki_protection(method)))


@final
class ProtectedBlock(AbstractAsyncContextManager[T]):
    """A wrapper of an asynchronous context manager: Ctrl-C cannot interrupt its enter and exit.

    Args:
        manager: the context manager.
        name: the function that has opened the block, for errors.
    """

    __slots__ = ("_manager", "_name")

    def __init__(self, manager: AbstractAsyncContextManager[T], name: str) -> None:
        self._manager = manager
        self._name = name

    def __await__(self) -> NoReturn:
        """Refuse ``await``, with the statement to use instead; the same for both kinds of ``for``."""
        raise TypeError(
            f"{self._name}(...) opens a block: use `async with {self._name}(...) as opened`, not `await`"
        )

    def __aiter__(self) -> NoReturn:
        raise TypeError(
            f"{self._name}(...) opens a block: use `async with {self._name}(...) as results`, and in it "
            "`async for each in results`"
        )

    __iter__ = __aiter__

    @enable_ki_protection
    async def __aenter__(self) -> T:
        return await self._manager.__aenter__()

    @protected_exit
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        manager = self._manager
        # Dropped in this frame: Python swallows interrupts in weak-reference callbacks of the generator.
        del self._manager
        try:
            return await manager.__aexit__(kind, error, traceback)
        finally:
            del manager


def protected_block(
    function: Callable[P, AsyncIterator[T]],
) -> Callable[P, AbstractAsyncContextManager[T]]:
    """Turn an asynchronous generator into a block, as :func:`contextlib.asynccontextmanager` does.

    Ctrl-C cannot interrupt the generator. With ``contextlib``, an interrupt between the generator's
    ``yield`` and the first line of the block would keep the code after the ``yield`` from running.
    """
    return named_block(function.__name__, function)


def named_block(
    name: str, function: Callable[P, AsyncIterator[T]]
) -> Callable[P, AbstractAsyncContextManager[T]]:
    """Turn a generator into a block as :func:`protected_block` does; errors have another name for it."""
    make = asynccontextmanager(function)

    @wraps(function)
    def open_block(*args: P.args, **kwargs: P.kwargs) -> ProtectedBlock[T]:
        return ProtectedBlock(make(*args, **kwargs), name)

    return open_block


@disable_ki_protection
def call_unprotected(function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
    """Call a function of the user, which Ctrl-C may interrupt."""
    return function(*args)


def notify(
    logger: Logger,
    whose: object,
    observer: Callable[[Unpack[Ts]], object],
    *args: *Ts,
) -> None:
    """Call an observer of the user, and log what it raises, ``SystemExit`` included.

    Ctrl-C may interrupt the observer; KeyboardInterrupt is raised, not logged.
    """
    try:
        call_unprotected(observer, *args)
    except KeyboardInterrupt:
        raise
    except BaseException:
        logger.exception("the callback %s raised", whose)


@disable_ki_protection
def notify_all(
    logger: Logger, observers: tuple[Callable[[Unpack[Ts]], object], ...], *args: *Ts
) -> None:
    """Call all hooks of instruments, as :func:`notify` calls an observer, even if one of them raises."""
    for each in observers:
        try:
            each(*args)
        except KeyboardInterrupt:
            raise
        except BaseException:
            logger.exception("the callback %s raised", getattr(each, "__qualname__", each))
