"""Lifespans of agents: checking an object that is to be a lifespan, and running it.

Mistakes are reported when a lifespan is registered if possible, and otherwise when it runs. The messages
replace the messages of ``contextlib``, which are about generators.
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
"""File and name of the function that ``asynccontextmanager`` returns."""

RULE: Final = "a lifespan is an `async def` without parameters and with one `yield`"


def check_lifespan(lifespan: object) -> None:
    """Raise ConfigurationError for an object that cannot be a lifespan, naming the likely mistake."""
    name = _name_of(lifespan)
    if isinstance(lifespan, Coroutine | AsyncGenerator | Generator | AbstractAsyncContextManager):
        if isinstance(lifespan, Coroutine):
            lifespan.close()  # or Python warns that it was never awaited
        raise ConfigurationError(f"{name}() was called: pass the function itself; {RULE}")
    lifespan = _inside(lifespan)
    if not callable(lifespan):
        raise ConfigurationError(f"{lifespan!r} is not a function; {RULE}")
    if inspect.iscoroutinefunction(lifespan):
        raise ConfigurationError(f"{name}() has no `yield`; {RULE}")
    if inspect.isgeneratorfunction(lifespan):
        raise ConfigurationError(f"{name}() is a plain `def`: make it an `async def`; {RULE}")
    if parameter := required_parameter(lifespan):
        raise ConfigurationError(f"{name}() requires {parameter!r}, but gets no arguments; {RULE}")


def _inside(lifespan: L) -> L:
    """Return the function inside an ``asynccontextmanager``, for better error messages."""
    code = getattr(lifespan, "__code__", None)
    is_helper = code is not None and (code.co_filename, code.co_name) == _HELPER
    return lifespan.__wrapped__ if is_helper else lifespan  # type: ignore[attr-defined]  # it has


def required_parameter(function: Callable[..., object]) -> str:  # type: ignore[explicit-any]  # any at all
    """Return the first parameter without which a function cannot be called; empty if there is none."""
    code = getattr(function, "__code__", None)
    # A function made by asynccontextmanager has the parameters of the wrapped function. Other wrappers
    # may supply these parameters themselves.
    follows = code is not None and code.co_filename == contextlib.__file__
    try:
        parameters = inspect.signature(function, follow_wrapped=follows).parameters.values()
    except (TypeError, ValueError):  # such as some functions written in C
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
        ConfigurationError: the function returns no async context manager. Entering or leaving the block
            also raises this for a lifespan that does not yield, or yields twice.
    """
    made = _inside(lifespan)()
    if isinstance(made, AsyncGenerator):
        return _Block(made, _name_of(lifespan))
    if isinstance(made, AbstractAsyncContextManager):
        return made
    what = f"{_name_of(lifespan)}() returned {made!r}, which is not an async context manager"
    if isinstance(made, AbstractContextManager):
        what = f"{_name_of(lifespan)}() returned a plain context manager: use asynccontextmanager"
    elif isinstance(made, Coroutine):
        made.close()  # or Python warns that it was never awaited
        what = f"{_name_of(lifespan)}() returned a coroutine, which has no `yield`"
    raise ConfigurationError(f"{what}; {RULE}")


@final
class _Block:
    """A block that runs a lifespan, like ``asynccontextmanager``, with messages about lifespans."""

    def __init__(self, generator: AsyncGenerator[None, None], name: str) -> None:
        self._generator = generator
        self._name = name

    @disable_ki_protection  # the user's code may run for long
    async def __aenter__(self) -> None:
        try:
            await anext(self._generator)
        except StopAsyncIteration:
            fault = f"{self._name}() ended before its `yield`"
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
        raise ConfigurationError(f"{self._name}() reached a second `yield`; {RULE}")


def _name_of(thing: object) -> str:
    return str(getattr(thing, "__name__", None) or type(thing).__name__)
