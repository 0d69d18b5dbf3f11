"""The agent: where a file registers its functions, and what a host runs.

Knows how functions are registered, not how they are reached: ``_serve`` connects, ``_service`` answers.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar, final, overload

from spear._errors import ConfigurationError
from spear._limits import DEFAULT_WIRE_LIMITS, WireLimits, shown
from spear._signatures import HEALTH
from spear.channels import protected_block

from ._describe import describe
from ._functions import (
    AsyncFunction,
    AsyncStream,
    PlainFunction,
    RegisteredFunction,
    WrappedFunction,
)
from ._lifespan import Lifespan, check_lifespan, open_lifespan, required_parameter
from ._mistakes import check_annotations
from ._service import AgentService

if TYPE_CHECKING:
    from ._arguments import AnyFunction

P = ParamSpec("P")
R = TypeVar("R")
L = TypeVar("L", bound=Lifespan)

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")

MAX_THREADS: Final = min(32, (os.cpu_count() or 1) + 4)
"""Plain functions that run at a time, if nobody says how many (as in ``ThreadPoolExecutor``). Beside a
hundred threads that compute, Trio's waits for its turn for seconds, and the host hears no heartbeat."""

MAX_CONCURRENCY: Final = 1_000_000
"""As a deployment's."""

RESERVED: Final = "spear."
"""Names that begin so are ours. ``spear.describe`` tells what functions there are."""


