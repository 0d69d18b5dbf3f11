"""Where Ctrl-C may raise KeyboardInterrupt, and where it has to wait.

Trio raises KeyboardInterrupt between any two steps of unprotected code. Inside Spear an interrupt would
leave a task registered that no longer waits, or a slot that is never freed. So Spear is
protected (:func:`trio.lowlevel.enable_ki_protection`): Trio raises the interrupt at the main task's next
checkpoint instead.

Trio asks the innermost function on the stack that is marked. So it is enough to mark what is entered
from outside: public methods, public blocks, and the functions that tasks begin with. Callables of the
user are marked the other way, by :func:`call_unprotected`, so that Ctrl-C ends a loop in them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, ParamSpec, TypeVar, TypeVarTuple, Unpack, final

from trio.lowlevel import disable_ki_protection, enable_ki_protection

if TYPE_CHECKING:
    from logging import Logger

P = ParamSpec("P")
T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


def protected_class(cls: type[T]) -> type[T]:
    """Mark all methods of a class: while one runs, Ctrl-C waits for the next checkpoint."""
    for member in vars(cls).values():
        function = member.fget if isinstance(member, property) else member
        function = getattr(function, "__func__", function)  # of a class method
        if isinstance(function, FunctionType):
            enable_ki_protection(function)
    return cls


@final
class ProtectedBlock(AbstractAsyncContextManager[T]):
    """A wrapper of an asynchronous context manager: Ctrl-C cannot interrupt its enter and exit."""

    __slots__ = ("_manager",)

    def __init__(self, manager: AbstractAsyncContextManager[T]) -> None:
        self._manager = manager

    @enable_ki_protection
    async def __aenter__(self) -> T:
        return await self._manager.__aenter__()

    @enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._manager.__aexit__(kind, error, traceback)


def protected_block(
    function: Callable[P, AsyncIterator[T]],
) -> Callable[P, AbstractAsyncContextManager[T]]:
    """Make a block of an asynchronous generator, as :func:`contextlib.asynccontextmanager` does.

    Ctrl-C cannot interrupt the generator. With ``contextlib``, an interrupt between the generator's
    ``yield`` and the first line of the block would keep the code behind the ``yield`` from running.
    """
    make = asynccontextmanager(function)

    @wraps(function)
    def open_block(*args: P.args, **kwargs: P.kwargs) -> ProtectedBlock[T]:
        return ProtectedBlock(make(*args, **kwargs))

    return open_block


@disable_ki_protection
def call_unprotected(function: Callable[[Unpack[Arguments]], T], *args: *Arguments) -> T:
    """Call a function of the user, which Ctrl-C may interrupt."""
    return function(*args)


def notify(
    logger: Logger,
    whose: object,
    observer: Callable[[Unpack[Arguments]], object],
    *args: *Arguments,
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
