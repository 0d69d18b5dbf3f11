"""A channel: calls, streams and messages between a host and one instance.

The pipe reads and writes frames, and ``spear.wire.Connection`` knows the rules of the protocol. A channel
adds the tasks that wait, and counters. Its parts are in other modules: ``_deadlines`` and ``_heartbeat``
watch the time, ``_slots`` queues callers that wait for the peer, ``_streams`` queues items, ``_workers``
and ``_handlers`` run the peer's calls.

Invariants:

* Every waiting task is woken: by an answer, by a deadline, or by the end of the channel.
* A call's slot becomes free when its handler has ended, not when its caller has gone.
"""

# Size: the table of calls, the slots, the deadlines and the counters change together with each frame that
# starts or ends a call, and each call from one object to another costs 0.1 us of 10.

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from copy import copy
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, final

import trio
from trio.lowlevel import current_task, wait_task_rescheduled

from spear._errors import (
    CallCancelled,
    ChannelBroken,
    ChannelClosed,
    DeadlineExceeded,
    LocalProtocolError,
    RemoteProtocolError,
    SpearError,
)
from spear._limits import expect_seconds, expect_timeout
from spear._segments import Segment
from spear.wire import (
    CBOR,
    NO_DEADLINE,
    REPLY_STREAM,
    STREAM,
    Bundle,
    CallState,
    Connection,
    ConnectionState,
    Frame,
    FrameType,
    Head,
    HeadRefused,
    HeadValue,
    Kind,
    Payload,
    decode_failure_untrusted,
)

from ._calls import CallStream, InboundCall, OutboundCall, ReportedCall
from ._deadlines import Deadlines
from ._handlers import Handlers, NoService
from ._heartbeat import Heartbeat
from ._interrupts import protected_block, protected_class
from ._peer import NO_THREADED, Peer, ThreadedFunctions, announcements
from ._response import ExecutionResponse
from ._slots import SlotQueue
from ._statistics import ChannelStatistics, Counters
from ._streams import ItemOutlet, ItemQueue, ItemSender, wake_all
from ._workers import Workers
from .segments import MOST_AT_ONCE, PlacedPayload

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear._limits import WireLimits
    from spear._retry_policy import RetryPolicy

    from ._calls import Metadata
    from ._handlers import Service
    from ._pipes import Pipe
    from ._reports import OnProgress
    from ._timers import Timers

logger: Final = logging.getLogger("spear.channels")

_REQUEST: Final = int(FrameType.EXECUTION_REQUEST)
_RESPONSE: Final = int(FrameType.EXECUTION_RESPONSE)
_OPEN: Final = ConnectionState.OPEN
_CLOSED: Final = ConnectionState.CLOSED
_PEER_DRAINS: Final = (ConnectionState.PEER_DRAINING, ConnectionState.CLOSING, _CLOSED)

HELD_SECONDS: Final = 0.01
"""Seconds between attempts to send progress reports that the rate limit held back."""

CLOSE_SECONDS: Final = 1.0
"""Seconds that a closing channel has to write its CLOSE frame."""


