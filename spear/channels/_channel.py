"""A channel: calls, streams and messages between a host and one instance.

One task reads, and never waits for anybody: it wakes callers, hands calls to workers, fills the
queues of streams. Writing happens in the pipe. The rules are those of ``spear.wire.Connection``;
what is added here is time (deadlines, heartbeats), tasks (who waits for what) and numbers.

Invariants:

* Whoever waits is woken: by an answer, by a deadline, or by the end of the channel.
* A call's slot is free when its handler has ended, not when its caller has gone.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import ceil, inf
from typing import TYPE_CHECKING, Final, Protocol, final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from spear._errors import (
    CallCancelled,
    CallFailed,
    ChannelBroken,
    ChannelClosed,
    DeadlineExceeded,
    FunctionRaised,
    LocalProtocolError,
    NotFound,
    Rejected,
    SpearError,
)
from spear.wire import (
    CBOR,
    NO_DEADLINE,
    REPLY_STREAM,
    STREAM,
    CallState,
    Connection,
    ConnectionState,
    Frame,
    FrameType,
    Head,
    HeadValue,
    Kind,
    Payload,
    decode_failure_untrusted,
)

from ._calls import CallStream, ExecutionResponse, InboundCall, OutboundCall
from ._statistics import ChannelStatistics, Counters
from ._streams import ItemQueue, ItemSender, wake_all
from ._timers import Alarm
from ._workers import Workers

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear._limits import Limits

    from ._calls import Metadata, OnProgress
    from ._pipes import Pipe
    from ._timers import Timers

logger: Final = logging.getLogger("spear.channels")

_REQUEST: Final = int(FrameType.EXECUTION_REQUEST)
_RESPONSE: Final = int(FrameType.EXECUTION_RESPONSE)
_OPEN: Final = ConnectionState.OPEN
_CLOSED: Final = ConnectionState.CLOSED
_PEER_LEFT: Final = (ConnectionState.PEER_LEAVING, ConnectionState.CLOSING)

BEATS_PER_TICK: Final = 20
"""Heartbeats may be late by this part of their interval."""

MAX_MICROS: Final = 0xFFFF_FFFF
"""72 minutes: the longest execution time that a response can tell."""

FAREWELL_CHARACTERS: Final = 200
"""What is kept of the reason why a peer leaves."""

CLOSE_SECONDS: Final = 1.0
"""How long a channel that is being closed tries to say so to its peer."""


class Service(Protocol):
    """What this side offers to the other: the handlers behind its function numbers and names."""

    def refuse(self, function: int, head: Head | None) -> CallFailed | None:
        """Why a call is refused before its arguments are read, or None to take it."""

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        """The result's bytes, and whether they are CBOR. Raise CallFailed for a typed failure."""


_CLOSING: Final = CallCancelled("this side is closing", delivered="yes")


@final
class NoService:
    """Offers nothing."""

    def refuse(self, function: int, head: Head | None) -> CallFailed | None:
        """Everything is refused."""
        return NotFound("this side of the channel offers no functions")

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        """Never reached."""
        raise AssertionError("a refused call was handled")  # pragma: no cover


