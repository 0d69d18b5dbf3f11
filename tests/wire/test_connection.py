"""Calls over a connection: how they begin and end, and frames that cross on the way."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING

import attrs
import pytest

from spear import (
    CallCancelled,
    CallFailed,
    ChannelClosed,
    FunctionRaised,
    LocalProtocolError,
    NotFound,
    Overloaded,
    Rejected,
)
from spear._limits import KIB
from spear._segments import Segment
from spear.testing import ConnectionPair, Cut, WireEnd, uncut
from spear.wire import (
    CBOR,
    NO_DEADLINE,
    Buffer,
    CalleeSide,
    CallerSide,
    CallState,
    Connection,
    ConnectionState,
    Event,
    Frame,
    FrameType,
    Head,
    Kind,
    Payload,
    Role,
    decode_failure_untrusted,
)
from spear.wire._signals import SIGNAL_BURST, SIGNALS_PER_SECOND

from .helpers import (
    BOTH_STREAMS,
    SMALL,
    call_between,
    call_of,
    called,
    first_fragment,
    frame,
    open_end,
    plain,
    request,
    split_frames,
    start,
    types,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = bytes(range(256)) * 280  # 70 KiB: four frames of at most 32 KiB
LARGER = bytes(SMALL.max_message_bytes)


def small_pair() -> ConnectionPair:
    return ConnectionPair(host_limits=SMALL, agent_limits=SMALL)


def failure_of(event: Event) -> CallFailed:
    _, type_, flags, a, b, head, _ = event
    assert type_ == FrameType.ERROR
    return decode_failure_untrusted(flags, a, b, head, SMALL.error_message_bytes)


def nothing_is_left(*ends: WireEnd) -> None:
    for end in ends:
        connection = end.connection
        assert (connection.outbound_open, connection.inbound_open) == (0, 0)
        assert connection.request_bytes == 0
        assert list(connection.calls) == [connection.messages.id]
        assert connection.incomplete == {}
        assert end.receiver.buffered_bytes == 0


class TestCalls:
    """A request, and its answer."""

    @pytest.mark.parametrize("caller", ["host", "agent"])
    @pytest.mark.parametrize("payload", [b"", b"arguments", LARGE])
    def test_a_call_and_its_response(self, caller: str, payload: bytes, cut: Cut) -> None:
        pair = small_pair()
        ours = pair.host if caller == "host" else pair.agent
        theirs = pair.peer_of(ours)
        call = CallerSide()
        ours.connection.start_call(call, 7, 250, CBOR, payload, {"key": "k"})
        assert call.state.name == "RUNNING"
        assert ours.connection.outbound_open == 1
        pair.pump(cut)
        (event,) = theirs.take_events()
        inbound = event[0]
        assert isinstance(inbound, CalleeSide)
        assert event[1:] == (FrameType.EXECUTION_REQUEST, CBOR, 7, 250, {"key": "k"}, payload)
        assert inbound.id == call.id
        assert theirs.connection.inbound_open == 1
        assert theirs.connection.request_bytes == len(payload)
        theirs.connection.respond(inbound, payload, CBOR, 1234)
        assert inbound.state is CallState.DONE
        pair.pump(cut)
        (event,) = ours.take_events()
        assert event == (call, FrameType.EXECUTION_RESPONSE, CBOR, 1234, 0, None, payload)
        assert call.state.name == "DONE"
        nothing_is_left(*pair.ends)

    def test_a_call_and_its_failure(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair)
        pair.agent.connection.fail(inbound, FunctionRaised("no", type_name="KeyError"))
        pair.pump(cut)
        (event,) = pair.host.take_events()
        assert event[0] is call
        assert str(failure_of(event)) == "KeyError: no"
        nothing_is_left(*pair.ends)

    def test_ids_are_odd_for_the_host_and_even_for_the_agent(self) -> None:
        pair = small_pair()
        assert [start(pair.host).id for _ in range(3)] == [1, 3, 5]
        assert [start(pair.agent).id for _ in range(3)] == [2, 4, 6]
        pair.pump()
        assert [call_of(event).id for event in pair.agent.events] == [1, 3, 5]
        assert pair.agent.connection.last_peer_call == 5
        assert pair.host.connection.last_peer_call == 6

    def test_no_call_has_come_before_the_first(self) -> None:
        pair = small_pair()
        assert [end.connection.last_peer_call for end in pair.ends] == [0, 0]

    def test_small_calls_overtake_a_large_one(self, cut: Cut) -> None:
        pair = small_pair()
        large = start(pair.host, LARGE)
        pair.transmit(pair.host)  # the first fragment of the request
        small = [start(pair.host, b"small") for _ in range(3)]
        pair.pump(cut)
        order = [call_of(event).id for event in pair.agent.events]
        assert order == [*(call.id for call in small), large.id]

    def test_answers_overtake_a_large_one(self, cut: Cut) -> None:
        pair = small_pair()
        (_, first), (_, second) = call_between(pair), call_between(pair)
        pair.agent.connection.respond(first, LARGE, 0, 0)
        pair.transmit(pair.agent)
        pair.agent.connection.respond(second, b"small", 0, 0)
        pair.pump(cut)
        assert [call_of(event).id for event in pair.host.events] == [second.id, first.id]

    @pytest.mark.parametrize("code", ["B", "I", "d"])
    def test_views_of_any_shape_are_sent_as_their_bytes(self, code: str) -> None:
        view = memoryview(array.array(code, range(100)))
        long = memoryview(array.array(code, [n % 100 for n in range(2000)]))
        pair = small_pair()
        call = start(pair.host, view, BOTH_STREAMS)
        pair.pump()
        inbound = called(pair.agent)
        for end, side in ((pair.host, call), (pair.agent, inbound)):
            end.connection.send_item(side, view, 0)
            end.connection.send_item(side, long, 0)
        pair.agent.connection.signal(inbound, view, 0, 0.0)
        pair.pump()
        pair.agent.connection.respond(inbound, view, 0, 0)
        pair.pump()
        received = [event[6] for event in pair.host.events]
        assert received == [view.tobytes(), [view.tobytes()], [long.tobytes()], view.tobytes()]

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    @pytest.mark.parametrize("size", [5, 9 * KIB, len(LARGE)])
    def test_any_kind_of_bytes_arrives_as_bytes(self, kind: type[Buffer], size: int) -> None:
        pair = small_pair()
        start(pair.host, kind(LARGE[:size]))
        pair.pump()
        assert [event[6] for event in pair.agent.events] == [LARGE[:size]]
        assert [type(event[6]) for event in pair.agent.events] == [bytes]

    def test_what_is_no_bytes_is_not_sent(self) -> None:
        pair = small_pair()
        with pytest.raises(TypeError):
            start(pair.host, "text")  # type: ignore[arg-type]  # that is the point
        nothing_is_left(pair.host)
        assert not pair.host.outbox

    def test_each_end_keeps_to_the_fragments_of_the_other(self) -> None:
        pair = ConnectionPair(host_limits=SMALL)
        for sender, receiver in ((pair.agent, pair.host), (pair.host, pair.agent)):
            start(sender, LARGER)
            data = b""
            while part := sender.take_bytes():
                data += part
            largest = max(len(each) for each in split_frames(data))
            assert largest <= receiver.limits.fragment_bytes + 37
            receiver.feed(data)
            assert receiver.error is None

    def test_large_numbers_of_calls_leave_nothing_behind(self) -> None:
        pair = small_pair()
        for _ in range(300):
            _, inbound = call_between(pair, payload=b"x" * 100)
            pair.agent.connection.respond(inbound, b"y", 0, 0)
            pair.pump()
        nothing_is_left(*pair.ends)


class TestRefusals:
    """Calls that are refused."""

    def test_the_callee_says_no_before_the_arguments_have_come(self, cut: Cut) -> None:
        pair = small_pair()
        asked: list[tuple[int, Head | None]] = []

        def refuse(function: int, head: Head | None) -> CallFailed:
            asked.append((function, head))
            return NotFound("no such function")

        pair.agent.connection.serve(CalleeSide, refuse)
        small = start(pair.host, b"x")
        large = start(pair.host, LARGE, head={"function": "f"})
        pair.pump(cut)
        assert pair.agent.events == []
        assert asked == [(1, None), (1, {"function": "f", "size": len(LARGE)})]
        assert [(event[0], type(failure_of(event))) for event in pair.host.events] == [
            (small, NotFound), (large, NotFound),
        ]  # fmt: skip
        nothing_is_left(*pair.ends)

    def test_a_refused_large_call_is_not_sent_to_its_end(self) -> None:
        pair = small_pair()
        pair.agent.connection.serve(CalleeSide, lambda *_: NotFound("no"))
        start(pair.host, LARGER)
        pair.transmit(pair.host)
        pair.agent.receive_incoming()
        pair.transmit(pair.agent)
        pair.host.receive_incoming()
        rest = pair.host.take_bytes()
        assert rest == frame(FrameType.CANCEL, 0, 1)  # and no BODY
        pair.agent.feed(rest)
        pair.pump()
        nothing_is_left(*pair.ends)

    def test_the_owner_is_told_when_the_first_part_of_a_request_is_here(self, cut: Cut) -> None:
        pair = small_pair()
        told: list[tuple[CalleeSide, int]] = []
        pair.agent.connection.serve(
            CalleeSide, lambda *_: None, lambda call, ms: told.append((call, ms))
        )
        start(pair.host, b"small")
        call = CallerSide()
        pair.host.connection.start_call(call, 1, 250, 0, LARGE)
        pair.pump(cut)
        assert [(each.id, ms) for each, ms in told] == [(call.id, 250)]
        assert told[0][0] in [event[0] for event in pair.agent.events]

    def test_what_was_refused_is_counted(self) -> None:
        pair = small_pair()
        start(pair.host, LARGE)
        pair.transmit(pair.host)
        pair.agent.receive_incoming()
        (inbound,) = pair.agent.connection.incomplete.values()
        pair.agent.connection.fail(inbound, Rejected("time is up"))
        pair.agent.connection.serve(CalleeSide, lambda *_: NotFound("no"))
        start(pair.host)
        pair.pump()
        assert pair.agent.connection.refused == 2

    def test_too_many_calls_are_refused_as_overload(self, cut: Cut) -> None:
        end = open_end(Role.HOST, SMALL)
        for piece in cut(b"".join(request(2 * n) for n in range(1, SMALL.max_calls + 2))):
            end.feed(piece)
        assert end.error is None
        assert len(end.events) == end.connection.inbound_open == SMALL.max_calls
        peer = open_end(Role.AGENT, SMALL)
        for _ in range(SMALL.max_calls):
            start(peer)
        peer.connection.peer = attrs.evolve(SMALL, max_calls=100)
        extra = start(peer)
        peer.feed(end.take_bytes())
        (event,) = peer.events
        assert event[0] is extra
        failure = failure_of(event)
        assert isinstance(failure, Overloaded)
        assert failure.retry_after_seconds == 0.1
        assert failure.delivered == "no"

    def test_too_many_bytes_in_calls_are_refused_as_overload(self) -> None:
        pair = small_pair()
        for _ in range(3):
            start(pair.host, LARGER)  # 256 KiB each, of 512
        pair.pump()
        assert len(pair.agent.take_events()) == 2
        (event,) = pair.host.take_events()
        assert isinstance(failure_of(event), Overloaded)
        assert pair.agent.connection.request_bytes == 512 * KIB

    def test_answers_that_the_peer_has_not_read_count_as_well(self) -> None:
        pair = small_pair()
        (_, first), (_, second) = call_between(pair), call_between(pair)
        for inbound in (first, second):
            pair.agent.connection.respond(inbound, LARGER, 0, 0)
        pair.agent.feed(request(5, b"x"))
        assert pair.agent.events == []
        assert pair.agent.take_bytes()[10] == FrameType.ERROR

    def test_the_size_of_a_call_is_free_again_when_it_has_ended(self) -> None:
        pair = small_pair()
        for _ in range(5):
            _, inbound = call_between(pair, payload=LARGER)
            pair.agent.connection.respond(inbound, b"", 0, 0)
            pair.pump()
        nothing_is_left(*pair.ends)

    @pytest.mark.parametrize("call_id", [0, 1, 3, 2**64 - 1])
    def test_a_call_has_an_id_of_its_callers_kind(self, call_id: int, cut: Cut) -> None:
        end = open_end(Role.HOST)
        for piece in cut(request(call_id)):
            end.feed(piece)
        assert str(end.error) == f"call id {call_id} is not valid for a new call"

    def test_an_id_is_in_use_once(self, cut: Cut) -> None:
        end = open_end(Role.HOST)
        for piece in cut(request(2) * 2):
            end.feed(piece)
        assert str(end.error) == "call id 2 is not valid for a new call"

    def test_the_id_of_messages_begins_no_call(self) -> None:
        end = open_end(Role.AGENT)
        end.feed(request(2**64 - 1))
        assert end.error is not None

    def test_ids_may_leave_gaps_and_come_in_any_order(self, cut: Cut) -> None:
        end = open_end(Role.HOST)
        for piece in cut(request(20) + request(2) + request(8)):
            end.feed(piece)
        assert [call_of(event).id for event in end.events] == [20, 2, 8]
        assert end.connection.last_peer_call == 20


class TestOurOwnMistakes:
    """Requests that the protocol does not allow raise, and change nothing."""

    def test_a_payload_larger_than_the_peer_takes(self) -> None:
        pair = small_pair()
        _, inbound = call_between(pair, BOTH_STREAMS)
        call = CallerSide()
        host, agent = pair.host.connection, pair.agent.connection
        acts: list[Callable[[], object]] = [
            lambda: host.start_call(call, 1, 1, 0, LARGER + b"x"),
            lambda: agent.respond(inbound, LARGER + b"x", 0, 0),
            lambda: agent.send_item(inbound, LARGER + b"x", 0),
        ]
        for act in acts:
            with pytest.raises(LocalProtocolError, match="bytes; the peer accepts at most 262144"):
                act()
        assert call.state is CallState.IDLE
        assert inbound.state is CallState.STREAMING
        assert not pair.host.outbox
        assert not pair.agent.outbox
        assert agent.windows.send.available == agent.windows.send.size
        agent.respond(inbound, b"", 0, 0)
        pair.pump()
        nothing_is_left(*pair.ends)

    def test_a_report_larger_than_a_frame(self) -> None:
        pair = small_pair()
        _, inbound = call_between(pair)
        agent = pair.agent.connection
        with pytest.raises(LocalProtocolError, match="the report has 32769 bytes"):
            agent.signal(inbound, bytes(SMALL.fragment_bytes + 1), 0, 0.0)
        agent.signal(inbound, bytes(SMALL.fragment_bytes), 0, 0.0)
        pair.pump()
        assert types(pair.host.events) == [FrameType.SIGNAL]

    def test_more_calls_than_the_peer_takes(self) -> None:
        pair = small_pair()
        for _ in range(SMALL.max_calls):
            start(pair.host)
        with pytest.raises(LocalProtocolError, match="8 calls are open"):
            start(pair.host)
        assert pair.host.connection.outbound_open == SMALL.max_calls
        assert start(pair.agent).id == 2  # the peer's calls have ids of their own

    @pytest.mark.parametrize("payload", [b"", LARGE])
    @pytest.mark.parametrize("value", [object(), 2**70, "x" * 70_000])
    def test_a_head_that_cannot_be_sent(self, payload: bytes, value: object) -> None:
        # The call was once counted for ever, and a large one failed when it was written.
        pair = small_pair()
        call = CallerSide()
        with pytest.raises(ValueError, match="the head"):
            start(pair.host, payload, head={"meta": value}, call=call)  # type: ignore[dict-item]  # that is the point
        assert call.state is CallState.IDLE
        nothing_is_left(pair.host)
        assert not pair.host.outbox
        with pytest.raises(ValueError, match="the head"):
            pair.host.connection.send_control(Kind.CLOSE, head={"reason": value})  # type: ignore[dict-item]  # that is the point
        assert pair.host.connection.state is ConnectionState.OPEN
        assert start(pair.host, call=call).id == 1

    def test_two_final_frames(self) -> None:
        pair = small_pair()
        _, inbound = call_between(pair)
        agent = pair.agent.connection
        agent.respond(inbound, b"", 0, 0)
        acts: list[Callable[[], None]] = [
            lambda: agent.respond(inbound, b"", 0, 0),
            lambda: agent.fail(inbound, FunctionRaised("no")),
        ]
        for act in acts:
            with pytest.raises(LocalProtocolError, match="was sent before"):
                act()
        assert agent.inbound_open == 0

    def test_a_view_that_is_not_contiguous(self) -> None:
        pair = small_pair()
        with pytest.raises(TypeError):
            start(pair.host, memoryview(bytes(100))[::2])
        nothing_is_left(pair.host)


class TestCancelling:
    """Calls that the caller cancels."""

    def test_an_unsent_call_is_over_at_once(self) -> None:
        pair = small_pair()
        call = start(pair.host)
        assert pair.host.connection.cancel(call)
        assert call.state is CallState.DONE
        assert not pair.host.outbox
        pair.pump()
        assert pair.agent.events == []
        nothing_is_left(*pair.ends)
        assert pair.host.connection.cancel(call)  # a second time: the call is still over

    def test_s8_a_sent_call_is_open_until_its_handler_has_ended(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair)
        host, agent = pair.host.connection, pair.agent.connection
        assert not host.cancel(call, 3)
        assert not host.cancel(call)  # two requests, one frame
        pair.pump(cut)
        (event,) = pair.agent.take_events()
        assert event[:4] == (inbound, FrameType.CANCEL, 0, 3)
        assert (host.outbound_open, agent.inbound_open) == (1, 1)
        agent.fail(inbound, CallCancelled("stopped"))
        pair.pump(cut)
        assert types(pair.host.take_events()) == [FrameType.ERROR]
        nothing_is_left(*pair.ends)

    @pytest.mark.parametrize("is_failure", [True, False])
    def test_it_may_cross_the_answer(self, is_failure: bool, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair)
        if is_failure:
            pair.agent.connection.fail(inbound, FunctionRaised("no"))
        else:
            pair.agent.connection.respond(inbound, b"late", 0, 0)
        pair.host.connection.cancel(call)
        pair.pump(cut)
        assert pair.agent.events == []
        assert [event[0] for event in pair.host.events] == [call]
        nothing_is_left(*pair.ends)

    @pytest.mark.parametrize("fragments", [1, 2, 3])
    def test_while_the_request_is_half_sent(self, fragments: int, cut: Cut) -> None:
        pair = small_pair()
        self.cancel_half_sent(pair, fragments, cut)

    def test_while_the_request_is_half_sent_however_often(self) -> None:
        # The callee once remembered each for ever, and closed the connection when they were too many.
        pair = small_pair()
        for n in range(3 * SMALL.max_calls):
            self.cancel_half_sent(pair, n % 3 + 1, uncut)

    def cancel_half_sent(self, pair: ConnectionPair, fragments: int, cut: Cut) -> None:
        call = start(pair.host, LARGE)
        for _ in range(fragments):
            pair.transmit(pair.host)
        assert not pair.host.connection.cancel(call)
        pair.pump(cut)
        (event,) = pair.host.take_events()
        assert event[0] is call
        failure = failure_of(event)
        assert isinstance(failure, CallCancelled)
        assert failure.delivered == "no"
        assert pair.agent.events == []
        nothing_is_left(*pair.ends)

    def test_while_the_request_waits_behind_others(self) -> None:
        pair = small_pair()
        first = start(pair.host, LARGER)
        pair.transmit(pair.host)
        second = start(pair.host, LARGE)
        assert pair.host.connection.cancel(second)
        pair.pump()
        assert [event[0].id for event in pair.agent.events if event[0]] == [first.id]
        assert pair.host.connection.outbound_open == 1

    @pytest.mark.parametrize("fragments", [0, 1, 2])
    def test_while_the_response_is_half_sent(self, fragments: int, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair)
        pair.agent.connection.respond(inbound, LARGE, 0, 0)
        for _ in range(fragments):
            pair.transmit(pair.agent)
        pair.host.receive_incoming()
        pair.host.connection.cancel(call)
        pair.pump(cut)
        (event,) = pair.host.take_events()
        assert event[0] is call
        failure = failure_of(event)
        assert isinstance(failure, CallCancelled)
        assert failure.delivered == "yes"
        nothing_is_left(*pair.ends)

    def test_it_may_cross_the_last_fragment_of_the_response(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair)
        pair.agent.connection.respond(inbound, LARGE, 0, 0)
        while pair.transmit(pair.agent):
            pass
        pair.host.connection.cancel(call)
        pair.pump(cut)
        assert types(pair.host.take_events()) == [FrameType.EXECUTION_RESPONSE]
        nothing_is_left(*pair.ends)

    @pytest.mark.parametrize("payload", [b"", LARGE, LARGER + b"too large, and not sent"])
    def test_a_result_that_nobody_waits_for_is_not_sent(self, payload: bytes, cut: Cut) -> None:
        # A large one once met the half-sent item in front of it, and the caller closed the connection.
        pair = small_pair()
        call, inbound = call_between(pair, BOTH_STREAMS)
        pair.agent.connection.send_item(inbound, LARGE, 0)
        pair.transmit(pair.agent)
        pair.host.connection.cancel(call)
        pair.transmit(pair.host)
        pair.agent.receive_incoming()
        pair.agent.connection.respond(inbound, payload, CBOR, 5)
        pair.pump(cut)
        assert plain(pair.host.take_events()) == [
            (1, FrameType.EXECUTION_RESPONSE, CBOR, 5, 0, None, b"")
        ]
        nothing_is_left(*pair.ends)

    def test_a_sent_call_is_cancelled_even_if_a_large_item_of_it_waits(self, cut: Cut) -> None:
        # It was once taken for a call that had never been sent, and its handler ran for ever.
        pair = small_pair()
        call, inbound = call_between(pair, BOTH_STREAMS)
        pair.host.connection.send_item(call, LARGE, 0)
        assert not pair.host.outbox.is_unsent(call.id, call.sequence)
        assert not pair.host.connection.cancel(call)
        pair.pump(cut)
        assert types(pair.agent.take_events()) == [FrameType.CANCEL]
        pair.agent.connection.fail(inbound, CallCancelled("stopped"))
        pair.pump(cut)
        nothing_is_left(*pair.ends)

    def test_a_large_item_that_was_half_sent_takes_no_room_afterwards(self, cut: Cut) -> None:
        pair = small_pair()
        for _ in range(5):  # each of them would fill the peer's assembly buffer
            call, inbound = call_between(pair, BOTH_STREAMS)
            pair.host.connection.send_item(call, LARGE, 0)
            pair.transmit(pair.host)
            pair.host.connection.cancel(call)
            pair.pump(cut)
            assert pair.agent.receiver.buffered_bytes == 0
            pair.agent.connection.fail(inbound, CallCancelled("stopped"))
            pair.pump(cut)
            pair.agent.take_events()
        nothing_is_left(*pair.ends)

    def test_an_early_answer_stops_the_items_of_the_caller(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair, BOTH_STREAMS)
        pair.host.connection.send_item(call, LARGE, 0)
        pair.transmit(pair.host)
        pair.agent.connection.respond(inbound, b"enough", 0, 0)
        pair.pump(cut)
        # The credit of the half-sent item is returned, too.
        assert types(pair.host.take_events()) == [FrameType.EXECUTION_RESPONSE, FrameType.CREDIT]
        assert pair.agent.events == []
        nothing_is_left(*pair.ends)

    @pytest.mark.parametrize("call_id", [0, 2, 4, 2**64 - 1])
    def test_a_call_that_never_was_cannot_be_cancelled(self, call_id: int, cut: Cut) -> None:
        end = open_end(Role.HOST)
        for piece in cut(frame(FrameType.CANCEL, 0, call_id)):
            end.feed(piece)
        assert str(end.error) == f"CANCEL of call {call_id}, which the peer did not make"

    def test_the_callee_cannot_cancel(self) -> None:
        # It once made the caller forget a half-received answer, and wait for ever.
        pair = small_pair()
        call, inbound = call_between(pair)
        pair.agent.connection.respond(inbound, LARGE, 0, 0)
        pair.transmit(pair.agent)
        pair.host.receive_incoming()
        pair.host.feed(frame(FrameType.CANCEL, 0, call.id))
        assert str(pair.host.error) == "CANCEL of call 1, which the peer did not make"


class Handover:
    """A sink that keeps frames unchanged."""

    def __init__(self) -> None:
        self.pushed = 0
        self.pending_bytes = 0
        self.frames: list[Frame] = []

    def push(
        self,
        type_: int,
        flags: int,
        call_id: int,
        a: int,
        b: int,
        payload: Payload = b"",
        head: Head | None = None,
    ) -> None:
        self.pushed += 1
        self.frames.append((type_, flags, call_id, a, b, head, bytes(payload)))

    def push_item(self, flags: int, call_id: int, item: Payload) -> None:
        self.push(FrameType.STREAM_DATA, flags, call_id, 1, 0, item)

    def push_latest(
        self,
        type_: int,
        call_id: int,
        a: int,
        b: int,
        payload: Payload = b"",
        head: Head | None = None,
    ) -> None:
        self.push(type_, 0, call_id, a, b, payload, head)

    def push_credit(self, call_id: int, credit: int) -> None:
        self.push(FrameType.CREDIT, 0, call_id, credit, 0)

    def may_lend(self, segment: Segment) -> bool:
        return False

    def released(self, number: int) -> bool:
        return False

    def retract(self, call_id: int, sequence: int) -> bool:
        return False

    def abandon(self, call_id: int) -> bool:
        return False

    def is_unsent(self, call_id: int, sequence: int) -> bool:
        return False


class TestParts:
    """Fragments, and the frames in front of them."""

    def test_a_large_item_may_follow_its_request_at_once(self, cut: Cut) -> None:
        # The item's first fragment was once judged before the request in front of it was applied.
        pair = small_pair()
        call = start(pair.host, flags=BOTH_STREAMS)
        pair.host.connection.send_item(call, LARGE, 0)
        pair.pump(cut)
        request_event, item_event = pair.agent.take_events()
        assert request_event[0] is item_event[0]
        assert item_event[6] == [LARGE]

    def test_a_large_payload_may_follow_one_that_was_given_up(self, cut: Cut) -> None:
        pair = small_pair()
        first = start(pair.host, bytes(SMALL.assembly_bytes))
        pair.transmit(pair.host)
        pair.agent.receive_incoming()
        second = start(pair.host, bytes(SMALL.assembly_bytes))
        pair.host.connection.cancel(first)
        pair.pump(cut)
        (event,) = pair.agent.events
        assert call_of(event).id == second.id

    @pytest.mark.parametrize("fragments", [2, 3, 4])
    def test_a_request_may_be_failed_while_it_comes_in(self, fragments: int, cut: Cut) -> None:
        pair = small_pair()
        self.fail_half_received(pair, fragments, cut)

    def test_requests_may_be_failed_while_they_come_in_however_often(self) -> None:
        # Calls whose last fragment had begun were once remembered for ever.
        pair = small_pair()
        for n in range(3 * SMALL.max_calls):
            self.fail_half_received(pair, n % 3 + 2, uncut)

    def fail_half_received(self, pair: ConnectionPair, fragments: int, cut: Cut) -> None:
        call = start(pair.host, LARGE)
        for _ in range(fragments):
            pair.transmit(pair.host)
        # All but the last byte: in the middle of a fragment, with four in the middle of the last.
        pair.agent.receive_incoming(len(pair.agent.incoming) - 1)
        (inbound,) = pair.agent.connection.incomplete.values()
        pair.agent.connection.fail(inbound, Rejected("time is up"))
        pair.pump(cut)
        assert [event[0] for event in pair.host.take_events()] == [call]
        assert pair.agent.events == []
        nothing_is_left(*pair.ends)

    @pytest.mark.parametrize(
        "type_",
        [
            FrameType.ERROR,
            FrameType.SIGNAL,
            FrameType.CANCEL,
            FrameType.CREDIT,
            FrameType.CLOSE,
            0x55,
        ],
    )
    def test_only_requests_responses_and_items_come_in_parts(self, type_: int, cut: Cut) -> None:
        end = open_end(Role.HOST, SMALL)
        start(end, flags=BOTH_STREAMS)
        for piece in cut(first_fragment(type_, 1, 100, b"x")):
            end.feed(piece)
        assert str(end.error) == f"frame {type_:#x} must not be fragmented"

    def test_a_response_in_parts_needs_a_call(self, cut: Cut) -> None:
        end = open_end(Role.HOST, SMALL)
        for piece in cut(first_fragment(FrameType.EXECUTION_RESPONSE, 1, 100, b"x")):
            end.feed(piece)
        assert str(end.error) == "a payload for call 1, which is not open"

    def test_a_response_in_parts_must_be_allowed(self, cut: Cut) -> None:
        end = open_end(Role.HOST, SMALL)
        end.feed(request(2))
        for piece in cut(first_fragment(FrameType.EXECUTION_RESPONSE, 2, 100, b"x")):
            end.feed(piece)
        assert str(end.error) == "frame 0x91 while call 2 is RUNNING"

    def test_a_request_does_not_overtake_its_own_parts(self, cut: Cut) -> None:
        end = open_end(Role.HOST, SMALL)
        data = first_fragment(FrameType.EXECUTION_REQUEST, 2, 100, b"x") + request(2, b"y" * 1000)
        for piece in cut(data):
            end.feed(piece)
        assert str(end.error) == "a frame arrived before the payload of call 2 was complete"
        assert end.events == []

    def test_an_answer_to_a_half_sent_request_ends_it(self, cut: Cut) -> None:
        pair = small_pair()
        call = start(pair.host, LARGE)
        pair.transmit(pair.host)
        pair.host.feed(frame(FrameType.ERROR, 0, call.id, 1))
        assert pair.host.take_bytes() == frame(FrameType.CANCEL, 0, call.id)
        assert not pair.host.outbox

    def test_parts_behind_an_error_are_not_looked_at(self, cut: Cut) -> None:
        end = open_end(Role.HOST, SMALL)
        data = frame(FrameType.EXECUTION_RESPONSE, 0, 5) + first_fragment(
            FrameType.EXECUTION_REQUEST, 2, 100, b"x"
        )
        for piece in cut(data):
            end.feed(piece)
        assert str(end.error) == "a response to call 5, which is not open"
        assert end.connection.incomplete == {}

    def test_without_a_receiver_nothing_comes_in_parts(self) -> None:
        """Two ends in one process have no receiver, because frames are passed whole."""

        sinks = Handover(), Handover()
        host = Connection.opened(Role.HOST, SMALL, sinks[0])
        agent = Connection.opened(Role.AGENT, SMALL, sinks[1])
        call = CallerSide()
        host.start_call(call, 1, NO_DEADLINE, BOTH_STREAMS, LARGE)
        host.send_item(call, LARGE, 0)
        host.cancel(call)
        host.send_item(host.messages, LARGE, 0)
        events = list(agent.receive(sinks[0].frames, 0.0))
        inbound = events[0][0]
        assert isinstance(inbound, CalleeSide)
        assert types(events) == [
            FrameType.EXECUTION_REQUEST,
            FrameType.STREAM_DATA,
            FrameType.CANCEL,
            FrameType.STREAM_DATA,
        ]
        agent.fail(inbound, CallCancelled("x"))
        agent.consumed(agent.messages, len(LARGE) + 64)
        agent.send_control(Kind.HEALTH_CHECK)
        ended, *credits_, beat = host.receive(sinks[1].frames, 0.0)
        assert ended[0] is call
        assert types(credits_) == [FrameType.CREDIT] * 2
        assert beat[1] == FrameType.HEALTH_CHECK
        assert host.error is agent.error is None

    def test_who_gets_frames_whole_reads_them(self) -> None:
        sinks = Handover(), Handover()
        host = Connection.opened(Role.HOST, SMALL, sinks[0])
        agent = Connection.opened(Role.AGENT, SMALL, sinks[1])
        for _ in range(3 * SMALL.max_calls):
            host.start_call(CallerSide(), 1, NO_DEADLINE, 0, b"")
            ((inbound, *_),) = agent.receive(sinks[0].frames, 0.0)
            assert isinstance(inbound, CalleeSide)
            agent.respond(inbound, b"", 0, 0)
            list(host.receive(sinks[1].frames, 0.0))
            sinks[0].frames.clear()
            sinks[1].frames.clear()
        assert host.error is agent.error is None


class TestProgress:
    """Progress reports of a running handler."""

    def test_the_newest_report_arrives(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair)
        for text in (b"10 %", b"20 %", b"30 %"):
            pair.agent.connection.signal(inbound, text, CBOR, 0.0)
        pair.pump(cut)
        assert pair.host.take_events() == [(call, FrameType.SIGNAL, CBOR, 0, 0, None, b"30 %")]

    def test_none_is_taken_from_a_call_that_is_over_or_cancelled(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair)
        pair.agent.connection.signal(inbound, b"half", 0, 0.0)
        pair.host.connection.cancel(call)
        pair.pump(cut)
        assert pair.host.events == []
        with pytest.raises(LocalProtocolError, match="of a call that is CANCELLING"):
            pair.agent.connection.signal(inbound, b"more", 0, 0.0)

    def test_what_is_held_back_is_the_newest_of_each_call_and_comes_when_it_may(self) -> None:
        pair = small_pair()
        agent = pair.agent.connection
        calls = [call_between(pair)[1] for _ in range(3)]
        sent = 0
        while agent.signal(calls[0], b"0", 0, 1.0):
            sent += 1
        assert sent == SIGNAL_BURST
        for call in reversed(calls):
            assert not agent.signal(call, b"older", 0, 1.0)
            assert not agent.signal(call, b"newest %d" % call.id, 0, 1.0)
        pair.pump()
        pair.host.take_events()
        assert not agent.send_signals(1.0)
        assert not agent.send_signals(1.0 + 2 / SIGNALS_PER_SECOND)
        pair.pump()
        assert [event[6] for event in pair.host.take_events()] == [b"newest 1", b"newest 5"]
        assert agent.send_signals(2.0)
        pair.pump()
        assert [event[6] for event in pair.host.take_events()] == [b"newest 3"]
        assert agent.signal(calls[0], b"at once again", 0, 2.0)

    def test_the_end_of_a_call_sends_what_was_held_back(self) -> None:
        pair = small_pair()
        agent = pair.agent.connection
        calls = [call_between(pair) for _ in range(4)]
        while agent.signal(calls[0][1], b"", 0, 1.0):
            pass
        for (_, inbound), report in zip(calls, (b"100 %", b"100 %", bytes(4096), b""), strict=True):
            agent.signal(inbound, report, 0, 1.0)
        pair.host.connection.cancel(calls[1][0])
        pair.pump()
        pair.host.take_events()
        for _, inbound in calls[:3]:
            agent.respond(inbound, b"done", 0, 0)
        pair.pump()
        events = pair.host.take_events()
        assert [(event[0], event[6]) for event in events if event[1] == FrameType.SIGNAL] == [
            (calls[0][0], b"100 %")
        ]
        assert types(events).index(FrameType.SIGNAL) == 0
        pair.host.connection.cancel(calls[3][0])
        pair.pump()
        assert agent.send_signals(9.0)  # no caller waits for the last one
        pair.pump()
        assert pair.host.take_events() == []

    def test_nothing_is_held_back_for_a_connection_that_is_lost(self) -> None:
        pair = small_pair()
        _, inbound = call_between(pair)
        while pair.agent.connection.signal(inbound, b"", 0, 1.0):
            pass
        pair.agent.connection.lose()
        assert pair.agent.connection.send_signals(9.0)

    def test_reports_without_a_call_are_left_to_the_future(self, cut: Cut) -> None:
        pair = small_pair()
        for piece in cut(frame(FrameType.SIGNAL, 0, 0, 1, 2, b"?")):
            pair.host.feed(piece)
        assert pair.host.error is None
        assert pair.host.events == []
        assert pair.host.connection.unknown_frames == 1


class TestControl:
    """Frames that concern the connection."""

    def test_heartbeats_are_answered(self, cut: Cut) -> None:
        pair = small_pair()
        call_between(pair)
        pair.host.connection.send_control(Kind.HEALTH_CHECK, a=77)
        pair.pump(cut)
        assert plain(pair.agent.take_events()) == [
            (None, FrameType.HEALTH_CHECK, 0, 77, 0, None, b"")
        ]
        assert plain(pair.host.take_events()) == [
            (None, FrameType.HEALTH_RESPONSE, 0, 77, 1, None, b"")
        ]

    def test_functions_are_announced(self, cut: Cut) -> None:
        pair = small_pair()
        head: Head = {"functions": ["f", "g"], "last": True}
        pair.agent.connection.send_control(Kind.ANNOUNCE, head=head)
        pair.pump(cut)
        assert plain(pair.host.take_events()) == [(None, FrameType.ANNOUNCE, 0, 0, 0, head, b"")]

    @pytest.mark.parametrize(
        "type_",
        [FrameType.ANNOUNCE, FrameType.CLOSE, FrameType.HEALTH_CHECK, FrameType.HEALTH_RESPONSE],
    )
    @pytest.mark.parametrize("call_id", [1, 2, 999])
    def test_they_name_no_call(self, type_: int, call_id: int, cut: Cut) -> None:
        # They were once taken for reports of that call.
        end = open_end(Role.HOST)
        start(end)
        for piece in cut(frame(type_, 0, call_id)):
            end.feed(piece)
        assert str(end.error) == f"frame {type_:#x} must have call id 0, not {call_id}"
        assert end.connection.state is ConnectionState.OPEN

    @pytest.mark.parametrize(
        "type_",
        [
            FrameType.EXECUTION_REQUEST, FrameType.EXECUTION_RESPONSE, FrameType.ERROR,
            FrameType.CANCEL, FrameType.STREAM_DATA,
        ],
    )  # fmt: skip
    def test_call_frames_name_one(self, type_: int, cut: Cut) -> None:
        # An item without a call was once reported as an event of another form.
        end = open_end(Role.HOST)
        for piece in cut(frame(type_, 0, 0, 1, 0, b"x")):
            end.feed(piece)
        assert end.error is not None
        assert end.events == []


class TestLeaving:
    """CLOSE, and frames that are allowed after it."""

    def test_running_calls_may_finish(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair, BOTH_STREAMS)
        pair.host.connection.send_control(Kind.CLOSE, head={"reason": "drain", "last": 0})
        assert pair.host.connection.state is not ConnectionState.OPEN
        pair.pump(cut)
        assert pair.agent.connection.state is not ConnectionState.OPEN
        assert types(pair.agent.take_events()) == [FrameType.CLOSE]
        pair.host.connection.send_item(call, b"item", 0)
        pair.agent.connection.respond(inbound, b"done", 0, 0)
        pair.pump(cut)
        assert types(pair.host.take_events()) == [FrameType.EXECUTION_RESPONSE]
        nothing_is_left(*pair.ends)

    def test_neither_side_starts_calls(self) -> None:
        pair = small_pair()
        pair.host.connection.send_control(Kind.CLOSE)
        pair.pump()
        for end in pair.ends:
            with pytest.raises(ChannelClosed):
                start(end)

    @pytest.mark.parametrize("payload", [b"", LARGE])
    def test_a_call_that_crosses_it_is_rejected(self, payload: bytes, cut: Cut) -> None:
        pair = small_pair()
        call = start(pair.agent, payload)
        pair.host.connection.send_control(Kind.CLOSE)
        pair.pump(cut)
        assert types(pair.host.take_events()) == []
        close, error = sorted(pair.agent.take_events(), key=lambda event: event[1])
        assert close[1] == FrameType.CLOSE
        assert error[0] is call
        assert type(failure_of(error)) is Rejected
        assert failure_of(error).delivered == "no"
        nothing_is_left(*pair.ends)

    def test_a_peer_that_leaves_may_still_have_calls_on_their_way(self, cut: Cut) -> None:
        pair = small_pair()
        start(pair.agent)
        pair.agent.connection.send_control(Kind.CLOSE)
        pair.pump(cut)
        assert types(pair.host.take_events()) == [FrameType.EXECUTION_REQUEST, FrameType.CLOSE]

    def test_both_may_leave_at_once(self, cut: Cut) -> None:
        pair = small_pair()
        for end in pair.ends:
            end.connection.send_control(Kind.CLOSE)
        pair.pump(cut)
        assert [end.connection.state for end in pair.ends] == [ConnectionState.CLOSING] * 2


class TestLosing:
    """The transport is lost."""

    def test_every_call_is_over(self) -> None:
        pair = small_pair()
        call, inbound = call_between(pair, BOTH_STREAMS)
        start(pair.host, LARGE)
        pair.transmit(pair.host)
        pair.agent.receive_incoming()
        for end in pair.ends:
            end.connection.lose()
            assert end.connection.calls == {}
            assert end.connection.incomplete == {}
            assert (end.connection.inbound_open, end.connection.outbound_open) == (0, 0)
        assert call.state is inbound.state is CallState.DONE
        assert pair.host.connection.cancel(call)
        with pytest.raises(LocalProtocolError, match="that is DONE"):
            pair.host.connection.send_item(pair.host.connection.messages, b"", 0)

    def test_items_can_still_be_taken(self) -> None:
        pair = small_pair()
        pair.host.connection.send_item(pair.host.connection.messages, LARGE, 0)
        pair.pump()
        agent = pair.agent.connection
        agent.lose()
        agent.consumed(agent.messages, len(LARGE) + 64)
        assert not pair.agent.outbox
