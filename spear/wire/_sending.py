"""The outgoing half of a connection: calls and frames out, without I/O.

It also keeps what both halves need: the connection's state, the calls that are open, the credit for
items. A rule broken by our own side raises ``LocalProtocolError`` and changes nothing.
"""

from __future__ import annotations

from typing import Final

from spear._errors import CallFailed, ChannelClosed, LocalProtocolError
from spear._limits import WireLimits
from spear._segments import Segment

from ._calls import Call, CalleeSide, CallerSide, MessageStream
from ._credit import ITEM_OVERHEAD_BYTES, Windows
from ._failures import encode_failure
from ._frames import LAST, REPLY_STREAM, SHARED, STREAM, Buffer, FrameType, Payload
from ._heads import Head
from ._receiver import Receiver
from ._sink import Sink
from ._states import CALL_SENDS, CONNECTION_SENDS, CallState, ConnectionState, Kind, Role
from ._strikes import RateLimit

# Plain numbers: an attribute of an enum costs as much as three comparisons on the hot path.
_REQUEST: Final = int(FrameType.EXECUTION_REQUEST)
_RESPONSE: Final = int(FrameType.EXECUTION_RESPONSE)
_ERROR: Final = int(FrameType.ERROR)
_CANCEL: Final = int(FrameType.CANCEL)
_ITEM: Final = int(FrameType.STREAM_DATA)
_SIGNAL: Final = int(FrameType.SIGNAL)
_OPEN: Final = ConnectionState.OPEN
_CLOSED: Final = ConnectionState.CLOSED
_IDLE: Final = CallState.IDLE
_CANCELLING: Final = CallState.CANCELLING
STREAMS: Final = STREAM | REPLY_STREAM

SIGNALS_PER_SECOND: Final = 500.0
SIGNAL_BURST: Final = 1000
"""Signals that an agent sends at once, after a pause. A host counts signals as control frames, of which
it takes twice SIGNALS_PER_SECOND and ten times this burst: the rest is for heartbeats, credit, and
signals that arrive late and all at once."""

SIGNAL_BYTES: Final = 4096
MOST_SIGNAL_COST: Final = 256
"""A signal counts once, and once more for each full 4 KiB of its payload up to a MiB."""


