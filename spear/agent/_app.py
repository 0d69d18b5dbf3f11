"""The agent: the object at which a file registers its functions, and which a host runs.

This module registers functions. ``_serve`` connects to the host, and ``_service`` answers calls.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Final, Never, ParamSpec, TypeVar, cast, final, overload

from spear._errors import ConfigurationError
from spear._limits import DEFAULT_WIRE_LIMITS, WireLimits, shown
from spear._signatures import HEALTH
from spear.channels import protected_block

from ._describe import describe
from ._functions import AsyncFunction, PlainFunction, WrappedFunction
from ._kinds import batched_kind_of, kind_of
from ._lifespan import Lifespan, check_lifespan, open_lifespan, required_parameter
from ._mistakes import check_annotations
from ._service import AgentService

if TYPE_CHECKING:
    import trio

    from spear._retry_policy import RetryPolicy
    from spear.transports import TransportRegistry
    from spear.wire import BootstrapRecord

    from ._dynamic_batches import BatchSettings
    from ._functions import RegisteredFunction

P = ParamSpec("P")
R = TypeVar("R")
L = TypeVar("L", bound=Lifespan)

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")

MAX_THREADS: Final = min(32, (os.cpu_count() or 1) + 4)
"""Most plain functions that run at a time by default (as in ``ThreadPoolExecutor``). With a hundred busy
threads, Trio's thread waits for seconds before it runs, and the host receives no heartbeat."""

MAX_CONCURRENCY: Final = 1_000_000
"""The highest concurrency, the same as for a deployment."""

RESERVED: Final = "spear."
"""The prefix of names reserved for Spear, such as ``spear.describe``, which describes the functions."""


