"""The protocol at one end of a connection: calls and frames in both directions, without I/O.

This module is the whole protocol above the framing: the order of frames, the number of open calls, the
credit left, and how often a peer may cause work. It uses no socket, clock or task: the time is passed in
as a number, and frames leave through a :class:`Sink`.

Invariants:

* A rule that our own side breaks raises ``LocalProtocolError`` and changes nothing. A rule that the peer
  breaks sets :attr:`Connection.error`, after the events of all earlier frames.
* A call is in :attr:`Connection.calls`, and counts as open, from its request to its final frame.
* Credit is spent and returned for every item, also for items that the application never reads.

# Size: sending and receiving move the same calls through the same tables, and spend and return the same
credit. Parts that can be understood alone have their own modules: signals, peer conduct, flow control.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias, final

from spear._errors import (
    CallCancelled,
    CallFailed,
    ChannelClosed,
    LocalProtocolError,
    Rejected,
    RemoteProtocolError,
)
from spear._limits import WireLimits
from spear._segments import Segment

from ._bundles import Bundle
from ._calls import Call, CalleeSide, CallerSide, MessageStream
from ._conduct import PeerConduct
from ._credit import ITEM_OVERHEAD_BYTES, Windows
from ._failures import encode_failure, overloaded
from ._frames import (
    BATCH,
    BYTES_BYTES,
    LAST,
    MANDATORY,
    REPLY_STREAM,
    SEGMENT,
    SHARED,
    STREAM,
    Buffer,
    Frame,
    FrameType,
    Payload,
    Received,
    TaggedBytes,
    unpack_items_untrusted,
)
from ._heads import Head
from ._outbox import Outbox
from ._receiver import Receiver
from ._signals import SignalQueue, signal_cost
from ._sink import Sink
from ._states import (
    CALL_RECEIVES,
    CALL_SENDS,
    CONNECTION_RECEIVES,
    CONNECTION_SENDS,
    CallState,
    ConnectionState,
    Kind,
    Role,
    kind_of,
)

# Plain numbers: an attribute of an enum costs as much as three comparisons on the hot path.
_REQUEST: Final = int(FrameType.EXECUTION_REQUEST)
_RESPONSE: Final = int(FrameType.EXECUTION_RESPONSE)
_ERROR: Final = int(FrameType.ERROR)
_CANCEL: Final = int(FrameType.CANCEL)
_ITEM: Final = int(FrameType.STREAM_DATA)
_CREDIT: Final = int(FrameType.CREDIT)
_RELEASE: Final = int(FrameType.RELEASE)
_OPEN: Final = ConnectionState.OPEN
_CLOSED: Final = ConnectionState.CLOSED
_PEER_LEAVING: Final = ConnectionState.PEER_DRAINING
_IDLE: Final = CallState.IDLE
_CANCELLING: Final = CallState.CANCELLING

_OF_CONNECTION: Final = frozenset(
    {Kind.ANNOUNCE, Kind.HEALTH_CHECK, Kind.HEALTH_RESPONSE, Kind.CLOSE, Kind.LEND}
)
_STREAMS: Final = STREAM | REPLY_STREAM
_IN_PARTS: Final = frozenset({_REQUEST, _RESPONSE, _ITEM})

# The state that a plain request leads to, looked up once.
_REQUEST_SENT: Final = CALL_SENDS[Role.CALLER][_IDLE][Kind.REQUEST]
_REQUEST_RECEIVED: Final = CALL_RECEIVES[Role.CALLEE][_IDLE][Kind.REQUEST]

Event: TypeAlias = tuple[Call | None, int, int, int, int, Head | None, Received | list[bytes]]
"""(call, frame type, flags, a, b, head, payload). The payload of stream data is a list of items; the call
is None for a frame that concerns the connection."""

Accepts: TypeAlias = Callable[[int, Head | None], CallFailed | None]
"""Called with a request's function number and head; returns the error to refuse it with, or None."""


def _accept_all(function: int, head: Head | None) -> CallFailed | None:
    return None


def _too_large(what: str, size: int, most: int) -> LocalProtocolError:
    message = f"the {what} has {size} bytes; the peer accepts at most {most}"
    return LocalProtocolError(message, code="payload_too_large")


