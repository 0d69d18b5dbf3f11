"""The service of an agent, which channels use to run a function that the host calls.

An :class:`AgentService` belongs to one agent. While the agent runs, the service owns its threads and its
asyncio loop. The service knows neither the connection nor the peer.
"""

from __future__ import annotations

import logging
from threading import get_ident
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, final

import trio

from spear._errors import CallFailed, ConfigurationError, NotFound, Rejected, SpearError
from spear._util import did_you_mean, leaves_of
from spear.channels import ThreadedFunctions, protected_block, run_to_its_end

from ._batches import BatchFunction
from ._context import current
from ._describe import describing
from ._failures import about_call, as_seen_by_caller, in_one_line, note_not_begun
from ._own_calls import OwnCalls
from ._threads import function_threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from spear.channels import InboundCall
    from spear.wire import Head, Payload

    from ._asyncio_bridge import AsyncioBridge
    from ._functions import RegisteredFunction
    from ._statistics import RegisteredFunctionStatistics
    from ._threads import Threads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger: Final = logging.getLogger("spear.agent")

_NOT_THE_FUNCTIONS: Final = (trio.Cancelled, KeyboardInterrupt)
"""Exceptions of Trio or of Ctrl-C, alone or in a group, not of a function: see `has_own_process`."""