@final
class Agent:
    """A program's collection of functions, to be called by a host.

    ::

        app = spear.Agent()

        @app.function
        async def price(item: str, *, currency: str = "EUR") -> float: ...

    Args:
        name: the name of a deployment of this agent, by default.
        concurrency: most calls that run at a time; the host is told the limit and sends no more. The
            default is ``WireLimits.max_calls``. Of these calls, as many plain functions run at a time as
            the machine has cores plus four, at most 32; if all are plain, this is the limit for the host.
        debug: whether errors carry tracebacks. Not for callers that you do not trust.

    Raises:
        ConfigurationError: ``concurrency`` is out of range, or an argument has a wrong type.
    """

    def __init__(
        self, name: str = "", *, concurrency: int | None = None, debug: bool = False
    ) -> None:
        if not isinstance(name, str):
            raise ConfigurationError(f"an agent's name must be text, not {name!r}")
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

    # -- registration ---------------------------------------------------------------------------------

    @overload
    def function(self, function: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def function(
        self,
        /,
        *,
        name: str | None = None,
        asyncio: bool = False,
        retry: RetryPolicy | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def function(
        self,
        function: Callable[P, R] | None = None,
        /,
        *,
        name: str | None = None,
        asyncio: bool = False,
        retry: RetryPolicy | None = None,
    ) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
        """Register a function for calls by the host, and return the function unchanged.

        * ``async def``: a Trio task, cancelled when the caller cancels the call or its deadline passes.
        * ``def``: runs in a thread. Nothing interrupts it: after its deadline it still runs to its end.
        * ``async def`` with ``yield``, ``def`` with ``yield``: a stream of items.

        Arguments are checked against annotations, and dicts are converted to objects of annotated
        classes. A parameter annotated with ``Items`` gets the items that the caller sends in a stream
        that it has opened with ``f.stream(sends_items=True)``.

        Args:
            function: the function, if this method is used as ``@app.function``.
            name: the name for callers; by default the function's own name.
            asyncio: whether the function is written for asyncio, to be run in an asyncio loop.
            retry: which failed calls the host tries again, if neither call nor deployment has a policy.

        Raises:
            ConfigurationError: the argument is not a function, the name is taken or invalid, or ``retry``
                is no policy, or given for a stream.
        """

        def register(function: Callable[P, R]) -> Callable[P, R]:
            self._register(function, name, asyncio, retry)
            return function

        return register if function is None else register(function)

    @overload
    def batched(self, function: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def batched(
        self,
        /,
        *,
        max_size: int = 32,
        max_wait_seconds: float = 0.005,
        weight: Callable[[Never], float] | None = None,
        max_concurrent_batches: int = 1,
        name: str | None = None,
        asyncio: bool = False,
        retry: RetryPolicy | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def batched(
        self,
        function: Callable[P, R] | None = None,
        /,
        *,
        max_size: int = 32,
        max_wait_seconds: float = 0.005,
        weight: Callable[[Never], float] | None = None,
        max_concurrent_batches: int = 1,
        name: str | None = None,
        asyncio: bool = False,
        retry: RetryPolicy | None = None,
    ) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
        """Register a function that gets the items of several calls as one list.

        ::

            @app.batched(max_size=64)
            def embed(texts: list[str]) -> list[list[float]]:
                return model.encode(texts)

        Callers pass one item, ``await f.embed("a text")``, and get one result. The function must have one
        parameter, and return a list with one entry for each item, in their order. An exception among the
        entries is the failure of its call alone; an exception that the function raises is the failure of
        all calls of the batch, and so is a list of another length. An argument of a wrong type fails its
        own call, and joins no batch.

        A batch begins ``max_wait_seconds`` after its first call has arrived, or as soon as it is full.
        Calls that arrive while ``max_concurrent_batches`` run make up the next batches. A call that is
        cancelled, or late, before its batch begins is not in it. If it is cancelled later, the other
        calls of the batch go on; when all have been cancelled, so is the function, unless it is a
        ``def``.

        Args:
            function: the function, if this method is used as ``@app.batched``.
            max_size: most calls of a batch; with ``weight``, the largest sum of their weights.
            max_wait_seconds: how long the first call of a batch waits for others. With 0, a batch has the
                calls that are there.
            weight: returns the weight of an item, such as ``len``; called in Trio's thread. An item above
                ``max_size`` travels alone. Each item weighs 1 by default.
            max_concurrent_batches: most batches that run at a time in one process.
            name: the name for callers; by default the function's own name.
            asyncio: whether the function is written for asyncio, to be run in an asyncio loop.
            retry: which failed calls the host tries again; see :meth:`function`.

        Raises:
            ConfigurationError: the argument is not a function of one list, the name is taken or invalid,
                or another argument is out of range.
        """
        from ._dynamic_batches import BatchSettings

        weigh = cast("Callable[[object], float] | None", weight)
        settings = BatchSettings(max_size, max_wait_seconds, weigh, max_concurrent_batches)

        def register(function: Callable[P, R]) -> Callable[P, R]:
            self._register(function, name, asyncio, retry, settings)
            return function

        return register if function is None else register(function)

    def _register(
        self,
        function: object,
        name: str | None,
        asyncio: bool,
        retry: RetryPolicy | None,
        batches: BatchSettings | None = None,
    ) -> None:
        if not isinstance(function, FunctionType | MethodType | BuiltinFunctionType):
            raise ConfigurationError(_not_a_function(function))
        if name is None:
            name = function.__name__
        if not _is_name(name):
            raise ConfigurationError(
                f"{name!r} cannot be a function's name: pass a name of A-Z a-z 0-9 _ . -, as in "
                "@app.function(name='price')"
            )
        if name.startswith(RESERVED):
            raise ConfigurationError(
                f"{name!r}: names that begin with {RESERVED!r} are reserved for Spear"
            )
        if name in self._service:
            raise ConfigurationError(
                f"two functions have the name {name!r}: give one of them another name, as in "
                f"@app.function(name='{name}_2')"
            )
        if self._has_run:
            raise ConfigurationError(
                f"cannot register {name!r}: the agent is running, and has announced its functions"
            )
        kind = kind_of(function, name, asyncio)
        registered: RegisteredFunction
        if batches is None:
            registered = kind(name, function)
        else:
            registered = batched_kind_of(kind, name)(name, function, batches)
        if retry is not None:
            _expect_policy(registered, retry)
            registered.retry = retry
        self._service.add(registered)

    def health(self, function: Callable[P, R]) -> Callable[P, R]:
        """Register a health check: a function without parameters that raises if the agent cannot work.

        The host calls the function every ten seconds, if there is a free slot for a call. If it raises
        or takes more than five seconds three times in a row, the instance is replaced. The result is
        ignored. (Whether the process is alive, the host checks independently.)

        Raises:
            ConfigurationError: a health check is already registered, or the function is unsuitable.
        """
        if HEALTH in self._service:
            raise ConfigurationError(
                "the agent has a health check already: combine both in one function"
            )
        if not isinstance(function, FunctionType | MethodType | BuiltinFunctionType):
            raise ConfigurationError(_not_a_function(function))
        kind = kind_of(function, HEALTH, asyncio=False)
        if kind not in (AsyncFunction, PlainFunction, WrappedFunction):
            raise ConfigurationError(
                f"{function.__name__}() has a `yield`: a health check must return, not yield"
            )
        if parameter := required_parameter(function):
            raise ConfigurationError(
                f"{function.__name__}() requires {parameter!r}, but a health check gets no arguments"
            )
        self._service.add_unannounced(kind(HEALTH, function))
        return function

    def lifespan(self, lifespan: L) -> L:
        """Register the agent's lifespan: an async generator function with one ``yield``.

        The code before the ``yield`` runs before the functions are announced to the host, and the code
        after it when the last call has ended; a nursery or a connection may stay open in between. A
        function that returns an async context manager is also accepted.

        Raises:
            ConfigurationError: a lifespan is already registered, or the function is unsuitable, such as
                one without a ``yield`` or with parameters.
        """
        if self._lifespan is not None:
            raise ConfigurationError(
                "the agent has a lifespan already: combine both in one function"
            )
        check_lifespan(lifespan)
        self._lifespan = lifespan
        return lifespan

    # -- running --------------------------------------------------------------------------------------

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the functions, in the order of their numbers on the wire."""
        return tuple(each.name for each in self._service.functions)

    @property
    def streams(self) -> frozenset[str]:
        """The names of the functions that send a stream of items."""
        return frozenset(each.name for each in self._service.functions if each.kind == "stream")

    @property
    def retry_policies(self) -> dict[str, RetryPolicy]:
        """The retry policies of functions that have one, by name."""
        functions = self._service.functions
        return {each.name: each.retry for each in functions if each.retry is not None}

    @property
    def service(self) -> AgentService:
        """The service with which a channel calls the functions, while the agent is :meth:`running`."""
        return self._service

    def limits(self, base: WireLimits = DEFAULT_WIRE_LIMITS) -> WireLimits:
        """Return ``base`` with the agent's concurrency as ``max_calls``, for a channel of this agent."""
        calls = self.concurrency
        if calls is None:
            own = [each for each in self._service.functions if not each.name.startswith(RESERVED)]
            inline = self._service.runs_inline
            if not own or inline or not all(each.needs_thread for each in own):
                return base
            # Further calls would wait here for a thread, and the host would not see the queue.
            calls = min(base.max_calls, MAX_THREADS)
        import attrs

        return attrs.evolve(base, max_calls=calls)

    @protected_block
    async def running(
        self, limits: WireLimits = DEFAULT_WIRE_LIMITS, *, debug: bool = False
    ) -> AsyncIterator[None]:
        """Run the agent's lifespan, its start-up and shutdown code, around a block.

        Inside the block, channels can call the agent's functions.

        A host that runs the agent in its own process uses this method::

            async with agent.running(), open_memory_channels(
                instance_id, agent_service=agent.service, functions=agent.functions,
                streams=agent.streams, retry_policies=agent.retry_policies,
                limits=agent.limits(),
            ) as (channel, _):
                ...

        Blocks of one thread may overlap, each with a lifespan of its own. Close the channels before
        leaving the block. If the block is cancelled, the lifespan's code is cancelled, too.

        Args:
            limits: the limits of the channels, before the agent's own concurrency is applied to them.
            debug: whether errors carry tracebacks.

        Raises:
            ConfigurationError: the agent already runs in another thread, or a parameter is annotated
                with a type that Spear cannot encode, or with an undefined name.
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

    async def serve(
        self, record: BootstrapRecord, *, stop: trio.Event, transports: TransportRegistry
    ) -> None:
        """Serve a host, while :meth:`running`, until the host or ``stop`` ends it. A checkpoint.

        :func:`spear.agent.serve`, which also runs the lifespan, describes cancellation and errors.

        Args:
            record: the addresses, the identity and the limits from the host.
            stop: an event that begins draining when it is set.
            transports: the transports of the host, whose process this is.
        """
        from ._reaching import HostAddresses
        from ._serve import serve_running

        await serve_running(
            self, HostAddresses(record.addresses, transports=transports), record, stop
        )

    async def wait_failed(self) -> str:
        """Wait, while :meth:`running`, until functions can no longer be run, and return the reason.

        For example, no thread can be started, or the asyncio loop has ended. The caller should then
        leave the block, and start another one or another process. A checkpoint.
        """
        return await self._service.wait_failed()

    def prepare(self) -> None:
        """Do the work of the first run and the first calls in advance, and end registration.

        Raises:
            ConfigurationError: see :meth:`running`.
        """
        check_annotations(self._service.functions)
        for function in self._service.functions:
            function.prepare()
        self._is_prepared = self._has_run = True

    def describe(self) -> list[dict[str, str]]:
        """Return the ``name``, ``kind``, ``signature`` and ``summary`` of each function.

        A function whose signature cannot be written is omitted, with a warning in the log.
        """
        return describe(self._service.functions)

    def run(self) -> None:
        """Serve the host named by the environment, then exit the process.

        Call this under ``if __name__ == "__main__"``. The variables are ``SERVICE_ADDR``, ``SECRET`` and
        ``SPEAR_INSTANCE``; the exit statuses are the same as for ``python -m spear.agent``.
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


def _expect_policy(function: RegisteredFunction, retry: object) -> None:
    from spear._retry_policy import RetryPolicy  # takes long to load, and few functions need it

    if not isinstance(retry, RetryPolicy):
        raise ConfigurationError(f"retry must be a spear.RetryPolicy, not {shown(retry)}")
    if function.kind == "stream":
        raise ConfigurationError(
            f"{function.name}() has a `yield`: streams are not tried again; remove retry"
        )


def _not_a_function(thing: object) -> str:
    if isinstance(thing, str):
        return f"{thing!r} is text: use @app.function(name={thing!r}), or @app.function alone"
    if isinstance(thing, type):
        return f"{thing.__name__} is a class: register a function that makes or uses an instance"
    return f"{thing!r} is not a function: register a `def` that calls or returns it"