@final
class CommunicationChannel:
    """The connection to one instance, after both sides have proved who they are.

    Opened by :class:`ConnectionManager` (host), :func:`connect_channel` (agent) and
    :func:`open_memory_channel_pair`; never by hand.

    Attributes:
        instance_id: whose channel it is, on both sides.
        functions: the names the peer has announced, and their numbers.
        streams: those among them that send items.
        on_announced: called once, when it has.
        closed: set when the channel is gone; :attr:`closed_by` then says why.
    """

    __slots__ = (
        "_alarm", "_beat_sequence", "_clock", "_counters", "_debug", "_is_announced",
        "_last_beat", "_last_received", "_limits", "_misses", "_next_deadline",
        "_on_heartbeat_lost", "_opened", "_peer_farewell", "_peer_leaving", "_peer_took",
        "_pipe", "_queue", "_sender", "_service", "_slot_waiters", "_timers", "closed",
        "closed_by", "connection", "credit_waiters", "functions", "instance_id", "on_announced",
        "streams",
    )  # fmt: skip

    def __init__(
        self,
        pipe: Pipe,
        connection: Connection,
        instance_id: InstanceId,
        limits: Limits,
        timers: Timers,
        *,
        service: Service | None = None,
        debug: bool = False,
        on_heartbeat_lost: Callable[[], None] | None = None,
    ) -> None:
        self.instance_id = instance_id
        self.connection = connection
        self.functions: dict[str, int] = {}
        self.streams: frozenset[str] = frozenset()
        self.closed = trio.Event()
        self.closed_by: SpearError | None = None
        self.credit_waiters = pipe.waiters
        self._is_announced = False
        self._pipe = pipe
        self._limits = limits
        self._timers = timers
        self._service = service or NoService()
        self._debug = debug
        self.on_announced: Callable[[], None] | None = None
        self._on_heartbeat_lost = on_heartbeat_lost
        self._counters = Counters()
        self._clock = trio.lowlevel.current_clock().current_time
        self._opened = self._last_received = self._clock()
        self._next_deadline = inf  # when _expire will run
        self._peer_leaving: trio.Event | None = None
        self._peer_farewell = ""  # why it leaves, if it does
        self._peer_took: float = inf  # the newest of our calls that it has begun, as it says
        self._alarm: Alarm | None = None  # for _expire; made with the first deadline
        self._misses = 0
        self._last_beat = self._opened
        self._beat_sequence = 0
        self._slot_waiters: list[Task] = []
        self._queue: ItemQueue | None = None
        self._sender: ItemSender | None = None
        connection.serve(partial(InboundCall, self), self._service.refuse, self._on_incomplete)

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "closed"
        return f"<CommunicationChannel {self.instance_id} {state}>"

    @property
    def is_connected(self) -> bool:
        """Whether calls can be made now."""
        return self._is_announced and self.connection.state is _OPEN

    @property
    def peer_leaving(self) -> trio.Event:
        """Set when the peer takes no more calls, or the channel is gone."""
        if self._peer_leaving is None:
            self._peer_leaving = trio.Event()
            if self.closed.is_set() or self.connection.state in _PEER_LEFT:
                self._peer_leaving.set()
        return self._peer_leaving

    # -- calls --------------------------------------------------------------------------------

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
            key: makes repeating the call safe; see the handler's documentation.
            on_progress: called with (payload, is_cbor) for the newest progress report.

        Raises:
            DeadlineExceeded: the time was up.
            FunctionRaised: it ran and raised.
            CallFailed: another subclass says why it did not run.
            LocalProtocolError: payload or metadata are more than the peer takes.
            ChannelClosed: one side has closed the channel.
            ChannelBroken: the connection was lost; ``delivered`` says whether it may have run.
        """
        if timeout is None:
            timeout = self._limits.call_seconds
        now = self._clock()
        deadline = now + timeout
        head = None
        if metadata is not None or key is not None or function not in self.functions:
            head = self._head(function, metadata, key)
        connection = self.connection
        if connection.outbound_open >= connection.peer.max_calls or self._slot_waiters:
            await self._wait_for_slot(deadline)
            now = self._clock()
        call = OutboundCall(self, current_task(), function, now, deadline)
        call.on_progress = on_progress
        self._start(call, function, now, deadline, payload, CBOR if is_cbor else 0, head)
        response: ExecutionResponse = await wait_task_rescheduled(call.abort)
        return response

    @asynccontextmanager
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
        deadline = self._clock() + (self._limits.call_seconds if timeout is None else timeout)
        flags = (CBOR if is_cbor else 0) | (STREAM if sends_items else 0) | REPLY_STREAM
        head = None
        if metadata is not None or function not in self.functions:
            head = self._head(function, metadata, None)
        await self._wait_for_slot(deadline)
        now = self._clock()
        stream = CallStream(self, function, now, deadline)
        self._start(stream, function, now, deadline, payload, flags, head)
        try:
            yield stream
        finally:
            stream.close()

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
            self._slot_free()  # we do not need it: whoever waits behind us does
            if isinstance(error, ValueError):
                raise LocalProtocolError(str(error)) from error
            raise
        counters = self._counters
        counters.messages_sent += 1
        if connection.outbound_open > counters.most_calls:
            counters.most_calls = connection.outbound_open
        if deadline < self._next_deadline:
            self._arm(deadline)

    def _not_open(self) -> SpearError:
        if self.closed_by is not None:
            return type(self.closed_by)(str(self.closed_by), delivered="no")
        if self._peer_farewell:
            return ChannelClosed(f"the peer takes no new calls: {self._peer_farewell}")
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
        call.deadline = inf
        # One that is done has had its final frame, which is still to be looked at.
        if call.state is not CallState.DONE and self.connection.cancel(call):
            self._counters.messages_sent -= 1
            self._slot_free()

    # -- waiting for a slot -------------------------------------------------------------------

    async def _wait_for_slot(self, deadline: float) -> None:
        """Wait until the peer takes another call, in the order of arrival."""
        await trio.lowlevel.checkpoint()
        connection, waiters = self.connection, self._slot_waiters
        with trio.CancelScope(deadline=deadline) as scope:
            place = len(waiters)
            while connection.state is _OPEN and (
                connection.outbound_open >= connection.peer.max_calls or (place and waiters)
            ):
                task = current_task()
                waiters.insert(place, task)
                place = 0  # who was woken in vain keeps its place

                def abort(_: object, task: Task = task) -> Abort:
                    waiters.remove(task)
                    return Abort.SUCCEEDED

                await wait_task_rescheduled(abort)
        if scope.cancelled_caught:
            raise DeadlineExceeded("the peer took no further call in time", delivered="no")

    def _slot_free(self) -> None:
        if self._slot_waiters:
            reschedule(self._slot_waiters.pop(0))

    # -- one-way messages ---------------------------------------------------------------------

    async def send(self, payload: Payload) -> None:
        """Send a message that has no answer, as soon as the peer has room for it.

        If cancelled, it was not sent. A checkpoint.

        Raises:
            ChannelClosed, ChannelBroken: it was not sent.
        """
        await trio.lowlevel.checkpoint()
        if self._sender is None:
            self._sender = ItemSender(self, self.connection.messages)
        if self.connection.state is not _OPEN:
            raise self._not_open()
        try:
            await self._sender.send(payload, 0)
        except LocalProtocolError:
            if self.closed_by is not None:
                raise self._not_open() from None
            raise

    async def receive(self) -> bytes:
        """The peer's next one-way message.

        If cancelled, no message is lost. A checkpoint.

        Raises:
            ChannelClosed, ChannelBroken: there will be none.
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
        """Serve the connection until it ends; then everybody who waits has been told.

        If cancelled, the channel is closed without a word to the peer.

        Args:
            nursery: where handlers run; it is cancelled at the end.
        """
        pipe, connection = self._pipe, self.connection
        workers = Workers(nursery, self._handle)
        try:
            while not self.closed.is_set():
                # No local variable for the frames: an idle channel would keep the last of them alive.
                self._dispatch(await pipe.receive(), workers)
                error = connection.error or (pipe.receiver and pipe.receiver.error)
                if error:
                    await self._say_goodbye(f"protocol error: {error}")
                    raise ChannelBroken(f"the peer broke the protocol: {error}") from error
        except ChannelBroken as broken:
            self._end(self._as_farewell(broken))
        except Exception as bug:  # of ours: it costs this connection, not the host
            logger.exception("%s: the channel failed", self.instance_id)
            self._end(ChannelBroken(f"an error in the channel: {bug!r}"))
        finally:
            self._end(ChannelClosed("the channel was closed"))
            nursery.cancel_scope.cancel()
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def run_alone(self) -> None:
        """The same with a nursery of its own."""
        async with trio.open_nursery() as nursery:
            await self.run(nursery)

    def _dispatch(self, frames: list[Frame], workers: Workers) -> None:
        self._last_received = now = self._clock()
        counters = self._counters
        events = self.connection.receive(frames, now)
        counters.messages_received += len(events)
        for call, type_, flags, a, b, head, payload in events:
            # isinstance, because only it tells mypy, the reader and the interpreter the same.
            if type_ == _RESPONSE and isinstance(call, OutboundCall):
                counters.answered(now - call.started)
                call.on_response(payload, flags, a)  # type: ignore[arg-type]  # bytes, but for items
                if self._slot_waiters:
                    self._slot_free()
            elif type_ == _REQUEST and isinstance(call, InboundCall):
                call.begin(a, head, payload, flags, now)  # type: ignore[arg-type]  # as above
                if b != NO_DEADLINE and call.deadline == inf:  # or its first part brought it
                    call.deadline = now + b / 1000
                    if call.deadline < self._next_deadline:
                        self._arm(call.deadline)
                workers.start(call)
            else:
                self._on_event(call, type_, flags, a, b, head, payload)

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
        """Everything but requests and responses."""
        if type_ == FrameType.STREAM_DATA:
            assert isinstance(payload, list)  # wire says so
            self._counters.messages_received += len(payload) - 1
            if isinstance(call, CallStream | InboundCall):
                call.on_items(payload, flags)
            else:
                self._messages().put(payload, flags)
            return
        if type_ == FrameType.ERROR and isinstance(call, OutboundCall):
            failure = decode_failure_untrusted(flags, a, b, head)
            self.fail_call(call, failure)
            self._slot_free()
            return
        self._counters.messages_received -= 1  # what follows is about calls, or the connection
        if type_ == FrameType.CANCEL and isinstance(call, InboundCall):
            call.cancel(CallCancelled("cancelled by the caller", delivered="yes"))
        elif type_ == FrameType.CREDIT:
            self.wake_senders()
        elif type_ == FrameType.SIGNAL and isinstance(call, OutboundCall):
            assert isinstance(payload, bytes)  # wire says so
            call.on_progress_report(payload, flags)
        elif type_ == FrameType.ANNOUNCE:
            self._on_announce(head)
        elif type_ == FrameType.CLOSE:
            self._on_close(head)
            if self._peer_leaving is not None:
                self._peer_leaving.set()
            while self._slot_waiters:
                self._slot_free()

    def _on_incomplete(self, call: object, milliseconds: int) -> None:
        """The first part of a request is here: its time runs from now on, not from the last part."""
        assert isinstance(call, InboundCall)  # we have made it
        if milliseconds != NO_DEADLINE:
            call.deadline = self._clock() + milliseconds / 1000
            if call.deadline < self._next_deadline:
                self._arm(call.deadline)

    def _on_close(self, head: Head | None) -> None:
        head = head or {}
        reason, last = head.get("reason"), head.get("last")
        if type(last) is int:
            self._peer_took = last
        # It ends up in messages and logs: one line, no control characters.
        words = "".join(filter(str.isprintable, reason)) if isinstance(reason, str) else ""
        self._peer_farewell = words[:FAREWELL_CHARACTERS] or "closed"
        logger.debug("%s: the peer leaves: %s", self.instance_id, self._peer_farewell)

    def _as_farewell(self, broken: ChannelBroken) -> SpearError:
        """What the end of the connection means, if the peer had announced that it leaves."""
        if not self._peer_farewell:
            return broken
        closed = ChannelClosed(f"the peer has closed the channel: {self._peer_farewell}")
        closed.__cause__ = broken
        return closed

    def wake_senders(self) -> None:
        """There may be credit, or there never will be."""
        wake_all(self.credit_waiters)

    def fail_call(self, call: OutboundCall, failure: Exception) -> None:
        """Tell whoever waits for a call of ours that there will be no answer."""
        if call.on_failure(failure):
            self._counters.failed(type(failure).__name__)

    # -- handlers -----------------------------------------------------------------------------

    async def _handle(self, call: InboundCall) -> None:
        """Run one handler and send its final frame. Raises nothing but Cancelled."""
        try:
            if call.cancelled is not None:
                raise call.cancelled
            payload, is_cbor = await self._service.handle(call)
            if self.connection.state is not _CLOSED:
                micros = int((self._clock() - call.started) * 1e6)
                if micros > MAX_MICROS:
                    micros = MAX_MICROS
                try:
                    self.connection.respond(call, payload, CBOR if is_cbor else 0, micros)
                    self._counters.messages_sent += 1
                except LocalProtocolError as error:  # the result is too large
                    self._fail(call, Rejected(str(error), delivered="yes"))
        except CallFailed as failure:
            self._fail(call, failure)
        except trio.Cancelled:
            self._fail(call, call.cancelled or _CLOSING)
            raise
        except Exception as error:
            self._fail(call, self._raised(error))
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(trio.Cancelled)
            if cancelled is None or not (rest is None or isinstance(rest, ExceptionGroup)):
                raise  # KeyboardInterrupt and its like end the process
            reason = _CLOSING if rest is None else self._raised(rest)
            self._fail(call, call.cancelled or reason)
            raise cancelled from None
        finally:
            call.discard_items()

    def _fail(self, call: InboundCall, failure: CallFailed) -> None:
        if self.connection.state is not _CLOSED:
            self.connection.fail(call, failure)
            self._counters.messages_sent += 1

    def _raised(self, error: BaseException) -> FunctionRaised:
        """What the caller may know of an exception."""
        trace = None
        if self._debug:
            import traceback

            trace = "".join(traceback.format_exception(error))
        return FunctionRaised(
            str(error), type_name=type(error).__qualname__, remote_traceback=trace
        )

    # -- time ---------------------------------------------------------------------------------

    def _arm(self, deadline: float) -> None:
        """See that :meth:`_expire` runs at ``deadline``.

        No call has a timer of its own: one that is answered in time, as nearly all are, then costs
        one comparison. When the earliest deadline comes, the few calls that are open are looked at.
        """
        if self._alarm is None:
            self._alarm = Alarm(self._timers, self._expire)
        self._next_deadline = deadline
        self._alarm.set(deadline)

    def _expire(self, now: float) -> None:
        self._next_deadline = earliest = inf
        for call in list(self.connection.calls.values()):
            if not isinstance(call, OutboundCall | InboundCall):
                continue
            if call.deadline > now:
                earliest = min(earliest, call.deadline)
            elif isinstance(call, InboundCall):
                self._expire_inbound(call)
            else:
                self._expire_outbound(call)
        if earliest < inf:
            self._arm(earliest)

    def _expire_outbound(self, call: OutboundCall) -> None:
        unsent = self._pipe.sink.is_unsent(call.id, call.sequence)
        seconds = self._clock() - call.started
        failure = DeadlineExceeded(
            f"{call.function} took longer than {seconds:.3g} s",
            delivered="no" if unsent else "maybe",
        )
        self.fail_call(call, failure)
        self.cancel_call(call)

    def _expire_inbound(self, call: InboundCall) -> None:
        call.deadline = inf
        if call.id in self.connection.incomplete:
            failure = DeadlineExceeded("the call's time is up", delivered="no")
            self.connection.fail(call, failure)
        else:
            call.cancel(DeadlineExceeded("the call's time is up", delivered="yes"))

    def start_heartbeats(self) -> None:
        """Watch the peer from now on. Costs nothing while it talks anyway."""
        self._schedule_beat(self._clock() + self._limits.heartbeat_seconds)

    def _schedule_beat(self, when: float) -> None:
        # On a common grid, so that the beats of many channels share a pass of the scheduler: alone,
        # each costs 75 us, together 15.
        tick = self._limits.heartbeat_seconds / BEATS_PER_TICK
        self._timers.call_at(ceil(when / tick - 1e-6) * tick, self._beat)

    def _beat(self, now: float) -> None:
        if self.closed.is_set():
            return
        interval = self._limits.heartbeat_seconds
        silent = now - self._last_received
        # One more at most, however late this is: if we stood still ourselves (a blocked loop, a paused
        # machine), the peer has not been asked, and must not be declared dead for that.
        heard = self._last_received > self._last_beat
        self._misses = min(int(silent / interval + 1e-6), 1 if heard else self._misses + 1)
        self._last_beat = now
        if self._misses >= self._limits.heartbeat_misses:
            if self._on_heartbeat_lost is not None:
                self._on_heartbeat_lost()
            self._end(ChannelBroken(f"no sign of life for {silent:.3g} s"))
            return
        if self._misses:
            self._beat_sequence = (self._beat_sequence + 1) & 0xFFFF_FFFF
            self.connection.send_control(Kind.HEALTH_CHECK, a=self._beat_sequence)
        # Counted from the last sign of life, so that a peer that stops is found after exactly
        # `heartbeat_misses` intervals, whenever it stops.
        due = self._last_received + interval * (self._misses + 1)
        self._schedule_beat(due if due > now else now + interval)

    # -- announcing ---------------------------------------------------------------------------

    def announce(self, names: Sequence[str], streams: Collection[str] = ()) -> None:
        """Tell the peer which functions we offer; they are numbered from 1 in this order.

        Args:
            names: all of them.
            streams: those among them that send items.
        """
        for start in range(0, max(len(names), 1), 200):
            part: list[HeadValue] = list(names[start : start + 200])
            last = start + 200 >= len(names)
            head: Head = {
                "functions": part,
                "streams": [name for name in part if name in streams],
                "last": last,
            }
            self.connection.send_control(Kind.ANNOUNCE, head=head)
        self._is_announced = True

    def _on_announce(self, head: Head | None) -> None:
        head = head or {}
        names, streams = head.get("functions"), head.get("streams")
        for name in names if isinstance(names, list) else []:
            if isinstance(name, str) and name not in self.functions:
                self.functions[name] = len(self.functions) + 1
        if isinstance(streams, list):
            self.streams |= {name for name in streams if isinstance(name, str)}
        if head.get("last") and not self._is_announced:
            # Until now the host has sent nothing but its welcome.
            self._is_announced = True
            self.start_heartbeats()
            if self.on_announced is not None:
                self.on_announced()

    # -- the end ------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """Take and make no new calls, and wait until those that run have ended, at most so long.

        If cancelled, the channel stays as it is: open for what runs, closed for new calls.
        """
        self._leave("drain")
        with trio.move_on_after(seconds):
            connection = self.connection
            while (
                connection.outbound_open or connection.inbound_open
            ) and not self.closed.is_set():
                await self._wait_for_change()
        await trio.lowlevel.checkpoint()

    async def _wait_for_change(self) -> None:
        # A drain happens once in a channel's life: looking now and then costs less than an event
        # that every call would have to set.
        await trio.sleep(0.01)

    def _leave(self, reason: str) -> None:
        connection = self.connection
        if connection.state in (ConnectionState.OPEN, ConnectionState.PEER_LEAVING):
            head: Head = {"reason": reason, "last": connection.last_peer_call}
            connection.send_control(Kind.CLOSE, head=head)

    async def aclose(self, reason: str = "closed") -> None:
        """Close the channel. Calls that run end with ChannelClosed here, and are cancelled there.

        Tries for up to a second to tell the peer. If cancelled, it is closed all the same. A
        checkpoint.
        """
        try:
            if self.connection.state is not _CLOSED:
                await self._say_goodbye(reason)
        finally:
            self._end(ChannelClosed(f"the channel was closed: {reason}"))
        await trio.lowlevel.checkpoint()

    async def _say_goodbye(self, reason: str) -> None:
        self._leave(reason)
        with trio.move_on_after(CLOSE_SECONDS):
            await self._pipe.drain()

    def _end(self, error: SpearError) -> None:
        """Nothing comes or goes any more: tell everybody who waits."""
        if self.closed.is_set():
            return
        self.closed_by = error
        sink, connection = self._pipe.sink, self.connection
        for call in list(connection.calls.values()):
            if isinstance(call, OutboundCall):
                unknown = call.id > self._peer_took or sink.is_unsent(call.id, call.sequence)
                failure = type(error)(str(error), delivered="no" if unknown else "maybe")
                failure.__cause__ = error.__cause__
                self.fail_call(call, failure)
            elif isinstance(call, InboundCall):
                call.cancel(CallCancelled("the channel is gone", delivered="yes"))
        connection.lose()
        self._pipe.close()
        if self._alarm is not None:
            self._alarm.close()
        if self._queue is not None:
            self._queue.end(error)
        self.wake_senders()
        while self._slot_waiters:
            self._slot_free()
        self.closed.set()
        if self._peer_leaving is not None:
            self._peer_leaving.set()

    # -- numbers ------------------------------------------------------------------------------

    def statistics(self) -> ChannelStatistics:
        """What has happened on this channel so far."""
        counters, connection, pipe = self._counters, self.connection, self._pipe
        receiver = pipe.receiver
        return ChannelStatistics(
            messages_sent=counters.messages_sent + connection.refused,
            messages_received=counters.messages_received + connection.refused,
            bytes_sent=pipe.bytes_sent,
            bytes_received=pipe.bytes_received,
            calls_in_flight=connection.outbound_open,
            handlers_running=connection.inbound_open,
            calls_refused=connection.refused,
            most_calls_in_flight=counters.most_calls,
            callers_waiting=len(self._slot_waiters),
            latency=counters.histogram(),
            failures=dict(counters.failures),
            unsent_bytes=pipe.unsent_bytes,
            buffered_bytes=0 if receiver is None else receiver.buffered_bytes,
            heartbeats_missed=self._misses,
            unknown_frames=connection.unknown_frames,
            uptime_seconds=self._clock() - self._opened,
        )
