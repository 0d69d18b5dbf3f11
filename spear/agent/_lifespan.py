"""Lifespans of agents: refuse an object that cannot be a lifespan, and run one that can.

Mistakes are named when a lifespan is registered, if they can be seen there, and otherwise when it runs.
The words of ``contextlib`` for them are about generators, which the author of a lifespan need not know.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Final, TypeAlias, TypeVar, final

from trio.lowlevel import disable_ki_protection

from spear._errors import ConfigurationError

Lifespan: TypeAlias = Callable[
    [], AsyncIterator[None] | AbstractAsyncContextManager[object, bool | None]
]

L = TypeVar("L")

_HELPER: Final = (contextlib.__file__, "helper")
"""What ``asynccontextmanager`` returns."""

RULE: Final = "a lifespan is an `async def` without parameters and with one `yield`"


def check_lifespan(lifespan: object) -> None:
    """Raise ConfigurationError for what can be no lifespan, with the mistake that it is likely to be."""
    name = _name_of(lifespan)
    if isinstance(lifespan, Coroutine | AsyncGenerator | Generator | AbstractAsyncContextManager):
        if isinstance(lifespan, Coroutine):
            lifespan.close()  # or Python warns that it was never awaited
        raise ConfigurationError(f"{name}() has been called: give the function itself; {RULE}")
    lifespan = _inside(lifespan)
    if not callable(lifespan):
        raise ConfigurationError(f"{lifespan!r} is no function; {RULE}")
    if inspect.iscoroutinefunction(lifespan):
        raise ConfigurationError(f"{name}() has no `yield`; {RULE}")
    if inspect.isgeneratorfunction(lifespan):
        raise ConfigurationError(f"{name}() is a plain `def`: make it an `async def`; {RULE}")
    if parameter := required_parameter(lifespan):
        raise ConfigurationError(f"{name}() takes {parameter!r}, but gets no arguments; {RULE}")


def _inside(lifespan: L) -> L:
    """The generator function that ``asynccontextmanager`` was given, whose words would be its own."""
    code = getattr(lifespan, "__code__", None)
    is_helper = code is not None and (code.co_filename, code.co_name) == _HELPER
    return lifespan.__wrapped__ if is_helper else lifespan  # type: ignore[attr-defined]  # it has


def required_parameter(function: Callable[..., object]) -> str:  # type: ignore[explicit-any]  # any at all
    """Return the first parameter without which a function cannot be called; empty if there is none."""
    code = getattr(function, "__code__", None)
    # What asynccontextmanager makes takes what is inside of it; what others make may give that itself.
    follows = code is not None and code.co_filename == contextlib.__file__
    try:
        parameters = inspect.signature(function, follow_wrapped=follows).parameters.values()
    except (TypeError, ValueError):  # some that are written in C
        return ""
    required = (
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    )
    return next(required, "")


def open_lifespan(lifespan: Lifespan) -> AbstractAsyncContextManager[object, bool | None]:
    """Return the lifespan as a block.

    Raises:
        ConfigurationError: it gives nothing of the kind; on entering and leaving the block also for one
            that does not yield, or yields twice.
    """
    made = _inside(lifespan)()
    if isinstance(made, AsyncGenerator):
        return _Block(made, _name_of(lifespan))
    if isinstance(made, AbstractAsyncContextManager):
        return made
    what = f"{_name_of(lifespan)}() has returned {made!r}, which is no async context manager"
    if isinstance(made, AbstractContextManager):
        what = f"{_name_of(lifespan)}() gives a plain context manager: use asynccontextmanager"
    elif isinstance(made, Coroutine):
        made.close()  # as above
        what = f"{_name_of(lifespan)}() gives a coroutine, which has no `yield`"
    raise ConfigurationError(f"{what}; {RULE}")


@final
class _Block:
    """A lifespan as a block: like ``asynccontextmanager``, with error messages about lifespans."""

    def __init__(self, generator: AsyncGenerator[None, None], name: str) -> None:
        self._generator = generator
        self._name = name

    @disable_ki_protection  # a program may be loading for long
    async def __aenter__(self) -> None:
        try:
            await anext(self._generator)
        except StopAsyncIteration:
            fault = f"{self._name}() has ended without coming to its `yield`"
            raise ConfigurationError(f"{fault}; {RULE}") from None

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        try:
            if error is None:
                await anext(self._generator)
            else:
                await self._generator.athrow(error)
        except StopAsyncIteration:
            return True
        except BaseException as raised:
            if raised is not error:
                raise
            error.__traceback__ = trace  # or each block would add its own frames
            return False
        await self._generator.aclose()
        raise ConfigurationError(f"{self._name}() has come to a second `yield`; {RULE}")


def _name_of(thing: object) -> str:
    return str(getattr(thing, "__name__", None) or type(thing).__name__)
