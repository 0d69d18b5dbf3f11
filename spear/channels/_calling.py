"""The calling half of a channel: calls of this side, from their start to their outcome."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import current_task, wait_task_rescheduled

from spear._errors import ChannelClosed, DeadlineExceeded, LocalProtocolError, SpearError
from spear._limits import expect_timeout
from spear._segments import Segment
from spear.wire import (
    CBOR,
    NO_DEADLINE,
    REPLY_STREAM,
    STREAM,
    CallState,
    Connection,
    ConnectionState,
    Head,
    HeadRefused,
    HeadValue,
    Payload,
)

from ._calls import CallStream, OutboundCall, ReportedCall
from ._deadlines import Deadlines
from ._interrupts import protected_block, protected_class
from ._peer import Peer
from ._response import ExecutionResponse
from ._slots import SlotQueue
from ._statistics import Counters
from ._streams import ItemOutlet, wake_all

if TYPE_CHECKING:
    from spear._limits import WireLimits

    from ._calls import Metadata, OnProgress
    from ._pipes import Pipe
    from ._timers import Timers

_OPEN: Final = ConnectionState.OPEN


@protected_class
class CallingHalf:
    """What one end of a channel asks of the other: :class:`CommunicationChannel` adds the rest.

    Attributes:
        functions: the names the peer has announced, and their numbers.
        limits: those of this side.
        outlet: where items of streams leave.
        closed: set when the channel is gone; :attr:`closed_by` then says why.
    """

    __slots__ = (
        "_clock", "_counters", "_deadlines", "_peer", "_pipe", "_slots", "closed", "closed_by",
        "connection", "functions", "limits", "outlet",
    )  # fmt: skip

    def __init__(
        self, pipe: Pipe, connection: Connection, limits: WireLimits, timers: Timers
    ) -> None:
        self.connection = connection
        self._pipe = pipe
        self.limits = limits
        self._clock = trio.lowlevel.current_clock().current_time
        self._counters = Counters()
        self.outlet = ItemOutlet(connection, pipe, limits, self._counters)
        self._slots = SlotQueue(connection)
        self._deadlines = Deadlines(connection, timers)
        self._peer = Peer(limits.max_functions)
        self.functions = self._peer.functions
        self.closed = trio.Event()
        self.closed_by: SpearError | None = None

    @property
    def calls_in_flight(self) -> int:
        """Calls of this side that have not had their final frame."""
        return self.connection.outbound_open

    @property
    def max_calls(self) -> int:
        """Calls that the peer takes at a time."""
        return self.connection.peer.max_calls

    def when_free(self, call: Callable[[], None] | None) -> None:
        """Have a function called whenever the peer takes a further call that nobody here waits for.

        Args:
            call: must neither block nor raise; None for no more.
        """
        self._slots.on_free = call

    async def request(
        self,
        function: str,
        payload: Payload = b"",
        *,
        timeout: float | None = None,
        is_cbor: bool = False,
        metadata: Metadata | None = None,
        key: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> ExecutionResponse:
        """Call a function of the other side and wait for what it returns.

        If cancelled, so is the function; its slot is free again when it has ended. While the peer
        takes no further call, this waits for its turn. ``payload`` must not change until it returns.

        Args:
            function: its name.
            payload: the arguments' bytes.
            timeout: seconds; the remaining time travels with the call. Default is the limit
                ``call_seconds``; ``math.inf`` must be asked for.
            is_cbor: whether the payload is CBOR or raw.
            metadata: a small map for the handler.
            key: names this call for its handler, which may use it to do a repeated call only once.
            on_progress: called in this task with (payload, is_cbor) of each report of progress that
                arrives. If it raises, the call is cancelled, and this raises the same.

        Raises:
            DeadlineExceeded: the time was up.
            InvalidArguments: ``timeout`` is no number of seconds.
            FunctionRaised: it ran and raised.
            CallFailed: another subclass says why it did not run.
            LocalProtocolError: payload or metadata are more than the peer takes.
            ChannelClosed: one side has closed the channel.
            ChannelBroken: the connection was lost; ``delivered`` says whether it may have run.
        """
        if type(timeout) is not float or timeout != timeout:  # NaN
            timeout = self._seconds(timeout)
        now = self._clock()
        deadline = now + timeout
        head = None
        if metadata is not None or key is not None or function not in self.functions:
            head = self._head(function, metadata, key)
        if isinstance(payload, Segment):
            now = await self._get_ready(payload, deadline)
        connection = self.connection
        if connection.outbound_open >= connection.peer.max_calls or self._slots.waiting:
            await self._slots.wait(deadline)
            now = self._clock()
        if on_progress is not None:
            reported = ReportedCall(self, current_task(), function, now, deadline, on_progress)
            self._start(reported, function, now, deadline, payload, CBOR if is_cbor else 0, head)
            return await reported.follow()
        call = OutboundCall(self, current_task(), function, now, deadline)
        self._start(call, function, now, deadline, payload, CBOR if is_cbor else 0, head)
        response: ExecutionResponse = await wait_task_rescheduled(call.abort)
        return response

    def start_request(
        self, function: str, payload: Payload, now: float, deadline: float, *, is_cbor: bool
    ) -> OutboundCall | None:
        """Start a plain call, for which the current task then parks; None: use :meth:`request`.

        The task has to go on with ``wait_task_rescheduled(call.abort)``, which returns the response.

        Args:
            function: its name.
            payload: the arguments' bytes.
            now: Trio's time.
            deadline: when the call's time is up.
            is_cbor: whether the payload is CBOR or raw.

        Raises:
            As :meth:`request`, before the call has started.
        """
        connection = self.connection
        if (
            type(payload) is not bytes
            or function not in self.functions
            or connection.outbound_open >= connection.peer.max_calls
            or self._slots.waiting
        ):
            return None
        call = OutboundCall(self, current_task(), function, now, deadline)
        self._start(call, function, now, deadline, payload, CBOR if is_cbor else 0, None)
        return call

    @protected_block
    async def open_stream(
        self,
        function: str,
        payload: Payload = b"",
        *,
        timeout: float | None = None,
        is_cbor: bool = False,
        metadata: Metadata | None = None,
        sends_items: bool = False,
    ) -> AsyncIterator[CallStream]:
        """Call a function that takes or gives a stream of items.

        Leaving the block before the stream's end cancels the function.

        Args:
            function: its name.
            payload: the arguments' bytes.
            timeout: seconds for the whole stream; default as for :meth:`request`.
            is_cbor: whether the payload is CBOR or raw.
            metadata: a small map for the handler.
            sends_items: whether items will be sent, too.

        Raises:
            As :meth:`request`, here or from the stream's methods.
        """
        deadline = self._clock() + self._seconds(timeout)
        flags = (CBOR if is_cbor else 0) | (STREAM if sends_items else 0) | REPLY_STREAM
        head = None
        if metadata is not None or function not in self.functions:
            head = self._head(function, metadata, None)
        if isinstance(payload, Segment):
            await self._get_ready(payload, deadline)
        await self._slots.wait(deadline)
        now = self._clock()
        stream = CallStream(self, function, now, deadline)
        self._start(stream, function, now, deadline, payload, flags, head)
        try:
            yield stream
        finally:
            stream.close()

    def _seconds(self, timeout: float | None) -> float:
        """The time for a call. Raises InvalidArguments."""
        if timeout is None:
            return self.limits.call_seconds
        expect_timeout(timeout)
        return timeout

    async def _get_ready(self, payload: Segment, deadline: float) -> float:
        """Wait until a segment can be handed over, if ever it can; returns the time."""
        lender = self._pipe.segments.lender
        if lender is not None and len(payload) >= lender.least_bytes:
            with trio.CancelScope(deadline=deadline):
                await lender.get_ready()
        return self._clock()

    def _start(
        self,
        call: OutboundCall,
        function: str,
        now: float,
        deadline: float,
        payload: Payload,
        flags: int,
        head: Head | None,
    ) -> None:
        connection = self.connection
        try:
            if connection.state is not _OPEN:
                raise self._not_open()
            if deadline <= now:
                raise DeadlineExceeded(f"no time left to call {function}", delivered="no")
            # Rounded up, but not for the noise of floating point: the other side must not lose
            # patience first, nor may the time left grow while it is handed on and on.
            remaining = (deadline - now) * 1000 + 0.999
            remaining_ms = int(remaining) if remaining < NO_DEADLINE else NO_DEADLINE
            connection.start_call(
                call, self.functions.get(function, 0), remaining_ms, flags, payload, head
            )
        except Exception as error:
            self._slots.free()  # we do not need it: whoever waits behind us does
            if isinstance(error, ValueError):
                code = error.code if isinstance(error, HeadRefused) else None
                raise LocalProtocolError(str(error), code=code) from error
            raise
        counters = self._counters
        counters.messages_sent += 1
        if connection.outbound_open > counters.most_calls:
            counters.most_calls = connection.outbound_open
        if deadline < self._deadlines.next:
            self._deadlines.arm(deadline)

    def _not_open(self) -> SpearError:
        if self.closed_by is not None:
            return type(self.closed_by)(str(self.closed_by), delivered="no")
        if self._peer.farewell:
            return ChannelClosed(f"the peer takes no new calls: {self._peer.farewell}")
        return ChannelClosed("this channel is being closed and takes no new calls")

    def _head(self, function: str, metadata: Metadata | None, key: str | None) -> Head:
        head: dict[str, HeadValue] = {}
        if function not in self.functions:
            head["function"] = function
        if metadata is not None:
            head["meta"] = dict(metadata)
        if key is not None:
            head["key"] = key
        return head

    def cancel_call(self, call: OutboundCall) -> None:
        """Give up a call of ours; its slot is free when its handler has ended."""
        # One that is done has had its final frame, which is still to be looked at.
        if call.state is not CallState.DONE and self.connection.cancel(call):
            self._counters.messages_sent -= 1
            self._slots.free()

    def fail_call(self, call: OutboundCall, failure: BaseException) -> None:
        """Tell whoever waits for a call of ours that there will be no answer."""
        if call.on_failure(failure):
            self._counters.failed(type(failure).__name__)

    def wake_senders(self) -> None:
        """There may be credit, or there never will be."""
        wake_all(self.outlet.waiters)