@final
class AgentService:
    """A service that runs an agent's functions for channels; see :attr:`Agent.service`.

    Functions are found by name, or by number, counted from 1 in the order of their announcement. Only
    registered functions are found: a name from a peer is never imported.

    Attributes:
        functions: all announced functions, in the order of their announcement.
        threads: the threads in which plain functions run.
        most_threads: the most of them.
        call_seconds: the default timeout of calls that functions make.
        has_own_process: whether this process's signal handlers raise nothing, so that a KeyboardInterrupt
            comes from the function itself.
        runs_inline: whether plain functions run in Trio's thread, for reproducible runs.
        own_calls: a record of functions that wait for other functions of this process.
        clock, token, thread: the clock, token and thread of the Trio loop that serves. They exist while
            the agent runs, as do ``threads``, ``most_threads``, ``own_calls`` and ``call_seconds``.
    """

    def __init__(self) -> None:
        self.functions: list[RegisteredFunction] = []
        self.has_own_process = False
        self.runs_inline = False
        self._by_name: dict[str, RegisteredFunction] = {}
        self.threads: Threads
        self.most_threads: int
        self.own_calls: OwnCalls
        self.call_seconds: float
        self.clock: trio.abc.Clock
        self.token: trio.lowlevel.TrioToken
        self.thread: int
        self._users = 0
        self._debug = False
        self._bridge: AsyncioBridge | None = None
        self._is_unable = trio.Event()
        self._lost = ""  # the reason why functions can no longer be run
        for each in describing(self.functions), BatchFunction(self._by_name):
            self._by_name[each.name] = each

    def __repr__(self) -> str:
        return f"<AgentService {', '.join(each.name for each in self.functions)}>"

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def add_unannounced(self, function: RegisteredFunction) -> None:
        """Add a function that can be called by name, but is not announced."""
        self._by_name[function.name] = function

    def add(self, function: RegisteredFunction) -> None:
        """Add a function that is announced to the host."""
        self.functions.append(function)
        self._by_name[function.name] = function

    @protected_block
    async def running(
        self, threads: int, slots: int, call_seconds: float, *, debug: bool
    ) -> AsyncIterator[None]:
        """Allow functions to be run while the block runs. Blocks may overlap.

        Args:
            threads: most plain functions that run at a time.
            slots: most calls at a time on each channel.
            call_seconds: the default timeout of calls that functions make.
            debug: whether errors carry tracebacks, in all blocks that overlap this one.

        Raises:
            ConfigurationError: the service already runs in another ``trio.run()``.
        """
        token = trio.lowlevel.current_trio_token()
        if self._users == 0:
            self.threads = function_threads(threads)
            self.most_threads = threads
            self.own_calls = OwnCalls(self._by_name.get, threads)
            self.call_seconds = call_seconds
            self.clock, self.token = trio.lowlevel.current_clock(), token
            self.thread = get_ident()
            self._debug = False
            self._is_unable, self._lost = trio.Event(), ""
        elif self.token is not token:
            raise ConfigurationError("the agent already runs in another thread")
        elif self._lost:
            raise SpearError(f"the agent is shutting down: {self._lost}")
        for each in self.functions:
            if each.wanted_slots > slots:
                logger.warning(
                    "%s(): no batch can have max_size=%d calls, because the agent accepts %d calls at "
                    "a time: set Agent(concurrency=%d) or more",
                    each.name, each.wanted_slots, slots, each.wanted_slots,
                )  # fmt: skip
        self._debug |= debug
        self._users += 1
        self.own_calls.slots += slots
        try:
            yield
        finally:
            self._users -= 1
            self.own_calls.slots -= slots
            if self._users == 0:
                self.threads.close()
                if self._bridge is not None:
                    bridge, self._bridge = self._bridge, None
                    await run_to_its_end(bridge.aclose)

    def threaded_functions(self, slots: int) -> ThreadedFunctions:
        """Return the functions that run in threads, if there are fewer threads than ``slots``."""
        if self.runs_inline or self.most_threads >= slots:
            return ThreadedFunctions()
        names = frozenset(each.name for each in self.functions if each.needs_thread)
        return ThreadedFunctions(names, self.most_threads)

    # -- called by channels ---------------------------------------------------------------------------

    def refuse(self, function: int, head: Head | None) -> CallFailed | None:
        """Return NotFound for an unknown function, before the arguments are read; otherwise None."""
        if 0 < function <= len(self.functions):
            return None
        name = (head or {}).get("function")
        if function or not isinstance(name, str):
            return NotFound(f"the agent has no function with the number {function}")
        if name in self._by_name:
            return None
        return NotFound(
            f"the agent has no function {name[:100]!r}{did_you_mean(name, self._by_name)}"
        )

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        """Run the called function, and return (payload, whether it is CBOR) of its result."""
        if call.function:
            function = self.functions[call.function - 1]
        else:
            assert call.head is not None  # checked by refuse()
            function = self._by_name[str(call.head["function"])]
        function.calls += 1
        current.set((call, function.name, call.deadline, self, None))
        try:
            return await function.run(call, self)
        except BaseException as error:
            if call.cancelled is not None and (late := self._late(error)):
                function.late += 1
                logging.getLogger(f"spear.function.{function.name}").warning(
                    "after the end of the call (%s), the function raised %s",
                    call.cancelled, late, extra={"call": call.id},
                )  # fmt: skip
            # SystemExit is reported, too: one call must not end a process that serves many others.
            if self._is_not_the_functions(error):
                raise
            function.failed += 1
            # A cancelled call is reported as cancelled, whatever its function raised.
            seen = call.cancelled or as_seen_by_caller(error, debug=self._debug)
            if seen is error:
                raise
            raise seen from error

    def failure_of(self, error: BaseException) -> CallFailed:
        """Return the failure of one call of a batch, for its caller. Raises errors of Trio and Ctrl-C."""
        if self._is_not_the_functions(error):
            raise error
        return as_seen_by_caller(error, debug=self._debug)

    def _is_not_the_functions(self, error: BaseException) -> bool:
        kinds = trio.Cancelled if self.has_own_process else _NOT_THE_FUNCTIONS
        return any(issubclass(type(each), kinds) for each in leaves_of(error))

    def _late(self, error: BaseException) -> str:
        """Return in one line the exceptions that the function itself raised after a cancellation."""
        own = (each for each in leaves_of(error) if not self._is_not_the_functions(each))
        return in_one_line(own)

    # -- called by functions --------------------------------------------------------------------------

    def asyncio_bridge(self) -> AsyncioBridge:
        """Return the bridge to the asyncio loop; the first call starts the loop."""
        if self._bridge is None:
            from ._asyncio_bridge import AsyncioBridge

            self._bridge = AsyncioBridge(self.token, self._lose)
        return self._bridge

    async def in_thread(
        self,
        call: InboundCall,
        function: Callable[[*Ts], T],
        *arguments: *Ts,
        is_first: bool = False,
    ) -> T:
        """Run part of a call in a thread, and wait until it has ended, even if cancelled.

        Args:
            call: the call.
            function: runs the part.
            arguments: its arguments.
            is_first: whether the part is the first one, so that without it the call has not begun.

        Raises:
            Rejected: no thread could be started; the host may retry the call on another instance.
            BaseException: ``function`` raised it.
        """
        if self.runs_inline:
            await trio.lowlevel.checkpoint()
            return function(*arguments)
        try:
            result = await self.threads.run(function, *arguments)
        except trio.Cancelled:
            if is_first:
                note_not_begun(call)
            raise
        except Exception as error:
            raise await self.unable(call, f"cannot start a thread: {error}") from error
        try:
            return result.unwrap()
        finally:
            del result  # its exception refers to this frame

    # -- end of service -------------------------------------------------------------------------------

    async def unable(self, call: InboundCall, lost: str) -> Rejected:
        """Return the refusal of a call that was not begun, because functions can no longer be run.

        The call's channel first announces to the host that it accepts no further calls. The host then
        makes this call elsewhere. Running calls may finish; then the agent ends.

        Args:
            call: the refused call.
            lost: the reason why functions can no longer be run.
        """
        self._lose(lost)
        await call.channel.drain(0)
        return about_call(Rejected(f"the agent is shutting down: {lost}", code="draining"))

    def _lose(self, lost: str) -> None:
        if not self._lost:
            logger.error("the agent can no longer run functions, and shuts down: %s", lost)
            self._lost = lost
            self._is_unable.set()

    async def wait_failed(self) -> str:
        """Wait until functions can no longer be run, and return the reason. A checkpoint.

        The caller, which serves the agent, then ends the agent.
        """
        await self._is_unable.wait()
        return self._lost

    def statistics(self) -> tuple[RegisteredFunctionStatistics, ...]:
        """Return the counters of each announced function."""
        from ._statistics import RegisteredFunctionStatistics

        return tuple(
            RegisteredFunctionStatistics(
                name=each.name, kind=each.kind, calls=each.calls, failed=each.failed, late=each.late
            )
            for each in self.functions
        )
