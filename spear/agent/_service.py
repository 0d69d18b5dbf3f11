"""What channels call when the host calls one of our functions.

An :class:`AgentService` belongs to one agent. While the agent runs, it owns what running needs: the
threads, the asyncio loop. It knows neither the connection nor who is at its other end.
"""

from __future__ import annotations

import logging
from threading import get_ident
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, final

import outcome
import trio

from spear._errors import CallFailed, ConfigurationError, NotFound, Rejected, SpearError
from spear._util import did_you_mean, leaves_of
from spear.channels import protected_block, run_to_its_end

from ._context import current
from ._describe import describing
from ._failures import about_call, as_seen_by_caller, in_one_line
from ._own_calls import OwnCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from spear.channels import InboundCall
    from spear.wire import Head, Payload

    from ._asyncio_bridge import AsyncioBridge
    from ._functions import RegisteredFunction
    from ._statistics import RegisteredFunctionStatistics

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger: Final = logging.getLogger("spear.agent")

_NOT_THE_FUNCTIONS: Final = (trio.Cancelled, KeyboardInterrupt)
"""Who raises these, alone or in a group, is Trio, or whoever presses Ctrl-C: see `has_own_process`."""


@final
class AgentService:
    """An agent's functions, as channels call them; an agent has it as :attr:`Agent.service`.

    Functions are found by number, counted from 1 in the order in which they are announced, or by
    name. A name leads to a registered function or to nothing: what a peer asks for is never imported.

    Attributes:
        functions: all that are announced, in this order.
        limiter: how many plain functions run at a time.
        call_seconds: for a call that a function makes, if nothing else says how long.
        has_own_process: signals have handlers here that raise nothing, so that a KeyboardInterrupt is a
            function's own.
        runs_inline: plain functions run in Trio's thread, without waiting, for runs that must repeat.
        own_calls: which functions wait for functions of their own process.
        clock, token, thread: of the Trio that serves. These exist while the agent runs, as do the
            limiter, the own calls and the seconds.
    """

    def __init__(self) -> None:
        self.functions: list[RegisteredFunction] = []
        self.has_own_process = False
        self.runs_inline = False
        self._by_name: dict[str, RegisteredFunction] = {}
        self.limiter: trio.CapacityLimiter
        self.own_calls: OwnCalls
        self.call_seconds: float
        self.clock: trio.abc.Clock
        self.token: trio.lowlevel.TrioToken
        self.thread: int
        self._users = 0
        self._debug = False
        self._bridge: AsyncioBridge | None = None
        self._is_unable = trio.Event()
        self._lost = ""  # what is missing, so that functions cannot be run any more
        description = describing(self.functions)
        self._by_name[description.name] = description

    def __repr__(self) -> str:
        return f"<AgentService {', '.join(each.name for each in self.functions)}>"

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def add_unannounced(self, function: RegisteredFunction) -> None:
        """Offer a function to those who know its name."""
        self._by_name[function.name] = function

    def add(self, function: RegisteredFunction) -> None:
        """Offer a function."""
        self.functions.append(function)
        self._by_name[function.name] = function

    @protected_block
    async def running(
        self, threads: int, slots: int, call_seconds: float, *, debug: bool
    ) -> AsyncIterator[None]:
        """Able to run functions, for as long as the block runs. Blocks may overlap.

        Args:
            threads: plain functions at a time.
            slots: calls at a time, of each channel.
            call_seconds: for a call that a function makes, if nothing else says how long.
            debug: show tracebacks, in all blocks that overlap this one.

        Raises:
            ConfigurationError: it runs already, in another ``trio.run()``.
        """
        token = trio.lowlevel.current_trio_token()
        if self._users == 0:
            self.limiter = trio.CapacityLimiter(threads)
            self.own_calls = OwnCalls(self._by_name.get, threads)
            self.call_seconds = call_seconds
            self.clock, self.token = trio.lowlevel.current_clock(), token
            self.thread = get_ident()
            self._debug = False
            self._is_unable, self._lost = trio.Event(), ""
        elif self.token is not token:
            raise ConfigurationError("this agent runs already, in another thread")
        elif self._lost:
            raise SpearError(f"this agent is ending: {self._lost}")
        self._debug |= debug
        self._users += 1
        self.own_calls.slots += slots
        try:
            yield
        finally:
            self._users -= 1
            self.own_calls.slots -= slots
            if self._users == 0 and self._bridge is not None:
                bridge, self._bridge = self._bridge, None
                await run_to_its_end(bridge.aclose)

    # -- what channels call ---------------------------------------------------------------------------

    def refuse(self, function: int, head: Head | None) -> CallFailed | None:
        """NotFound for a function that we do not have, before the arguments are read."""
        if 0 < function <= len(self.functions):
            return None
        name = (head or {}).get("function")
        if function or not isinstance(name, str):
            return NotFound(f"no function has the number {function} here")
        if name in self._by_name:
            return None
        return NotFound(
            f"there is no function {name[:100]!r} here{did_you_mean(name, self._by_name)}"
        )

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        """Run the function that was called."""
        if call.function:
            function = self.functions[call.function - 1]
        else:
            assert call.head is not None  # refuse() has seen the name in it
            function = self._by_name[str(call.head["function"])]
        function.calls += 1
        current.set((call, function.name, call.deadline, self, None))
        try:
            return await function.run(call, self)
        except BaseException as error:
            if call.cancelled is not None and (late := self._late(error)):
                function.late += 1
                logging.getLogger(f"spear.function.{function.name}").warning(
                    "nobody waits for it any more (%s), and it raised %s",
                    call.cancelled, late, extra={"call": call.id},
                )  # fmt: skip
            # SystemExit, too: one call is no reason to end a process that serves a hundred.
            if self._is_not_the_functions(error):
                raise
            function.failed += 1
            # Whatever a function raises when it is made to stop, it was made to stop.
            seen = call.cancelled or as_seen_by_caller(error, debug=self._debug)
            if seen is error:
                raise
            raise seen from error

    def _is_not_the_functions(self, error: BaseException) -> bool:
        kinds = trio.Cancelled if self.has_own_process else _NOT_THE_FUNCTIONS
        return any(issubclass(type(each), kinds) for each in leaves_of(error))

    def _late(self, error: BaseException) -> str:
        """Return in one line what the function itself raised after its caller had gone."""
        own = (each for each in leaves_of(error) if not self._is_not_the_functions(each))
        return in_one_line(own)

    # -- what functions need --------------------------------------------------------------------------

    def asyncio_bridge(self) -> AsyncioBridge:
        """The loop of the asyncio functions; starts with the first use."""
        if self._bridge is None:
            from ._asyncio_bridge import AsyncioBridge

            self._bridge = AsyncioBridge(self.token, self._lose)
        return self._bridge

    async def in_thread(
        self, call: InboundCall, function: Callable[[*Ts], T], *arguments: *Ts
    ) -> T:
        """Run part of a call in a thread, and wait for it, also when cancelled.

        Raises:
            Rejected: no thread could be started; the call may be made elsewhere.
            And whatever ``function`` raises.
        """

        def run() -> outcome.Outcome[T]:
            # An exception may raise another one when Trio looks at it, and would never arrive.
            try:
                return outcome.Value(function(*arguments))
            except BaseException as error:
                return outcome.Error(error)

        if self.runs_inline:
            await trio.lowlevel.checkpoint()
            return run().unwrap()
        try:
            result = await trio.to_thread.run_sync(run, limiter=self.limiter)
        except Exception as error:
            raise await self.unable(call, f"no thread can be started: {error}") from error
        return result.unwrap()

    # -- when that is gone ----------------------------------------------------------------------------

    async def unable(self, call: InboundCall, lost: str) -> Rejected:
        """Return the refusal of a call that was not begun, because functions cannot be run any more.

        Its channel takes no further calls from now on, and the host, which learns of that first, makes
        this call elsewhere. What still runs may finish; then the agent ends.

        Args:
            call: the call.
            lost: what is missing.
        """
        self._lose(lost)
        await call.channel.drain(0)
        return about_call(Rejected(f"this agent is ending: {lost}", code="draining"))

    def _lose(self, lost: str) -> None:
        if not self._lost:
            logger.error("no further function can be run, so this agent is ending: %s", lost)
            self._lost = lost
            self._is_unable.set()

    async def wait_unable(self) -> str:
        """Wait until functions cannot be run any more; returns what is missing. A checkpoint.

        The caller, which serves the agent, then ends the agent.
        """
        await self._is_unable.wait()
        return self._lost

    def statistics(self) -> tuple[RegisteredFunctionStatistics, ...]:
        """What each function has done so far."""
        from ._statistics import RegisteredFunctionStatistics

        return tuple(
            RegisteredFunctionStatistics(
                name=each.name, kind=each.kind, calls=each.calls, failed=each.failed, late=each.late
            )
            for each in self.functions
        )