@final
class Connection:
    """The protocol state at one end of a connection.

    Args:
        role: HOST or AGENT.
        limits: the limits of this end; the peer's limits arrive with the handshake.
        sink: takes the outgoing frames.
        receiver: the parser of incoming bytes; the connection tells it which payloads to drop.
        trusted: whether strikes against the peer are not counted (an agent trusts its host).

    Attributes:
        state: state of the connection.
        peer: the peer's limits.
        takes_types: whether the peer decodes the tags of dates, sets and other types.
        calls: open calls, by id; from the request to the final frame.
        incomplete: calls of the peer whose request has not arrived completely.
        outbound_open: number of open calls that this end made.
        inbound_open: number of open calls that the peer made.
        request_bytes: bytes of the requests of the peer's open calls, except shared and large ones.
        refused: number of the peer's calls that ended before a handler began.
        messages: the stream of one-way messages.
        windows: flow-control windows of the whole connection, shared by all streams.
        error: the rule that the peer broke, if any; nothing is received after it.
        unknown_frames: number of ignored frames of types that this version does not know.
    """

    __slots__ = (
        "_accepts", "_begun_items", "_conduct", "_finals", "_finals_mark", "_heard", "_large", "_limits",
        "_new_call", "_next_id", "_on_incomplete", "_peer_last_id", "_receiver", "_refunded", "_role",
        "_signals", "_sink", "calls", "error", "inbound_open", "incomplete", "messages",
        "outbound_open", "peer", "refused", "request_bytes", "state", "takes_types", "unknown_frames",
        "windows",
    )  # fmt: skip

    def __init__(
        self,
        role: Role,
        limits: WireLimits,
        sink: Sink,
        *,
        receiver: Receiver | None = None,
        trusted: bool = False,
    ) -> None:
        self._role = role
        self._limits = limits
        self.peer = limits
        self.takes_types = False
        self._sink = sink
        self._receiver = receiver
        self._signals = SignalQueue(sink)
        self._conduct = PeerConduct(limits, is_trusted=trusted)
        self.state = ConnectionState.START
        self.error: RemoteProtocolError | None = None
        self.unknown_frames = 0
        self.calls: dict[int, Call] = {}
        self.incomplete: dict[int, CalleeSide] = {}
        self.outbound_open = 0
        self.inbound_open = 0
        self.request_bytes = 0
        self.refused = 0
        self._large: dict[int, int] = {}  # call id -> bytes of a request that exceeds a message
        # Calls of the host have odd ids, calls of the agent even ones.
        self._next_id = 1 if role is Role.HOST else 2
        self._peer_last_id = 0 if role is Role.HOST else -1
        self.windows = self._connection_windows()
        # One-way messages are the items of a stream that always exists.
        self.messages = MessageStream()
        self._begun_items: dict[int, int] = {}  # call id -> credit cost of its partly received item
        self._refunded = 0  # credit of items never sent, not yet reported as an event
        self._finals = 0  # final frames pushed since the last check that the peer reads
        self._finals_mark = 0  # number of the sink's frame before those final frames
        self._heard = float("-inf")  # time when frames last arrived
        self._new_call: Callable[[], CalleeSide] = CalleeSide
        self._accepts: Accepts = _accept_all
        self._on_incomplete: Callable[[CalleeSide, int], None] | None = None

    @property
    def trusts_peer(self) -> bool:
        """Whether strikes against the peer are not counted, as for the host of a function."""
        return self._conduct.is_trusted

    @classmethod
    def opened(cls, role: Role, limits: WireLimits, sink: Sink) -> Connection:
        """Return an open connection without a handshake, for two ends in one process."""
        connection = cls(role, limits, sink, trusted=True)
        connection.state = ConnectionState.OPEN
        connection.open(limits, takes_types=True)
        return connection

    # -- from the handshake to traffic ------------------------------------------------------------

    def receive_control_untrusted(self, kind: Kind) -> None:
        """Change the state for a received frame of the handshake. Raises RemoteProtocolError."""
        state = CONNECTION_RECEIVES[self._role][self.state].get(kind)
        if state is None:
            raise RemoteProtocolError(f"frame {kind.name} in state {self.state.name}")
        self.state = state

    def open(self, peer: WireLimits, *, takes_types: bool = False) -> None:
        """End the handshake: use the peer's limits, and raise the caps of the receiver.

        Args:
            peer: the peer's limits.
            takes_types: whether both ends have the feature ``types``.
        """
        self.peer = peer
        self.takes_types = takes_types
        self.windows = self._connection_windows()
        self._open_windows(self.messages)
        self.calls[self.messages.id] = self.messages
        if isinstance(self._sink, Outbox):  # other sinks encode nothing, so they need no limits
            self._sink.open(peer, self._refund)
        if self._receiver is not None:
            self._receiver.open(self._admit_fragmented)

    def serve(
        self,
        new_call: Callable[[], CalleeSide],
        accepts: Accepts,
        on_incomplete: Callable[[CalleeSide, int], None] | None = None,
    ) -> None:
        """Accept calls of the peer from now on.

        Args:
            new_call: returns the object for a call that the peer starts.
            accepts: called for every request before its body is read.
            on_incomplete: called with a call and its ``deadline_ms`` when the first part of a
                fragmented request has arrived. The rest may never come.
        """
        self._new_call = new_call
        self._accepts = accepts
        self._on_incomplete = on_incomplete

    # -- the connection itself ------------------------------------------------------------------

    def send_control(self, kind: Kind, *, a: int = 0, b: int = 0, head: Head | None = None) -> None:
        """Send a frame that concerns the connection: handshake, announcement, heartbeat, close.

        Raises:
            LocalProtocolError: the current state does not allow the frame.
            ValueError: the head cannot be encoded.
        """
        state = CONNECTION_SENDS[self._role][self.state].get(kind)
        if state is None:
            raise LocalProtocolError(f"cannot send {kind.name} in state {self.state.name}")
        type_ = int(kind) & 0xFF
        if kind in (Kind.HEALTH_CHECK, Kind.HEALTH_RESPONSE):
            self._sink.push_latest(type_, 0, a, b, b"", head)
        else:
            self._sink.push(type_, 0, 0, a, b, b"", head)
        self.state = state

    def lose(self) -> None:
        """End the connection and all its calls, because the transport is gone."""
        self.state = _CLOSED
        for call in self.calls.values():
            call.state = CallState.DONE
        self.calls.clear()
        self._signals.clear()
        self.incomplete.clear()
        self._large.clear()
        self.outbound_open = self.inbound_open = self.request_bytes = 0

    @property
    def last_peer_call(self) -> int:
        """The newest call id of the peer that this end received: the id that CLOSE reports."""
        return max(self._peer_last_id, 0)

    # -- calls that we make ---------------------------------------------------------------------

    def start_call(
        self,
        call: CallerSide,
        function: int,
        deadline_ms: int,
        flags: int,
        payload: Payload,
        head: Head | None = None,
    ) -> None:
        """Send a request.

        Raises:
            ChannelClosed: one of the two sides is shutting down.
            LocalProtocolError: the payload is too large for the peer, or has tags that the peer does not
                decode; the peer accepts no further call now; or this call was started before.
            ValueError: the head cannot be encoded.
        """
        if self.state is not _OPEN:
            raise ChannelClosed("this connection takes no new calls")
        if call.state is not _IDLE:
            raise LocalProtocolError(f"cannot start a call that is {call.state.name}")
        peer = self.peer
        if self.outbound_open >= peer.max_calls:
            raise LocalProtocolError(f"{peer.max_calls} calls are open; the peer allows no more")
        if type(payload) is not bytes:
            payload, flags = self._to_be_pushed(payload, flags, "payload")
        if len(payload) > peer.max_message_bytes and not isinstance(payload, Segment):
            raise _too_large("payload", len(payload), peer.max_message_bytes)
        sink, call_id = self._sink, self._next_id
        sink.push(_REQUEST, flags, call_id, function, deadline_ms, payload, head)
        call.sequence = sink.pushed
        call.state = _REQUEST_SENT
        if flags & _STREAMS:
            self._open_windows(call)
            if flags & STREAM:
                call.state = call.sends[_IDLE][Kind.STREAM_REQUEST]
        call.id = call_id
        self._next_id = call_id + 2
        self.calls[call_id] = call
        self.outbound_open += 1

    def cancel(self, call: CallerSide, reason: int = 0) -> bool:
        """Cancel a call of ours; return True if its request was never sent, so that it is over at once.

        Otherwise the call stays open until the peer's final frame, because its handler has to end first.
        """
        state = call.sends[call.state].get(Kind.CANCEL)
        if state is None:  # the call is over, or already cancelled
            return call.state is CallState.DONE
        if self._sink.retract(call.id, call.sequence):
            call.state = CallState.DONE
            self._end_outbound(call)
            return True
        call.state = state
        self._sink.abandon(call.id)
        self._sink.push(_CANCEL, 0, call.id, reason, 0)
        return False

    def is_unsent(self, call: CallerSide) -> bool:
        """Return whether no byte of a call that this end made has been sent."""
        return self._sink.is_unsent(call.id, call.sequence)

    # -- calls that the peer makes ----------------------------------------------------------------

    def respond(self, call: CalleeSide, payload: Payload, flags: int, micros: int) -> None:
        """Send the final frame of a call, with its result, or without a payload if it was cancelled.

        Raises:
            LocalProtocolError: the final frame was already sent; or the payload is too large for the
                peer, in which case the call stays open.
        """
        if call.state is _CANCELLING:
            payload = b""
        if type(payload) is not bytes:
            payload, flags = self._to_be_pushed(payload, flags, "result")
        if len(payload) > self.peer.max_message_bytes and not isinstance(payload, Segment):
            raise _too_large("result", len(payload), self.peer.max_message_bytes)
        self._end_inbound(call, _RESPONSE)
        self._sink.push(_RESPONSE, flags, call.id, micros, 0, payload)
        self._finals += 1

    def _to_be_pushed(self, payload: Payload, flags: int, what: str) -> tuple[Payload, int]:
        """Return a payload that is not ``bytes`` in a form for the sink, and the flags for it."""
        if not isinstance(payload, Segment):
            return self._in_bytes(payload), flags
        flags |= SHARED if payload.is_shared else 0
        if self._sink.may_lend(payload):
            return payload, flags
        if len(payload) > self.peer.max_message_bytes:  # before it is copied
            raise _too_large(what, len(payload), self.peer.max_message_bytes)
        return payload.as_view(), flags

    def _in_bytes(self, payload: Payload) -> Buffer:
        """Return the payload as a buffer whose length is in bytes. Raises TypeError if it is no buffer.

        Raises:
            LocalProtocolError: the payload holds tags that the peer does not decode.
        """
        if isinstance(payload, TaggedBytes | Bundle):
            self.expect_types()
        if isinstance(payload, Segment):
            return payload.as_view()
        # A memoryview of a bytearray would stop the caller from resizing it.
        return payload if isinstance(payload, bytearray) else memoryview(payload).cast("B")

    def expect_types(self) -> None:
        """Raise LocalProtocolError if the peer does not decode tags."""
        if not self.takes_types:
            raise LocalProtocolError(
                "the peer does not support dates, decimals, sets, maps with integer keys, arrays and "
                "other tagged values",
                code="types_not_supported",
            )

    def fail(self, call: CalleeSide, failure: CallFailed) -> None:
        """Send a failure, the final frame of a call. Raises LocalProtocolError if it has had one."""
        self._end_inbound(call, _ERROR)
        if self.incomplete.pop(call.id, None) is not None and self._receiver is not None:
            self._receiver.refuse(call.id)
            self.refused += 1
        self._refuse(call.id, failure)

    def signal(self, call: CalleeSide, payload: Payload, flags: int, now: float) -> bool:
        """Send a progress report to the caller; it replaces an earlier one that is still unsent.

        At most ``SIGNALS_PER_SECOND`` are sent, because the peer disconnects an end that sends more.

        Returns:
            False if the signal is held back: call :meth:`send_signals` a moment later.

        Raises:
            LocalProtocolError: the call is over or cancelled, or the payload is larger than a fragment.
        """
        if call.sends[call.state].get(Kind.SIGNAL) is None:
            raise LocalProtocolError(f"cannot report progress of a call that is {call.state.name}")
        report = payload if type(payload) is bytes else self._in_bytes(payload)
        size = len(report)
        if size > self.peer.fragment_bytes:
            raise _too_large("report", size, self.peer.fragment_bytes)
        return self._signals.send(call.id, report, flags, now)

    def send_signals(self, now: float) -> bool:
        """Send signals that were held back, as many as the rate allows; return False if some are left."""
        return self._signals.send_held(self.calls, now)

    # -- items of streams ---------------------------------------------------------------------------

    def may_send_item(self, call: Call) -> bool:
        """Return whether there is credit left to begin an item, on this stream and on the connection."""
        windows = call.windows
        return (
            windows is not None and windows.send.available > 0 and self.windows.send.available > 0
        )

    def send_item(self, call: Call, payload: Payload, flags: int) -> int:
        """Send one item and return the credit it costs; call only if :meth:`may_send_item` is true.

        Raises:
            LocalProtocolError: the call is over or does not stream, or the item is too large.
        """
        kind = Kind.LAST_ITEM if flags & LAST else Kind.ITEM
        state = call.sends[call.state].get(kind)
        windows = call.windows
        if state is None or windows is None:
            raise LocalProtocolError(f"cannot send an item of a call that is {call.state.name}")
        item = payload if type(payload) is bytes else self._in_bytes(payload)
        size = len(item)
        if size > self.peer.max_message_bytes:
            raise _too_large("item", size, self.peer.max_message_bytes)
        call.state = state
        cost = size + ITEM_OVERHEAD_BYTES
        windows.send.available -= cost
        self.windows.send.available -= cost
        self._sink.push_item(flags, call.id, item)
        return cost

    def end_items(self, call: Call) -> None:
        """Send the end of the items. Raises LocalProtocolError if it was sent before."""
        state = call.sends[call.state].get(Kind.LAST_ITEM)
        if state is None:
            raise LocalProtocolError(f"cannot end the items of a call that is {call.state.name}")
        call.state = state
        self._sink.push(_ITEM, LAST, call.id, 0, 0)

    def consumed(self, call: Call, cost: int) -> None:
        """Return the credit of items that the application has taken."""
        windows = call.windows
        if windows is not None and call.state is not CallState.DONE:
            credit = windows.receive.consume(cost)
            if credit and call.sends[call.state].get(Kind.CREDIT) is not None:
                self._sink.push_credit(call.id, credit)
        self._return_credit(cost)

    # -- incoming frames --------------------------------------------------------------------------

    def receive(self, frames: list[Frame], now: float) -> Iterator[Event]:
        """Apply frames that arrived at time ``now``, and iterate over their events.

        A frame is applied only when its event is requested. If the consumer fails or stops, the calls of
        the remaining frames are therefore not lost: they are still in :attr:`calls`, where their
        deadlines and the end of the connection apply to them.

        If the receiver is paused until these frames are applied, it then parses more of its input, and
        the iterator continues with the new frames. If the peer broke a rule, the iterator ends before the
        bad frame and :attr:`error` is set.
        """
        receiver, calls = self._receiver, self.calls
        self._heard = now
        try:
            if not _OPEN <= self.state < _CLOSED:
                raise RemoteProtocolError(f"received frames in state {self.state.name}")
            while True:
                for frame in frames:
                    type_, flags, call_id, a, b, head, payload = frame
                    if type_ == _RESPONSE:
                        call = calls.get(call_id)
                        if call is None:
                            raise RemoteProtocolError(
                                f"a response to call {call_id}, which is not open"
                            )
                        state = call.receives[call.state].get(type_)
                        if state is None:
                            raise RemoteProtocolError(
                                f"a response to call {call_id}, which is {call.state.name}"
                            )
                        call.state = state
                        if call.windows is None:
                            del calls[call_id]
                            self.outbound_open -= 1
                        else:
                            self._end_outbound(call)
                        yield (call, type_, flags, a, b, head, payload)
                    elif type_ == _REQUEST:
                        inbound = self._begin_untrusted(frame)
                        if inbound is not None:
                            yield (inbound, type_, flags, a, b, head, payload)
                    else:
                        event = self._receive_other_untrusted(frame, now)
                        if event is not None:
                            yield event
                if receiver is None or not receiver.paused:
                    break
                frames = receiver.resume()
        except RemoteProtocolError as error:
            self.error = error
        if self._refunded:
            refunded, self._refunded = self._refunded, 0
            yield (None, _CREDIT, 0, refunded, 0, None, b"")

    def _begin_untrusted(self, frame: Frame) -> CalleeSide | None:
        """Return the call of a complete request, opening it unless it is open; None if it was refused."""
        _, flags, call_id, function, _, head, payload = frame
        # A request in parts was admitted with its first part.
        inbound = self.incomplete.pop(call_id, None) if self.incomplete else None
        if inbound is None:
            return self._admit_untrusted(flags, call_id, function, head, len(payload))
        self._check_order_untrusted(call_id)
        return inbound

    def _admit_untrusted(
        self,
        flags: int,
        call_id: int,
        function: int,
        head: Head | None,
        size: int,
        large: int = 0,
    ) -> CalleeSide | None:
        """Open a call that the peer starts; None if it was refused.

        Ids need not come in order: a small request may overtake a large one. ``large`` is the size of
        arguments that exceed a message, which ``size`` does not include.
        """
        if call_id == 0 or call_id in self.calls or (call_id - self._peer_last_id) % 2:
            raise RemoteProtocolError(f"call id {call_id} is not valid for a new call")
        if call_id > self._peer_last_id:
            self._peer_last_id = call_id
        limits = self._limits
        if self._finals >= limits.max_calls:
            self._check_reading_untrusted()
        failure: CallFailed | None
        if self.state is not _OPEN and self.state is not _PEER_LEAVING:
            # The request crossed our CLOSE.
            failure = Rejected("the peer accepts no new calls", code="draining")
        elif self.inbound_open >= limits.max_calls:
            failure = overloaded(f"{limits.max_calls} calls are open", "too_many_calls")
        elif self.request_bytes + self._sink.pending_bytes + size > limits.request_bytes_in_flight:
            most = limits.request_bytes_in_flight
            failure = overloaded(
                f"open calls hold too many bytes; the limit is {most}", "too_many_bytes"
            )
        elif large and sum(self._large.values()) + large > limits.mapped_segment_bytes:
            most = limits.mapped_segment_bytes
            failure = overloaded(
                f"open calls hold too many bytes; the limit for large ones is {most}",
                "too_many_bytes",
            )
        else:
            failure = self._accepts(function, head)
        if failure is not None:
            self.refused += 1
            self._refuse(call_id, failure)
            return None
        call = self._new_call()
        call.id = call_id
        call.state = _REQUEST_RECEIVED
        if flags & _STREAMS:
            self._open_windows(call)
            if flags & STREAM:
                call.state = call.receives[_IDLE][Kind.STREAM_REQUEST]
        call.request_bytes = size
        self.request_bytes += size
        if large:
            self._large[call_id] = large
        self.calls[call_id] = call
        self.inbound_open += 1
        return call

    def _admit_fragmented(
        self, type_: int, flags: int, call_id: int, a: int, b: int, head: Head | None, size: int
    ) -> bool:
        """Return whether the receiver should keep a fragmented payload; called at its first fragment."""
        if type_ not in _IN_PARTS:
            raise RemoteProtocolError(f"frame {type_:#x} must not be fragmented")
        in_segment, flags = bool(flags & SEGMENT), flags & ~SEGMENT
        if in_segment and type_ == _ITEM:
            raise RemoteProtocolError("an item must not be in a segment")
        is_copied = in_segment and not flags & SHARED
        if is_copied and size > self._limits.max_message_bytes and not self.takes_types:
            raise RemoteProtocolError(
                f"a segment of {size} bytes is too large to copy; "
                f"at most {self._limits.max_message_bytes} bytes are allowed"
            )
        if type_ == _REQUEST:
            # Shared memory is not ours: it counts against the limits for segments instead. So do bytes
            # that exceed a message: they have a limit of their own, and leave room for other calls.
            is_large = is_copied and size > self._limits.max_message_bytes
            ours = 0 if is_large or (in_segment and flags & SHARED) else size
            call = self._admit_untrusted(flags, call_id, a, head, ours, size if is_large else 0)
            if call is not None:
                self.incomplete[call_id] = call
                if self._on_incomplete is not None:
                    self._on_incomplete(call, b)
            return call is not None
        known = self.calls.get(call_id)
        cost = 0
        if type_ == _ITEM:
            # Spend the credit at the first fragment: the item takes memory from then on.
            if flags & BATCH or a != 1:
                raise RemoteProtocolError("a batch of items must not be fragmented")
            cost = size + ITEM_OVERHEAD_BYTES
            self._spend_untrusted(self.windows, cost)
        if known is None:
            if type_ == _ITEM and self._is_over(call_id):
                self._return_credit(cost)
                self._conduct.late_items_untrusted(cost, self._heard)
                return False
            raise RemoteProtocolError(f"a payload for call {call_id}, which is not open")
        if known.receives[known.state].get(kind_of(type_, flags)) is None:
            raise RemoteProtocolError(
                f"frame {type_:#x} while call {call_id} is {known.state.name}"
            )
        if type_ == _ITEM:
            self._spend_untrusted(known.windows, cost)
            self._begun_items[call_id] = cost
        return True

    def _receive_other_untrusted(self, frame: Frame, now: float) -> Event | None:
        """Apply any frame but a plain request or response."""
        type_, flags, call_id, a, b, head, payload = frame
        kind = kind_of(type_, flags)
        moves = CONNECTION_RECEIVES[self._role][self.state]
        state = moves.get(kind)
        if state is None:
            if type_ & MANDATORY:
                raise RemoteProtocolError(f"frame {type_:#x} in state {self.state.name}")
            self.unknown_frames += 1
            self._conduct.control_untrusted(now)
        elif type_ in _OF_CONNECTION:
            if call_id:
                raise RemoteProtocolError(f"frame {type_:#x} must have call id 0, not {call_id}")
            self.state = state
            self._conduct.control_untrusted(now)
            if type_ == Kind.HEALTH_CHECK:
                self.send_control(Kind.HEALTH_RESPONSE, a=a, b=self.inbound_open)
            return (None, type_, flags, a, b, head, payload)
        elif type_ == _ITEM:
            return self._receive_items_untrusted(frame, kind, now)
        elif type_ == _RELEASE:
            # Not counted as a control frame: the peer can release no more segments than we sent.
            if call_id or not self._sink.released(a):
                raise RemoteProtocolError(f"RELEASE of segment {a}, which was not sent to the peer")
        elif type_ == _ERROR:
            call = self._moved_untrusted(call_id, kind)
            self._end_outbound(call)
            return (call, type_, flags, a, b, head, payload)
        elif type_ == _CANCEL:
            return self._receive_cancel_untrusted(frame, now)
        elif type_ == _CREDIT:
            return self._receive_credit_untrusted(frame, now)
        else:
            return self._receive_signal_untrusted(frame, now)
        return None

    def _receive_items_untrusted(self, frame: Frame, kind: int, now: float) -> Event | None:
        type_, flags, call_id, count, b, head, payload = frame
        assert not isinstance(payload, Segment)  # _admit_fragmented() refuses segments of items
        if flags & BATCH:
            try:
                items = unpack_items_untrusted(payload)
            except ValueError as error:
                raise RemoteProtocolError(str(error)) from error
            cost = len(payload) + len(items) * (ITEM_OVERHEAD_BYTES - BYTES_BYTES)
        else:
            items = [payload] if count else []
            cost = len(payload) + len(items) * ITEM_OVERHEAD_BYTES
        if len(items) != count or (not count and (payload or not flags & LAST)):
            raise RemoteProtocolError("the items in STREAM_DATA do not match their number")
        is_begun = call_id in self._begun_items  # the credit was spent at the first fragment
        if is_begun:
            self._check_order_untrusted(call_id)
            del self._begun_items[call_id]
        elif count:
            self._spend_untrusted(self.windows, cost)
        call = self.calls.get(call_id)
        if call is None and self._is_over(call_id):
            self._return_credit(cost)
            self._conduct.late_items_untrusted(cost, now)
            return None
        call = self._moved_untrusted(call_id, kind)
        if count and not is_begun:
            self._spend_untrusted(call.windows, cost)
        if call.state is _CANCELLING:
            self._return_credit(cost)
            return None
        return (call, type_, flags, count, b, head, items)

    def _receive_cancel_untrusted(self, frame: Frame, now: float) -> Event | None:
        type_, flags, call_id, a, b, head, payload = frame
        self._conduct.cancel_untrusted(now)
        call = self.calls.get(call_id)
        if isinstance(call, CalleeSide):
            self._moved_untrusted(call_id, Kind.CANCEL)
            self._abandon_incoming(call_id)
            if call_id in self.incomplete:  # no handler has begun, so the call must be ended here
                self.fail(call, CallCancelled("cancelled", delivered="no"))
            else:
                return (call, type_, flags, a, b, head, payload)
        elif call is not None or not self._is_over(call_id):
            raise RemoteProtocolError(f"CANCEL of call {call_id}, which the peer did not make")
        elif self._abandon_incoming(call_id):
            pass  # the rest of a refused payload will not come
        elif self._sink.abandon(call_id):
            self._refuse(call_id, CallCancelled("cancelled", delivered="yes"))
        else:
            self._conduct.control_untrusted(now)  # the cancellation crossed the final frame
        return None

    def _receive_credit_untrusted(self, frame: Frame, now: float) -> Event | None:
        type_, flags, call_id, credit, b, head, payload = frame
        call: Call | None = None
        windows: Windows | None = self.windows
        if call_id:
            if call_id not in self.calls and self._is_over(call_id):
                self._conduct.control_untrusted(now)
                return None
            call = self._moved_untrusted(call_id, Kind.CREDIT)
            windows = call.windows
        if windows is None or not windows.send.grant(credit):
            raise RemoteProtocolError(f"more credit than was spent (call {call_id})")
        if credit * 4 < windows.send.size:
            # A small portion. Larger portions cannot flood us: we spent that credit before.
            self._conduct.control_untrusted(now)
        return (call, type_, flags, credit, b, head, payload)

    def _receive_signal_untrusted(self, frame: Frame, now: float) -> Event | None:
        type_, _, call_id, flags, b, head, payload = frame
        self._conduct.signal_untrusted(signal_cost(len(payload)), (self._next_id - 1) // 2, now)
        if not call_id:  # reserved for future signals about the connection
            self.unknown_frames += 1
            return None
        if call_id not in self.calls and self._is_over(call_id):
            return None
        call = self._moved_untrusted(call_id, Kind.SIGNAL)
        if call.state is _CANCELLING:
            return None
        return (call, type_, flags, 0, b, head, payload)

    # -- steps of both directions ------------------------------------------------------------------

    def _moved_untrusted(self, call_id: int, kind: int) -> Call:
        """Return the call, moved to the state that the received frame leads to."""
        call = self.calls.get(call_id)
        if call is None:
            raise RemoteProtocolError(f"frame {kind:#x} for call {call_id}, which is not open")
        state = call.receives[call.state].get(kind)
        if state is None:
            raise RemoteProtocolError(f"frame {kind:#x} while call {call_id} is {call.state.name}")
        call.state = state
        return call

    def _is_over(self, call_id: int) -> bool:
        """Return whether this call existed and has ended; ask only about a call that is not open."""
        last = self._next_id - 2 if (call_id - self._next_id) % 2 == 0 else self._peer_last_id
        return 0 < call_id <= last

    def _spend_untrusted(self, windows: Windows | None, cost: int) -> None:
        if windows is None or not windows.receive.receive(cost):
            raise RemoteProtocolError("an item without credit")

    def _check_order_untrusted(self, call_id: int) -> None:
        """Check that a frame which ends a payload in parts does not arrive before the payload's end."""
        if self._receiver is not None and self._receiver.is_assembling(call_id):
            raise RemoteProtocolError(
                f"a frame arrived before the payload of call {call_id} was complete"
            )

    def _check_reading_untrusted(self) -> None:
        """Check that the peer reads, once as many final frames are pushed as it may have calls."""
        if self._sink.is_unsent(0, self._finals_mark + 1):  # the first is unsent, so all are
            raise RemoteProtocolError("the peer starts calls and does not read the responses")
        self._finals, self._finals_mark = 0, self._sink.pushed

    def _end_outbound(self, call: Call) -> None:
        """Remove a call of ours that had its final frame or was never sent."""
        self._abandon_incoming(call.id)
        if self._sink.abandon(call.id):
            # The peer must learn that the rest of this payload will not come.
            self._sink.push(_CANCEL, 0, call.id, 0, 0)
        del self.calls[call.id]
        self.outbound_open -= 1

    def _end_inbound(self, call: CalleeSide, kind: int) -> None:
        before = call.state
        state = call.sends[before].get(kind)
        if state is None:
            raise LocalProtocolError(f"the final frame of call {call.id} was sent before")
        if self._signals:
            self._signals.send_last(call)
        if before is _CANCELLING:
            self._sink.abandon(call.id)  # items that the caller no longer reads
        if call.windows is not None:
            self._conduct.expect_late_items(call.windows.receive.available)
        call.state = state
        del self.calls[call.id]
        self.inbound_open -= 1
        self.request_bytes -= call.request_bytes
        if self._large:
            self._large.pop(call.id, None)

    def _refuse(self, call_id: int, failure: CallFailed) -> None:
        flags, a, b, head = encode_failure(failure, self._limits.error_message_bytes)
        self._sink.push(_ERROR, flags, call_id, a, b, b"", head)
        self._finals += 1

    def _abandon_incoming(self, call_id: int) -> bool:
        """Drop a payload whose rest will not come; return True if one was being received."""
        if self._receiver is None or not self._receiver.abandon(call_id):
            return False
        self._return_credit(self._begun_items.pop(call_id, 0))
        return True

    def _open_windows(self, call: Call) -> None:
        call.windows = Windows(self.peer.stream_window_bytes, self._limits.stream_window_bytes)

    def _connection_windows(self) -> Windows:
        return Windows(
            self.peer.connection_window_bytes,
            self._limits.connection_window_bytes,
            overdraft=self._limits.max_message_bytes + ITEM_OVERHEAD_BYTES,
        )

    def _refund(self, credit: int) -> None:
        """Take back the credit of items that were dropped before a byte of them was sent."""
        self.windows.send.available += credit
        self._refunded += credit

    def _return_credit(self, cost: int) -> None:
        credit = self.windows.receive.consume(cost)
        if credit and self.state is not _CLOSED:
            self._sink.push_credit(0, credit)