@final
@protected_class
class CommunicationChannel:
    """A connection between a host and one instance, after both ends have authenticated.

    Opened by :class:`ConnectionManager` (host), :func:`connect_channel` (agent) and
    :func:`open_memory_channels`; do not construct one directly.

    Attributes:
        instance_id: the instance at the agent's end; the same at both ends.
        functions: the functions that the peer has announced: their numbers, by name.
        limits: the limits of this end.
        outlet: the gate through which items of all streams leave.
        on_announced: called once, when the peer has announced all of its functions.
        closed: set when the channel has ended; :attr:`closed_by` then is the reason.
    """

    __slots__ = (
        "_at_once_bytes", "_clock", "_counters", "_deadlines", "_handlers", "_heartbeat",
        "_holds_reports", "_is_announced", "_on_heartbeat_lost", "_opened", "_peer", "_pipe", "_queue",
        "_sender", "_slots", "_timers", "_workers", "closed", "closed_by", "connection", "functions",
        "instance_id", "limits", "on_announced", "outlet",
    )  # fmt: skip

    def __init__(
        self,
        pipe: Pipe,
        connection: Connection,
        instance_id: InstanceId,
        limits: WireLimits,
        timers: Timers,
        *,
        service: Service | None = None,
        debug: bool = False,
        on_heartbeat_lost: Callable[[], None] | None = None,
    ) -> None:
        self.connection = connection
        # Longer bytes may be placed in a segment, in several steps.
        self._at_once_bytes = min(MOST_AT_ONCE, connection.peer.max_message_bytes)
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
        self.instance_id = instance_id
        self.on_announced: Callable[[], None] | None = None
        self._opened = self._clock()
        self._timers = timers
        self._holds_reports = False
        pipe.segments.keep_time(timers)
        self._heartbeat = Heartbeat(connection, timers, limits, self._on_silence)
        self._on_heartbeat_lost = on_heartbeat_lost
        self._is_announced = False
        self._workers: Workers  # while run() serves the channel
        self._queue: ItemQueue | None = None
        self._sender: ItemSender | None = None
        service = service or NoService()
        self._handlers = Handlers(
            service,
            connection,
            self._counters,
            self._clock,
            lender=pipe.segments.lender,
            debug=debug,
        )
        connection.serve(partial(InboundCall, self), service.refuse, self._on_incomplete)

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "closed"
        return f"<CommunicationChannel {self.instance_id} {state}>"

    @property
    def is_connected(self) -> bool:
        """Whether calls can be made now."""
        return self._is_announced and self.connection.state is _OPEN

    @property
    def has_capacity(self) -> bool:
        """Whether a call that is made now starts at once."""
        connection = self.connection
        return (
            self._is_announced
            and connection.state is _OPEN
            and connection.outbound_open < connection.peer.max_calls
        )

    @property
    def is_unresponsive(self) -> bool:
        """Whether the channel has ended because the peer was silent for too long."""
        return self._heartbeat.is_lost

    @property
    def streams(self) -> frozenset[str]:
        """The names of the peer's functions that send items."""
        return self._peer.streams

    def threads_for(self, function: str) -> int | None:
        """Return the peer's number of threads, if a function runs in them, and further calls wait there.

        None if as many calls of the function run at a time as the peer takes.
        """
        threaded = self._peer.threaded
        return threaded.threads if function in threaded.names else None

    @property
    def retry_policies(self) -> Mapping[str, RetryPolicy]:
        """The retry policies of the peer's functions that have one, by name."""
        return self._peer.retry_policies

    @property
    def peer_draining(self) -> trio.Event:
        """An event, set when the peer takes no more calls or the channel has ended."""
        return self._peer.draining(has_begun=self.connection.state in _PEER_DRAINS)

    def set_busy_check(self, is_busy: Callable[[], bool]) -> None:
        """Treat a silent peer as alive while it is busy, up to ``busy_seconds`` (the host's side).

        Args:
            is_busy: returns whether the peer has been busy since the last call; must not block.
        """
        self._heartbeat.is_busy = is_busy

    # -- calls of this side -----------------------------------------------------------------

    @property
    def calls_in_flight(self) -> int:
        """Calls of this end whose final frame has not arrived."""
        return self.connection.outbound_open

    def given_up_calls(self) -> list[int]:
        """Return the ids of our calls that have no final frame yet, and whose callers have given up."""
        calls = self.connection.calls.items()
        return [id_ for id_, each in calls if isinstance(each, OutboundCall) and each.is_given_up]

    @property
    def max_calls(self) -> int:
        """The most calls that the peer takes at a time."""
        return self.connection.peer.max_calls

    def when_free(self, call: Callable[[], None] | None) -> None:
        """Register ``call``, which runs when the peer takes a further call and no caller is queued here.

        Args:
            call: the function, which must neither block nor raise; None removes it.
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
        """Call a function of the peer and wait for its result.

        If cancelled, the function is cancelled, too; its slot is free when it has ended. While the peer
        takes no further call, callers are queued. ``payload`` must not change before this returns.

        Args:
            function: the function's name.
            payload: the arguments' bytes.
            timeout: seconds for the call; the peer receives the seconds that remain. The default is
                the limit ``call_seconds``; pass ``math.inf`` to wait for ever.
            is_cbor: whether the payload is CBOR; otherwise it is raw bytes.
            metadata: a small map for the handler.
            key: an idempotency key, by which the handler can recognize a repeated call.
            on_progress: called in this task with (payload, is_cbor) for each report of progress that
                arrives. If it raises, the call is cancelled, and this method raises the same.

        Raises:
            DeadlineExceeded: the call did not end in time.
            InvalidArguments: ``timeout`` is not a number of seconds.
            FunctionRaised: the function ran and raised.
            CallFailed: the call failed for another reason, which the subclass names.
            LocalProtocolError: the payload or the metadata exceed the peer's limits.
            ChannelClosed: one side has closed the channel.
            ChannelBroken: the connection was lost; ``delivered`` says whether the function may have run.
        """
        if type(timeout) is not float or timeout != timeout:  # NaN
            timeout = self._seconds(timeout)
        now = self._clock()
        deadline = now + timeout
        head = None
        if metadata is not None or key is not None or function not in self.functions:
            head = self._head(function, metadata, key)
        connection = self.connection
        if isinstance(payload, Segment) or len(payload) > self._at_once_bytes:
            payload = await self._placed(payload, deadline)
            now = self._clock()
        try:
            if connection.outbound_open >= connection.peer.max_calls or self._slots.waiting:
                await self._slots.wait(deadline)
                now = self._clock()
            if on_progress is not None:
                reported = ReportedCall(self, current_task(), function, now, deadline, on_progress)
                self._start(
                    reported, function, now, deadline, payload, CBOR if is_cbor else 0, head
                )
                return await reported.follow()
            call = OutboundCall(self, current_task(), function, now, deadline)
            self._start(call, function, now, deadline, payload, CBOR if is_cbor else 0, head)
        except BaseException:
            if isinstance(payload, PlacedPayload):
                payload.close()
            raise
        response: ExecutionResponse = await wait_task_rescheduled(call.abort)
        return response

    def start_request(
        self, function: str, payload: Payload, now: float, deadline: float, *, is_cbor: bool
    ) -> OutboundCall | None:
        """Start a plain call without waiting; return None if :meth:`request` must be used instead.

        The current task must then await ``wait_task_rescheduled(call.abort)`` for the response.

        Args:
            function: the function's name.
            payload: the arguments' bytes.
            now: the current time, in Trio's time.
            deadline: when the call expires, in Trio's time.
            is_cbor: whether the payload is CBOR; otherwise it is raw bytes.

        Raises:
            SpearError: as :meth:`request`; the call was not started.
        """
        connection = self.connection
        if (
            type(payload) is not bytes
            or len(payload) > self._at_once_bytes
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
        on_progress: OnProgress | None = None,
    ) -> AsyncIterator[CallStream]:
        """Call a function that receives or sends a stream of items.

        Leaving the block before the stream's end cancels the function.

        Args:
            function: the function's name.
            payload: the arguments' bytes.
            timeout: seconds for the whole stream; default as for :meth:`request`.
            is_cbor: whether the payload is CBOR; otherwise it is raw bytes.
            metadata: a small map for the handler.
            sends_items: whether the caller will send items, too.
            on_progress: called with (payload, is_cbor) for a report of progress, in a task that waits for
                an item or for the result; if it raises, so does the stream's method. Of the reports that
                arrive while no task waits, it gets the newest.

        Raises:
            SpearError: as :meth:`request`, here or from the stream's methods.
        """
        deadline = self._clock() + self._seconds(timeout)
        flags = (CBOR if is_cbor else 0) | (STREAM if sends_items else 0) | REPLY_STREAM
        head = None
        if metadata is not None or function not in self.functions:
            head = self._head(function, metadata, None)
        if isinstance(payload, Segment) or len(payload) > self._at_once_bytes:
            payload = await self._placed(payload, deadline)
        try:
            await self._slots.wait(deadline)
            now = self._clock()
            stream = CallStream(self, function, now, deadline, on_progress)
            self._start(stream, function, now, deadline, payload, flags, head)
        except BaseException:
            if isinstance(payload, PlacedPayload):
                payload.close()
            raise
        try:
            yield stream
        finally:
            stream.close()

    def _seconds(self, timeout: float | None) -> float:
        """Return the seconds for a call: a valid timeout, or the default. Raises InvalidArguments."""
        if timeout is None:
            return self.limits.call_seconds
        expect_timeout(timeout)
        return timeout

    async def _placed(self, payload: Payload, deadline: float) -> Payload:
        """Return a payload in the form in which this connection sends it best; wait until it can be.

        Raises:
            Overloaded: the peer has not released enough of our memory by the deadline.
            LocalProtocolError: the payload is too large for the peer.
        """
        lender = self._pipe.segments.lender
        if isinstance(payload, Bundle):
            self.connection.expect_types()
        if lender is None:
            return payload.as_bytes() if isinstance(payload, Bundle) else payload
        with trio.CancelScope(deadline=deadline):
            if isinstance(payload, Segment):
                return await lender.place(payload)
            return await lender.place_bytes(payload)
        if lender.is_crowded:
            raise lender.crowded()
        return b""  # the deadline has passed, as _start() will find

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
                raise DeadlineExceeded(
                    f"the deadline passed before the call of {function} was sent", delivered="no"
                )
            # Rounded up, so that the peer does not time out first. Not by a whole millisecond: noise
            # of floating point must not make the time grow each time that the call is forwarded.
            remaining = (deadline - now) * 1000 + 0.999
            remaining_ms = int(remaining) if remaining < NO_DEADLINE else NO_DEADLINE
            connection.start_call(
                call, self.functions.get(function, 0), remaining_ms, flags, payload, head
            )
        except Exception as error:
            self._slots.free()  # pass the slot on to the next caller in the queue
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
        if self._peer.close_reason:
            return ChannelClosed(f"the peer accepts no new calls: {self._peer.close_reason}")
        return ChannelClosed("this channel is being closed, and accepts no new calls")

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
        """Cancel a call of ours. Its slot is free at once if it is unsent, else when its handler ends."""
        # A call that is DONE has had its final frame, which is yet to be processed.
        if call.state is not CallState.DONE and self.connection.cancel(call):
            self._counters.messages_sent -= 1
            self._slots.free()

    def fail_call(self, call: OutboundCall, failure: BaseException) -> None:
        """Wake the caller of a call of ours with a failure, and count the failure."""
        if call.on_failure(failure):
            self._counters.failed(type(failure).__name__)

    def wake_senders(self) -> None:
        """Wake the tasks that wait to send items: credit may have arrived, or a call may have ended."""
        wake_all(self.outlet.waiters)

    # -- one-way messages ---------------------------------------------------------------------

    async def send(self, payload: Payload) -> None:
        """Wait until the peer's window has room for a one-way message, then send the message.

        If cancelled, the message was not sent. A checkpoint.

        Raises:
            ChannelClosed, ChannelBroken: the message was not sent.
        """
        await trio.lowlevel.checkpoint()
        if self._sender is None:
            self._sender = ItemSender(self.outlet, self.connection.messages)
        if self.connection.state is not _OPEN:
            raise self._not_open()
        try:
            await self._sender.send(payload, 0)
        except LocalProtocolError:
            if self.closed_by is not None:
                raise self._not_open() from None
            raise

    async def receive(self) -> bytes:
        """Return the peer's next one-way message.

        If cancelled, no message is lost. A checkpoint.

        Raises:
            ChannelClosed, ChannelBroken: no further message will arrive.
        """
        await trio.lowlevel.checkpoint()
        return (await self._messages().receive())[0]

    def _messages(self) -> ItemQueue:
        if self._queue is None:
            self._queue = ItemQueue(self.connection, self.connection.messages)
            if self.closed_by is not None:
                self._queue.end(self.closed_by)
        return self._queue

    # -- the reader ---------------------------------------------------------------------------

    async def run(self, nursery: trio.Nursery) -> None:
        """Serve the connection until it ends, and wake every task that waits for the channel.

        If cancelled, the channel is closed without sending CLOSE to the peer.

        Args:
            nursery: where handlers run; it is cancelled at the end.
        """
        self._workers = Workers(nursery, self._handlers.run)
        try:
            await self._pipe.serve(self._on_frames)
        except ChannelBroken as broken:
            self._end(self._peer.as_closed(broken))
        except RemoteProtocolError as error:
            await self._say_goodbye(f"protocol error: {error}")
            self._end(self._broken_by(error))
        except Exception as bug:  # a bug of Spear costs this connection, not the host
            logger.exception("%s: the channel failed", self.instance_id)
            self._end(ChannelBroken(f"an internal error of the channel: {bug!r}"))
        finally:
            self._end(ChannelClosed("the channel was closed"))
            nursery.cancel_scope.cancel()
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def run_alone(self) -> None:
        """Serve the connection as :meth:`run` does, in a new nursery."""
        async with trio.open_nursery() as nursery:
            await self.run(nursery)

    @staticmethod
    def _broken_by(error: RemoteProtocolError) -> ChannelBroken:
        broken = ChannelBroken(f"the peer broke the protocol: {error}")
        broken.__cause__ = error
        return broken

    def _on_frames(self, frames: list[Frame]) -> None:
        """Act on frames in their order. Raises RemoteProtocolError at the first that breaks the protocol.

        After any exception, the remaining frames are not handled. Their calls stay open, and end with
        the channel.
        """
        self._heartbeat.heard = now = self._clock()
        counters, connection = self._counters, self.connection
        for call, type_, flags, a, b, head, payload in connection.receive(frames, now):
            counters.messages_received += 1
            # The types of calls are checked by isinstance(), which mypy understands.
            if type_ == _RESPONSE and isinstance(call, OutboundCall):
                call.on_response(payload, flags, a)  # type: ignore[arg-type]  # bytes, but for items
                counters.answered(now - call.started)
                if self._slots.waiting or self._slots.on_free is not None:
                    self._slots.free()
            elif type_ == _REQUEST and isinstance(call, InboundCall):
                call.begin(a, head, payload, flags, now)  # type: ignore[arg-type]  # bytes, too
                if b != NO_DEADLINE and call.deadline == inf:  # else its first fragment set it
                    call.deadline = now + b / 1000
                    if call.deadline < self._deadlines.next:
                        self._deadlines.arm(call.deadline)
                self._workers.start(call)
            else:
                self._on_event(call, type_, flags, a, b, head, payload)
        receiver = self._pipe.receiver
        error = connection.error or (None if receiver is None else receiver.error)
        if error is not None:
            raise error

    def _on_event(
        self,
        call: object,
        type_: int,
        flags: int,
        a: int,
        b: int,
        head: Head | None,
        payload: object,
    ) -> None:
        """Act on a frame that is neither a complete request nor a response."""
        if type_ == FrameType.STREAM_DATA:
            assert isinstance(payload, list)  # spear.wire guarantees it
            self._counters.messages_received += len(payload) - 1
            if isinstance(call, CallStream | InboundCall):
                call.on_items(payload, flags)
            else:
                self._messages().put(payload, flags)
            return
        if type_ == FrameType.ERROR and isinstance(call, OutboundCall):
            failure = decode_failure_untrusted(flags, a, b, head, self.limits.error_message_bytes)
            self.fail_call(call, failure)
            self._slots.free()
            return
        self._counters.messages_received -= 1  # the frames below are control frames
        if type_ == FrameType.CANCEL and isinstance(call, InboundCall):
            call.cancel(CallCancelled("cancelled by the caller", delivered="yes"))
        elif type_ == FrameType.CREDIT:
            self.wake_senders()
        elif type_ == FrameType.LEND:
            self._pipe.segments.on_lend(is_answer=bool(a))
        elif type_ == FrameType.SIGNAL and isinstance(call, OutboundCall):
            assert isinstance(payload, bytes)  # spear.wire guarantees it
            call.on_progress_report(payload, flags)
        elif type_ == FrameType.ANNOUNCE:
            if self._peer.on_announce(head):
                # Until now the host has sent nothing but frames of the handshake.
                self._is_announced = True
                if self._pipe.can_fall_silent:
                    self._heartbeat.watch()
                if self.on_announced is not None:
                    self.on_announced()
        elif type_ == FrameType.CLOSE:
            self._peer.on_close(head)
            logger.debug(
                "%s: the peer is shutting down: %s", self.instance_id, self._peer.close_reason
            )
            self._slots.free_all()

    def _on_incomplete(self, call: object, milliseconds: int) -> None:
        """Set a call's deadline from the first fragment of its request, not from the last one."""
        assert isinstance(call, InboundCall)  # this channel has made it
        if milliseconds != NO_DEADLINE:
            call.deadline = self._clock() + milliseconds / 1000
            if call.deadline < self._deadlines.next:
                self._deadlines.arm(call.deadline)

    def _on_silence(self, seconds: float) -> None:
        if self._on_heartbeat_lost is not None:
            self._on_heartbeat_lost()
        self._end(ChannelBroken(f"no heartbeat for {seconds:.3g} s"))

    # -- progress -----------------------------------------------------------------------------

    def report(self, call: InboundCall, payload: Payload, *, is_cbor: bool) -> None:
        """Send a progress report to the caller of ``call``, no more often than the caller allows."""
        now, flags = self._clock(), CBOR if is_cbor else 0
        if not self.connection.signal(call, payload, flags, now) and not self._holds_reports:
            self._holds_reports = True
            self._timers.call_at(now + HELD_SECONDS, self._report_again)

    def _report_again(self, now: float) -> None:
        self._holds_reports = not self.connection.send_signals(now)
        if self._holds_reports:
            self._timers.call_at(now + HELD_SECONDS, self._report_again)

    # -- announcing ---------------------------------------------------------------------------

    def announce(
        self,
        names: Sequence[str],
        streams: Collection[str] = (),
        *,
        threaded: ThreadedFunctions = NO_THREADED,
        retry_policies: Mapping[str, RetryPolicy] | None = None,
    ) -> None:
        """Announce our functions to the peer; they are numbered from 1 in this order.

        Args:
            names: the names of all functions.
            streams: the names of the functions that send items.
            threaded: the functions that run in threads, of which we have fewer than slots.
            retry_policies: the retry policies of functions that have one, by name.
        """
        for head in announcements(names, streams, threaded, retry_policies):
            self.connection.send_control(Kind.ANNOUNCE, head=head)
        self._is_announced = True
        if self._pipe.can_fall_silent:
            self._heartbeat.speak()

    # -- the end ------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """Accept and make no new calls, and wait up to ``seconds`` for running calls to end.

        If cancelled, the channel stays as it is: open for running calls, closed for new ones.

        Raises:
            ConfigurationError: ``seconds`` is not a number of seconds; nothing has changed.
        """
        expect_seconds("seconds", seconds)
        self._leave("drain")
        with trio.move_on_after(seconds):
            connection = self.connection
            while (
                connection.outbound_open or connection.inbound_open
            ) and not self.closed.is_set():
                await self._wait_for_change()
        await trio.lowlevel.checkpoint()

    async def _wait_for_change(self) -> None:
        # A channel drains at most once, so polling costs less than an event that every call would
        # have to set.
        await trio.sleep(0.01)

    def _leave(self, reason: str) -> None:
        connection = self.connection
        if connection.state in (ConnectionState.OPEN, ConnectionState.PEER_DRAINING):
            head: Head = {"reason": reason, "last": connection.last_peer_call}
            connection.send_control(Kind.CLOSE, head=head)

    async def aclose(self, reason: str = "closed") -> None:
        """Close the channel. Our calls fail with ChannelClosed; running handlers are cancelled.

        Takes up to a second to send CLOSE to the peer. If cancelled, the channel is closed all the
        same. A checkpoint.
        """
        try:
            # An agent that has just logged in expects no frame before it has announced its functions.
            if self._is_announced and self.connection.state is not _CLOSED:
                await self._say_goodbye(reason)
        finally:
            self._end(ChannelClosed(f"the channel was closed: {reason}"))
        await trio.lowlevel.checkpoint()

    def abort(self, reason: str) -> None:
        """End the channel without a word to the peer, as a crash does. Our calls fail: ChannelBroken."""
        self._end(ChannelBroken(f"the channel was aborted: {reason}"))

    async def _say_goodbye(self, reason: str) -> None:
        self._leave(reason)
        with trio.move_on_after(CLOSE_SECONDS):
            await self._pipe.drain()

    def _end(self, error: SpearError) -> None:
        """End the channel: fail our calls, stop handlers, wake waiting tasks, and close the pipe."""
        if self.closed.is_set():
            return
        self.closed_by = error
        connection = self.connection
        for call in list(connection.calls.values()):
            if isinstance(call, OutboundCall):
                unknown = self._peer.has_never_begun(call.id) or connection.is_unsent(call)
                failure = copy(error)
                failure.delivered = "no" if unknown else "maybe"
                failure.__cause__ = error.__cause__
                self.fail_call(call, failure)
            elif isinstance(call, InboundCall):
                call.cancel(CallCancelled("the channel has ended", delivered="yes"))
        connection.lose()
        self._pipe.close()
        self._deadlines.close()
        if self._queue is not None:
            self._queue.end(error)
        self.wake_senders()
        self._slots.free_all()
        self.closed.set()
        self._peer.on_gone()

    # -- numbers ------------------------------------------------------------------------------

    def statistics(self) -> ChannelStatistics:
        """Return the channel's counters up to now."""
        counters, connection, pipe = self._counters, self.connection, self._pipe
        receiver, segments = pipe.receiver, pipe.segments
        return ChannelStatistics(
            messages_sent=counters.messages_sent + connection.refused,
            messages_received=counters.messages_received + connection.refused,
            bytes_sent=pipe.bytes_sent,
            bytes_received=pipe.bytes_received,
            calls_in_flight=connection.outbound_open,
            handlers_running=connection.inbound_open,
            calls_refused=connection.refused,
            most_calls_in_flight=counters.most_calls,
            callers_waiting=len(self._slots.waiting),
            latency=counters.histogram(),
            failures=dict(counters.failures),
            unsent_bytes=pipe.unsent_bytes,
            buffered_bytes=0 if receiver is None else receiver.buffered_bytes,
            lent_bytes=segments.lent_bytes,
            borrowed_bytes=segments.borrowed_bytes,
            kept_bytes=segments.kept_bytes,
            heartbeats_missed=self._heartbeat.misses,
            unknown_frames=connection.unknown_frames,
            uptime_seconds=self._clock() - self._opened,
        )