@final
class Agent:
    """The functions of one program, to be called by a host.

    ::

        app = spear.Agent()

        @app.function
        async def price(item: str, *, currency: str = "EUR") -> float: ...

    Args:
        name: for log lines.
        concurrency: how many calls may run at a time; the host learns of it and sends no more. Without
            it, these are ``WireLimits.max_calls``; of plain functions as many as there are cores, and
            four, and if all functions are plain, the host learns of that.
        debug: send tracebacks with errors. Not for callers that you do not trust.

    Raises:
        ConfigurationError: ``concurrency`` is less than 1, or an argument of another type.
    """

    def __init__(
        self, name: str = "", *, concurrency: int | None = None, debug: bool = False
    ) -> None:
        if not isinstance(name, str):
            raise ConfigurationError(f"an agent's name is text, not {name!r}")
        if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
            raise ConfigurationError(
                f"concurrency must be a whole number of at least 1, not {shown(concurrency)}"
            )
        if concurrency is not None and concurrency > MAX_CONCURRENCY:
            raise ConfigurationError(
                f"concurrency must be at most {MAX_CONCURRENCY}, not {shown(concurrency)}"
            )
        self.name = name
        self.concurrency = concurrency
        self.debug = debug
        self._service = AgentService()
        self._lifespan: Lifespan | None = None
        self._has_run = False
        self._is_prepared = False

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"<Agent{name}: {', '.join(self.functions) or 'no functions'}>"

    # -- registering ----------------------------------------------------------------------------------

    @overload
    def function(self, function: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def function(
        self, /, *, name: str | None = None, asyncio: bool = False
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def function(
        self,
        function: Callable[P, R] | None = None,
        /,
        *,
        name: str | None = None,
        asyncio: bool = False,
    ) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
        """Offer a function to the host. Returns it unchanged, so that it can be called here, too.

        * ``async def``: a Trio task; it is cancelled when the caller gives up or the time is up.
        * ``def``: runs in a thread. It is not interrupted; its slot is free when it has ended.
        * ``async def`` with ``yield``, ``def`` with ``yield``: a stream of items.

        Annotated parameters are checked, and maps become the attrs classes and dataclasses that they
        are annotated with; a parameter annotated with ``Items`` gets the items that the caller sends.

        Args:
            function: given when this is used as ``@app.function``.
            name: under which it is called, if not its own.
            asyncio: ``async def`` of asyncio's kind, run in an asyncio loop.

        Raises:
            ConfigurationError: it is no function, or the name is taken or not a name.
        """

        def register(function: Callable[P, R]) -> Callable[P, R]:
            self._register(function, name, asyncio)
            return function

        return register if function is None else register(function)

    def _register(self, function: object, name: str | None, asyncio: bool) -> None:
        if not isinstance(function, FunctionType | MethodType | BuiltinFunctionType):
            raise ConfigurationError(_not_a_function(function))
        if name is None:
            name = function.__name__
        if not _is_name(name):
            raise ConfigurationError(
                f"{name!r} cannot be a function's name: give one, of A-Z a-z 0-9 _ . -, as in "
                "@app.function(name='price')"
            )
        if name.startswith(RESERVED):
            raise ConfigurationError(
                f"{name!r}: names that begin with {RESERVED!r} are Spear's own"
            )
        if name in self._service:
            raise ConfigurationError(
                f"there are two functions {name!r}: give one of them another name, as in "
                f"@app.function(name='{name}_2')"
            )
        if self._has_run:
            raise ConfigurationError(
                f"{name!r} comes too late: the agent runs, and its functions have been announced"
            )
        self._service.add(_kind_of(function, name, asyncio)(name, function))

    def health(self, function: Callable[P, R]) -> Callable[P, R]:
        """Register what tells whether the agent can do its work: a function without parameters.

        The host calls it every ten seconds, if there is room for a call. If it raises, or is not done
        within five seconds, three times in a row, the instance is replaced. What it returns does not
        matter. (That the instance lives, the host knows anyway.)

        Raises:
            ConfigurationError: there is one already, or it is no function of that kind.
        """
        if HEALTH in self._service:
            raise ConfigurationError("there is a health check already: put both into one")
        if not isinstance(function, FunctionType | MethodType | BuiltinFunctionType):
            raise ConfigurationError(_not_a_function(function))
        kind = _kind_of(function, HEALTH, asyncio=False)
        if kind not in (AsyncFunction, PlainFunction, WrappedFunction):
            raise ConfigurationError(
                f"{function.__name__}() is a stream: a health check just returns"
            )
        if parameter := required_parameter(function):
            raise ConfigurationError(
                f"{function.__name__}() takes {parameter!r}: a health check takes no arguments"
            )
        self._service.add_unannounced(kind(HEALTH, function))
        return function

    def lifespan(self, lifespan: L) -> L:
        """Register what surrounds the agent's life: an async generator function with one ``yield``.

        What stands in front of the ``yield`` runs before the functions are announced, what stands
        behind it when the last call has ended; a nursery or a connection may stay open in between. A
        function that returns an async context manager will do as well.

        Raises:
            ConfigurationError: there is one already, or it cannot be one: it has no ``yield``, or takes
                arguments, for example.
        """
        if self._lifespan is not None:
            raise ConfigurationError("there is a lifespan already: put both into one")
        check_lifespan(lifespan)
        self._lifespan = lifespan
        return lifespan

    # -- running --------------------------------------------------------------------------------------

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the functions, in the order of their numbers."""
        return tuple(each.name for each in self._service.functions)

    @property
    def streams(self) -> frozenset[str]:
        """The names of those among them that send items."""
        return frozenset(each.name for each in self._service.functions if each.kind == "stream")

    @property
    def service(self) -> AgentService:
        """What a channel needs to call the functions, while the agent is :meth:`running`."""
        return self._service

    def limits(self, base: WireLimits = DEFAULT_WIRE_LIMITS) -> WireLimits:
        """The limits for a channel of this agent: ``base``, with the number of calls that it takes."""
        calls = self.concurrency
        if calls is None:
            own = [each for each in self._service.functions if not each.name.startswith(RESERVED)]
            inline = self._service.runs_inline
            if not own or inline or not all(each.needs_thread for each in own):
                return base
            # More would wait here for a thread, where no host sees that another replica is needed.
            calls = min(base.max_calls, MAX_THREADS)
        import attrs

        return attrs.evolve(base, max_calls=calls)

    @protected_block
    async def running(
        self, limits: WireLimits = DEFAULT_WIRE_LIMITS, *, debug: bool = False
    ) -> AsyncIterator[None]:
        """Run the lifespan around the block, and be ready to be called through channels in it.

        This is what a host uses that runs the agent in its own process::

            async with agent.running(), open_memory_channels(
                instance_id, agent_service=agent.service, functions=agent.functions,
                streams=agent.streams, limits=agent.limits(),
            ) as (channel, _):
                ...

        Blocks may overlap, each with a lifespan of its own. Close the channels before leaving the
        block. If cancelled, the lifespan is cancelled as well.

        Raises:
            ConfigurationError: it runs already, in another thread; or a parameter is annotated with
                what can never be sent, or with a name that exists nowhere.
        """
        if not self._is_prepared:
            check_annotations(self._service.functions)
        self._has_run = True
        threads = self.concurrency or min(limits.max_calls, MAX_THREADS)
        async with (
            _entered(self._lifespan),
            self._service.running(
                threads,
                self.limits(limits).max_calls,
                limits.call_seconds,
                debug=self.debug or debug,
            ),
        ):
            yield

    async def wait_unable(self) -> str:
        """Wait, while it is :meth:`running`, until functions cannot be run any more; returns why.

        No thread can be started, for example, or the asyncio loop has ended. Then leave the block, and
        start another one, or another process. A checkpoint.
        """
        return await self._service.wait_unable()

    def prepare(self) -> None:
        """Do now what the first run and the first calls would do. Nothing can be registered any more.

        Raises:
            ConfigurationError: see :meth:`running`.
        """
        check_annotations(self._service.functions)
        for function in self._service.functions:
            function.prepare()
        self._is_prepared = self._has_run = True

    def describe(self) -> list[dict[str, str]]:
        """Return the ``name``, ``kind``, ``signature`` and ``summary`` of each function.

        A function whose signature cannot be written is left out, with a warning.
        """
        return describe(self._service.functions)

    def run(self) -> None:
        """Serve the host that the environment names, then exit the process.

        For ``if __name__ == "__main__"``. The variables are ``SERVICE_ADDR``, ``SECRET`` and
        ``SPEAR_INSTANCE``; the exit statuses are those of ``python -m spear.agent``.
        """
        from ._launch import launch_agent

        sys.exit(launch_agent(self, os.path.basename(sys.argv[0])))


@protected_block
async def _entered(lifespan: Lifespan | None) -> AsyncIterator[None]:
    if lifespan is None:
        yield
        return
    async with open_lifespan(lifespan):
        yield


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _kind_of(function: AnyFunction, name: str, asyncio: bool) -> type[RegisteredFunction]:
    """The class that runs this kind of function."""
    is_async_stream = inspect.isasyncgenfunction(function)
    is_async = inspect.iscoroutinefunction(function)
    is_wrapper = not is_async and inspect.iscoroutinefunction(inspect.unwrap(function))
    if asyncio:
        is_async |= is_wrapper  # what it returns is awaited
        if not (is_async or is_async_stream):
            raise ConfigurationError(f"{name}() is no `async def`: leave out asyncio=True")
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


def _not_a_function(thing: object) -> str:
    if isinstance(thing, str):
        return f"write @app.function(name={thing!r}), or @app.function alone"
    if isinstance(thing, type):
        return f"{thing.__name__} is a class: register a function that makes or uses one"
    return f"{thing!r} is no function: wrap it in a `def` and register that"