def signal_cost(size: int) -> int:
    """Return how many signals a signal with so many bytes of payload counts for."""
    return 1 + min(size // SIGNAL_BYTES, MOST_SIGNAL_COST)


# Where a plain request leads, looked up once and for all.
_REQUEST_SENT: Final = CALL_SENDS[Role.CALLER][_IDLE][Kind.REQUEST]


def _in_bytes(payload: Payload) -> Buffer:
    """The same payload with a length in bytes. Raises TypeError for what is none, before it counts."""
    if isinstance(payload, Segment):
        return payload.as_view()
    # A view of a bytearray would keep its owner from ever resizing it.
    return payload if isinstance(payload, bytearray) else memoryview(payload).cast("B")


class SendingHalf:
    """What one end of a connection does by itself: :class:`Connection` adds what its peer does.

    Args:
        role: HOST or AGENT.
        limits: ours; the peer's arrive with the handshake.
        sink: where frames go.
        receiver: told when a half-received payload is not wanted any more.

    Attributes:
        state: where the connection stands.
        peer: the peer's limits.
        calls: those that are open, by id; from the request to the final frame.
        incomplete: calls of the peer whose request is still coming in.
        outbound_open: how many of the open calls are ours.
        inbound_open: how many are the peer's.
        request_bytes: what is held of the peer's requests.
        refused: calls of the peer that ended before a handler began.
        messages: the stream of one-way messages.
        windows: the credit that all streams share.
    """

    __slots__ = (
        "_begun_items", "_finals", "_held_signals", "_late_credit", "_limits", "_next_id",
        "_peer_last_id",
        "_receiver", "_refunded", "_role", "_signals", "_sink", "calls", "inbound_open",
        "incomplete", "messages", "outbound_open", "peer", "refused", "request_bytes", "state",
        "windows",
    )  # fmt: skip

    def __init__(
        self, role: Role, limits: WireLimits, sink: Sink, *, receiver: Receiver | None = None
    ) -> None:
        self._role = role
        self._limits = limits
        self.peer = limits
        self._sink = sink
        self._receiver = receiver
        self.state = ConnectionState.START
        self.calls: dict[int, Call] = {}
        self.incomplete: dict[int, CalleeSide] = {}
        self.outbound_open = 0
        self.inbound_open = 0
        self.request_bytes = 0
        self.refused = 0
        self._begun_items: dict[int, int] = {}  # call id -> cost of the item that is half here
        self._refunded = 0  # credit of items never sent, about which nobody has been told yet
        self._signals = RateLimit(SIGNALS_PER_SECOND, SIGNAL_BURST)
        self._held_signals: dict[int, tuple[int, bytes]] = {}  # call id -> flags, newest report
        self._late_credit = 0  # of the peer's calls that are over, for items that are under way
        self._finals = 0  # final frames pushed since the last look at whether the peer reads
        # The host's calls are odd, the agent's are even.
        self._next_id = 1 if role is Role.HOST else 2
        self._peer_last_id = 0 if role is Role.HOST else -1
        self.windows = self._connection_windows()
        # One-way messages are the items of a stream that is always there.
        self.messages = MessageStream()

    # -- the connection itself ------------------------------------------------------------------

    def send_control(self, kind: Kind, *, a: int = 0, b: int = 0, head: Head | None = None) -> None:
        """Send a frame that concerns the connection: handshake, announcement, heartbeat, close.

        Raises:
            LocalProtocolError: the table does not allow it now.
            ValueError: a head cannot carry this.
        """
        state = CONNECTION_SENDS[self._role][self.state].get(kind)
        if state is None:
            raise LocalProtocolError(f"cannot send {kind.name} while {self.state.name}")
        type_ = int(kind) & 0xFF
        if kind in (Kind.HEALTH_CHECK, Kind.HEALTH_RESPONSE):
            self._sink.push_latest(type_, 0, a, b, b"", head)
        else:
            self._sink.push(type_, 0, 0, a, b, b"", head)
        self.state = state

    def lose(self) -> None:
        """The transport is gone: nothing goes out or comes in any more, and every call is over."""
        self.state = _CLOSED
        for call in self.calls.values():
            call.state = CallState.DONE
        self.calls.clear()
        self._held_signals.clear()
        self.incomplete.clear()
        self.outbound_open = self.inbound_open = self.request_bytes = 0

    @property
    def last_peer_call(self) -> int:
        """The newest call of the peer that we took: what CLOSE reports."""
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
            ChannelClosed: one of the two sides is leaving.
            LocalProtocolError: the peer takes no payload of that size, or no further call now, or
                this call was started before.
            ValueError: a head cannot carry this.
        """
        if self.state is not _OPEN:
            raise ChannelClosed("this connection takes no new calls")
        if call.state is not _IDLE:
            raise LocalProtocolError(f"cannot start a call that is {call.state.name}")
        peer = self.peer
        if self.outbound_open >= peer.max_calls:
            raise LocalProtocolError(f"{peer.max_calls} calls are open, the peer takes no more")
        if type(payload) is not bytes:
            payload, flags = self._to_be_pushed(payload, flags)
        if len(payload) > peer.max_message_bytes and not isinstance(payload, Segment):
            raise LocalProtocolError(
                f"a payload of {len(payload)} bytes; the peer takes {peer.max_message_bytes}",
                code="payload_too_large",
            )
        sink, call_id = self._sink, self._next_id
        sink.push(_REQUEST, flags, call_id, function, deadline_ms, payload, head)
        call.sequence = sink.pushed
        call.state = _REQUEST_SENT
        if flags & STREAMS:
            self._open_windows(call)
            if flags & STREAM:
                call.state = call.sends[_IDLE][Kind.STREAM_REQUEST]
        call.id = call_id
        self._next_id = call_id + 2
        self.calls[call_id] = call
        self.outbound_open += 1

    def cancel(self, call: CallerSide, reason: int = 0) -> bool:
        """Give up a call of ours; True if it was never sent and is over at once.

        Otherwise it stays open until the peer's final frame: its handler has to end first.
        """
        state = call.sends[call.state].get(Kind.CANCEL)
        if state is None:  # it is over, or cancelled already
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
        """Whether no byte of a call of ours has been sent."""
        return self._sink.is_unsent(call.id, call.sequence)

    # -- calls that the peer makes ----------------------------------------------------------------

    def respond(self, call: CalleeSide, payload: Payload, flags: int, micros: int) -> None:
        """Send the result: the final frame of a call. If it was cancelled, nobody wants the payload.

        Raises:
            LocalProtocolError: the call has had its final frame, or the peer takes no payload of
                that size; the call is then still open.
        """
        if call.state is _CANCELLING:
            payload = b""
        if type(payload) is not bytes:
            payload, flags = self._to_be_pushed(payload, flags)
        if len(payload) > self.peer.max_message_bytes and not isinstance(payload, Segment):
            raise LocalProtocolError(
                f"a result of {len(payload)} bytes; the peer takes {self.peer.max_message_bytes}",
                code="payload_too_large",
            )
        self._end_inbound(call, _RESPONSE)
        self._sink.push(_RESPONSE, flags, call.id, micros, 0, payload)
        self._finals += 1

    def _to_be_pushed(self, payload: Payload, flags: int) -> tuple[Payload, int]:
        """What is not bytes, as the sink takes it, and the flags that go with it."""
        if not isinstance(payload, Segment):
            return _in_bytes(payload), flags
        lent = payload if self._sink.may_lend(payload) else payload.as_view()
        return lent, flags | SHARED

    def fail(self, call: CalleeSide, failure: CallFailed) -> None:
        """Send a failure: the final frame of a call. Raises LocalProtocolError as `respond` does."""
        self._end_inbound(call, _ERROR)
        if self.incomplete.pop(call.id, None) is not None and self._receiver is not None:
            self._receiver.refuse(call.id)
            self.refused += 1
        self._refuse(call.id, failure)

    def signal(self, call: CalleeSide, payload: Payload, flags: int, now: float) -> bool:
        """Tell the caller how far the call is; an unsent earlier signal is replaced.

        At most ``SIGNALS_PER_SECOND`` are sent, because the peer cuts who sends more.

        Returns:
            False if the signal is held back: :meth:`send_signals` is to be called a moment later.

        Raises:
            LocalProtocolError: the call is over or cancelled, or the payload above a fragment.
        """
        if call.sends[call.state].get(Kind.SIGNAL) is None:
            raise LocalProtocolError(f"cannot report progress of a call that is {call.state.name}")
        report = payload if type(payload) is bytes else _in_bytes(payload)
        size = len(report)
        if size > self.peer.fragment_bytes:
            raise LocalProtocolError(
                f"a report of {size} bytes; the peer takes {self.peer.fragment_bytes}",
                code="payload_too_large",
            )
        if self._held_signals or not self._signals.take(now, signal_cost(size)):
            self._held_signals[call.id] = flags, bytes(report)
            return False
        self._sink.push_latest(_SIGNAL, call.id, flags, 0, report)
        return True

    def send_signals(self, now: float) -> bool:
        """Send signals that were held back, as many as may be sent now; False if some are left."""
        held = self._held_signals
        while held:
            call_id, (flags, report) = next(iter(held.items()))
            call = self.calls[call_id]
            if call.sends[call.state].get(Kind.SIGNAL) is not None:
                if not self._signals.take(now, signal_cost(len(report))):
                    return False
                self._sink.push_latest(_SIGNAL, call_id, flags, 0, report)
            del held[call_id]
        return True

    def _send_last_signal(self, call: CalleeSide) -> None:
        """Send the signal that was held back, in front of the final frame.

        The peer takes one small signal of each call, at whatever rate calls end.
        """
        flags, report = self._held_signals.pop(call.id, (0, None))
        if report is not None and call.state is not _CANCELLING and len(report) < SIGNAL_BYTES:
            self._sink.push_latest(_SIGNAL, call.id, flags, 0, report)

    # -- items of streams ---------------------------------------------------------------------------

    def may_send_item(self, call: Call) -> bool:
        """Whether the peer has lent enough credit for an item to begin."""
        windows = call.windows
        return (
            windows is not None and windows.send.available > 0 and self.windows.send.available > 0
        )

    def send_item(self, call: Call, payload: Payload, flags: int) -> int:
        """Send one item, returns the credit it costs; the caller has asked :meth:`may_send_item`.

        Raises:
            LocalProtocolError: the call is over or does not stream, or the item is too large.
        """
        kind = Kind.LAST_ITEM if flags & LAST else Kind.ITEM
        state = call.sends[call.state].get(kind)
        windows = call.windows
        if state is None or windows is None:
            raise LocalProtocolError(f"cannot send an item of a call that is {call.state.name}")
        item = payload if type(payload) is bytes else _in_bytes(payload)
        size = len(item)
        if size > self.peer.max_message_bytes:
            raise LocalProtocolError(
                f"an item of {size} bytes; the peer takes {self.peer.max_message_bytes}",
                code="payload_too_large",
            )
        call.state = state
        cost = size + ITEM_OVERHEAD_BYTES
        windows.send.available -= cost
        self.windows.send.available -= cost
        self._sink.push_item(flags, call.id, item)
        return cost

    def end_items(self, call: Call) -> None:
        """Say that no further item will come. Raises LocalProtocolError if that was said before."""
        state = call.sends[call.state].get(Kind.LAST_ITEM)
        if state is None:
            raise LocalProtocolError(f"cannot end the items of a call that is {call.state.name}")
        call.state = state
        self._sink.push(_ITEM, LAST, call.id, 0, 0)

    def consumed(self, call: Call, cost: int) -> None:
        """The application has taken items that cost so much: give the credit back."""
        windows = call.windows
        if windows is not None and call.state is not CallState.DONE:
            credit = windows.receive.consume(cost)
            if credit and call.sends[call.state].get(Kind.CREDIT) is not None:
                self._sink.push_credit(call.id, credit)
        self._return_credit(cost)

    # -- shared with the receiving half -----------------------------------------------------------

    def _end_outbound(self, call: Call) -> None:
        """A call of ours has had its final frame, or was never sent."""
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
            raise LocalProtocolError(f"call {call.id} has had its final frame")
        if self._held_signals:
            self._send_last_signal(call)
        if before is _CANCELLING:
            self._sink.abandon(call.id)  # items nobody waits for
        if call.windows is not None:
            # The peer may have sent so much before it knows, and the end of its items.
            self._late_credit += max(0, call.windows.receive.available) + ITEM_OVERHEAD_BYTES
        call.state = state
        del self.calls[call.id]
        self.inbound_open -= 1
        self.request_bytes -= call.request_bytes

    def _refuse(self, call_id: int, failure: CallFailed) -> None:
        flags, a, b, head = encode_failure(failure, self._limits.error_message_bytes)
        self._sink.push(_ERROR, flags, call_id, a, b, b"", head)
        self._finals += 1

    def _abandon_incoming(self, call_id: int) -> bool:
        """The rest of a payload will not come; True if there was one under way."""
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
        """Items were dropped before a byte of them was sent."""
        self.windows.send.available += credit
        self._refunded += credit

    def _return_credit(self, cost: int) -> None:
        credit = self.windows.receive.consume(cost)
        if credit and self.state is not _CLOSED:
            self._sink.push_credit(0, credit)
