"""Stream items and messages over a connection: order, batches, and the return of credit."""

from __future__ import annotations

import attrs
import pytest

from spear import LocalProtocolError, RemoteProtocolError, WireLimits
from spear._limits import KIB, MIB
from spear.testing import ConnectionPair, Cut, WireEnd
from spear.wire import (
    BATCH,
    CBOR,
    ITEM_OVERHEAD_BYTES,
    LAST,
    MESSAGES_ID,
    REPLY_STREAM,
    STREAM,
    Call,
    CallState,
    Connection,
    FrameType,
    Role,
)
from spear.wire._frames import pack_items

from .helpers import (
    BOTH_STREAMS,
    SMALL,
    call_between,
    first_fragment,
    frame,
    further_fragment,
    in_parts,
    open_end,
    request,
    start,
    types,
)

ITEM = FrameType.STREAM_DATA
LARGE = b"L" * 100 * KIB
WINDOW = SMALL.stream_window_bytes
CONNECTION_WINDOW = SMALL.connection_window_bytes


def small_pair() -> ConnectionPair:
    return ConnectionPair(host_limits=SMALL, agent_limits=SMALL)


def cost(*items: bytes) -> int:
    return sum(len(item) + ITEM_OVERHEAD_BYTES for item in items)


def items_of(end: WireEnd) -> list[bytes]:
    """Return all items that have arrived, in order."""
    return [item for event in end.events if event[1] == ITEM for item in event[6]]  # type: ignore[misc,union-attr]  # the payload of stream data is a list


def item(call_id: int, payload: bytes = b"", flags: int = 0, count: int = 1) -> bytes:
    return frame(ITEM, flags, call_id, count, 0, payload)


def credit_is_back(*connections: Connection) -> None:
    """Assert that no credit is missing: what the receiver has not returned, it will return."""
    for connection in connections:
        receive = connection.windows.receive
        assert receive.available + receive.consumed == receive.size


class TestStreams:
    """Items of a call."""

    def test_they_go_both_ways_and_keep_their_order(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair, BOTH_STREAMS)
        items = [b"a", b"", b"b" * 2000, b"c" * 40 * KIB]
        for each in items:
            pair.host.connection.send_item(call, each, CBOR)
            pair.agent.connection.send_item(inbound, each, 0)
        pair.pump(cut)
        assert items_of(pair.agent) == items_of(pair.host) == items
        assert {event[2] & CBOR for event in pair.agent.events} == {CBOR}
        assert {event[0] for event in pair.agent.events} == {inbound}

    def test_the_caller_says_which_item_is_its_last(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair, STREAM)
        pair.host.connection.send_item(call, b"first", 0)
        pair.host.connection.send_item(call, b"last", LAST)
        pair.pump(cut)
        assert items_of(pair.agent) == [b"first", b"last"]
        assert pair.agent.events[-1][2] & LAST
        assert call.state is inbound.state is CallState.RUNNING
        with pytest.raises(LocalProtocolError, match="that is RUNNING"):
            pair.host.connection.send_item(call, b"more", 0)

    def test_or_that_there_is_none(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair, STREAM)
        pair.host.connection.end_items(call)
        pair.pump(cut)
        assert [event[1:4] for event in pair.agent.events] == [(ITEM, LAST, 0)]
        assert items_of(pair.agent) == []
        assert inbound.state is CallState.RUNNING
        with pytest.raises(LocalProtocolError, match="cannot end the items"):
            pair.host.connection.end_items(call)

    def test_a_call_without_streams_has_no_items(self) -> None:
        pair = small_pair()
        call, inbound = call_between(pair)
        for end, side in ((pair.host, call), (pair.agent, inbound)):
            assert not end.connection.may_send_item(side)
            with pytest.raises(LocalProtocolError, match="cannot send an item"):
                end.connection.send_item(side, b"x", 0)

    def test_nor_are_they_taken(self, cut: Cut) -> None:
        end = open_end(Role.HOST, SMALL)
        call = start(end)
        for piece in cut(item(call.id)):
            end.feed(piece)
        assert str(end.error) == "an item without credit"

    def test_items_of_a_cancelled_call_are_thrown_away_and_paid_back(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair, REPLY_STREAM)
        sent = (b"x" * 30 * KIB, b"y" * 34 * KIB)
        for each in sent:
            pair.agent.connection.send_item(inbound, each, 0)
        pair.host.connection.cancel(call)
        pair.pump(cut)
        assert items_of(pair.host) == []
        credit_is_back(pair.host.connection)
        assert pair.agent.connection.windows.send.available == CONNECTION_WINDOW

    def test_items_of_a_call_that_is_over_are_paid_back(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair, STREAM)
        pair.host.connection.send_item(call, b"x" * 30 * KIB, 0)
        pair.host.connection.send_item(call, LARGE, 0)
        pair.agent.connection.respond(inbound, b"", 0, 0)
        while pair.transmit(pair.host):
            pass
        pair.pump(cut)
        assert items_of(pair.agent) == []
        credit_is_back(pair.agent.connection)
        assert pair.host.connection.windows.send.available == CONNECTION_WINDOW


class TestMessages:
    """Messages without an answer: a stream that is always open."""

    @pytest.mark.parametrize("sender", ["host", "agent"])
    def test_they_arrive_in_order(self, sender: str, cut: Cut) -> None:
        pair = small_pair()
        ours = pair.host if sender == "host" else pair.agent
        theirs = pair.peer_of(ours)
        items = [b"a", b"b" * 20 * KIB, LARGE]
        for each in items[:2]:
            ours.connection.send_item(ours.connection.messages, each, 0)
        ours.connection.send_item(ours.connection.messages, items[2], 0)
        pair.pump(cut)
        assert items_of(theirs) == items
        assert {event[0] for event in theirs.events} == {theirs.connection.messages}

    @pytest.mark.parametrize(
        "data",
        [
            item(MESSAGES_ID, b"x", LAST),
            frame(FrameType.EXECUTION_RESPONSE, 0, MESSAGES_ID),
            frame(FrameType.ERROR, 0, MESSAGES_ID, 1),
            frame(FrameType.SIGNAL, 0, MESSAGES_ID),
            frame(FrameType.CANCEL, 0, MESSAGES_ID),
            request(MESSAGES_ID),
            first_fragment(FrameType.EXECUTION_RESPONSE, MESSAGES_ID, 100, b"x"),
        ],
    )
    @pytest.mark.parametrize("role", [Role.HOST, Role.AGENT])
    def test_they_never_end(self, data: bytes, role: Role, cut: Cut) -> None:
        end = open_end(role, SMALL)
        for piece in cut(data):
            end.feed(piece)
        assert isinstance(end.error, RemoteProtocolError)
        assert end.connection.messages.state is CallState.STREAMING


class TestCredit:
    """Credit keeps a sender from flooding a receiver."""

    def test_an_item_may_begin_while_there_is_any_left(self) -> None:
        pair = small_pair()
        call, _ = call_between(pair, BOTH_STREAMS)
        host = pair.host.connection
        host.send_item(call, bytes(WINDOW - ITEM_OVERHEAD_BYTES - 1), 0)
        assert host.may_send_item(call)
        host.send_item(call, LARGE, 0)
        assert not host.may_send_item(call)
        pair.pump()
        assert len(items_of(pair.agent)) == 2

    def test_it_comes_back_as_items_are_taken(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair, BOTH_STREAMS)
        host, agent = pair.host.connection, pair.agent.connection
        host.send_item(call, bytes(WINDOW), 0)
        pair.pump(cut)
        assert not host.may_send_item(call)
        agent.consumed(inbound, WINDOW // 2 - 1)
        pair.pump(cut)
        assert pair.host.events == []  # credit is returned in portions
        agent.consumed(inbound, cost(bytes(WINDOW)) - WINDOW // 2 + 1)
        pair.pump(cut)
        assert types(pair.host.take_events()) == [FrameType.CREDIT] * 2
        assert host.may_send_item(call)
        assert host.windows.send.available == CONNECTION_WINDOW

    def test_all_streams_share_what_the_connection_has(self) -> None:
        pair = small_pair()
        calls = [call_between(pair, STREAM) for _ in range(3)]
        host = pair.host.connection
        for call, _ in calls[:2]:
            host.send_item(call, bytes(WINDOW), 0)
        assert not host.may_send_item(calls[2][0])
        assert not host.may_send_item(host.messages)
        pair.pump()
        pair.agent.connection.consumed(calls[0][1], cost(bytes(WINDOW)))
        pair.pump()
        assert host.may_send_item(calls[2][0])

    def test_the_peers_window_counts_not_ours(self) -> None:
        pair = ConnectionPair(host_limits=SMALL, agent_limits=WireLimits(stream_window_bytes=1000))
        call, _ = call_between(pair, STREAM)
        assert call.windows is not None
        assert call.windows.send.size == 1000
        assert call.windows.receive.size == WINDOW
        assert pair.host.connection.windows.send.size == WireLimits().connection_window_bytes

    def test_s9_more_than_was_lent_is_refused(self, cut: Cut) -> None:
        end = open_end(Role.HOST, SMALL)
        call = start(end, flags=BOTH_STREAMS)
        for piece in cut(item(call.id, bytes(30 * KIB)) * 3 + item(call.id)):
            end.feed(piece)
        assert str(end.error) == "an item without credit"
        assert len(items_of(end)) == 3

    def test_s9_more_than_was_lent_to_all_is_refused(self, cut: Cut) -> None:
        limits = attrs.evolve(SMALL, max_message_bytes=40 * KIB)
        end = open_end(Role.HOST, limits)
        calls = [start(end, flags=BOTH_STREAMS).id for _ in range(8)]
        data = b"".join(item(call_id, bytes(32 * KIB)) * 2 for call_id in calls)
        for piece in cut(data):
            end.feed(piece)
        assert str(end.error) == "an item without credit"
        unread = cost(*items_of(end))
        assert unread < CONNECTION_WINDOW + limits.max_message_bytes + ITEM_OVERHEAD_BYTES

    def test_s9_a_large_one_is_refused_with_its_first_fragment(self, cut: Cut) -> None:
        end = open_end(Role.HOST, SMALL)
        call = start(end, flags=BOTH_STREAMS)
        data = item(call.id, bytes(32 * KIB)) * 2 + first_fragment(ITEM, call.id, 2000, b"x")
        for piece in cut(data):
            end.feed(piece)
        assert str(end.error) == "an item without credit"
        assert end.receiver.assembling_bytes == 0

    def test_items_of_different_streams_may_overtake_each_other(self, cut: Cut) -> None:
        # B's large item is complete before A's, and A's small one waits behind A's large one. In the
        # order of arrival the large items overdraw the connection's window, although every item had
        # credit in the order of sending.
        limits = WireLimits(
            fragment_bytes=32 * KIB, stream_window_bytes=MIB, connection_window_bytes=128 * KIB
        )
        pair = ConnectionPair(host_limits=limits, agent_limits=limits)
        (a, _), (b, _) = call_between(pair, STREAM), call_between(pair, STREAM)
        host = pair.host.connection
        host.send_item(a, bytes(80 * KIB), 0)
        host.send_item(a, b"small", 0)
        host.send_item(b, bytes(60 * KIB), 0)
        pair.pump(cut)
        assert [len(each) for each in items_of(pair.agent)] == [60 * KIB, 80 * KIB, 5]

    @pytest.mark.parametrize("credit", [1, 2**32 - 1])
    def test_s9_more_credit_than_was_spent_is_refused(self, credit: int, cut: Cut) -> None:
        for call_id in (0, 1, MESSAGES_ID):
            end = open_end(Role.HOST, SMALL)
            start(end, flags=BOTH_STREAMS)
            for piece in cut(frame(FrameType.CREDIT, 0, call_id, credit)):
                end.feed(piece)
            assert str(end.error) == f"more credit than was spent (call {call_id})"

    def test_credit_for_a_call_without_streams_is_refused(self, cut: Cut) -> None:
        end = open_end(Role.HOST, SMALL)
        start(end)
        for piece in cut(frame(FrameType.CREDIT, 0, 1, 1)):
            end.feed(piece)
        assert str(end.error) == "more credit than was spent (call 1)"

    def test_credit_for_a_call_that_is_over_is_late(self, cut: Cut) -> None:
        pair = small_pair()
        call, inbound = call_between(pair, STREAM)
        pair.host.connection.send_item(call, bytes(WINDOW), 0)
        pair.pump(cut)
        pair.agent.connection.consumed(inbound, cost(bytes(WINDOW)))
        pair.agent.connection.respond(inbound, b"", 0, 0)
        pair.host.feed(frame(FrameType.EXECUTION_RESPONSE, 0, call.id))
        pair.host.take_events()
        for piece in cut(pair.agent.take_bytes().partition(frame(0x91, 0, call.id))[0]):
            pair.host.feed(piece)
        assert pair.host.error is None
        assert [event[0] for event in pair.host.events] == [None]  # only the connection's


class TestGivenUp:
    """Credit of items that never arrive in full. A leak here once ended all streams of a connection."""

    @pytest.mark.parametrize("begun", [0, 1, 2])
    @pytest.mark.parametrize("sender", ["caller", "callee"])
    def test_it_comes_back_when_the_call_is_cancelled(
        self, sender: str, begun: int, cut: Cut
    ) -> None:
        pair = small_pair()
        host, agent = pair.host.connection, pair.agent.connection
        large = bytes(66 * KIB)
        for _ in range(3):  # more than the connection's window, if it were lost
            call, inbound = call_between(pair, BOTH_STREAMS)
            side: Call = call if sender == "caller" else inbound
            end = pair.host if sender == "caller" else pair.agent
            end.connection.send_item(side, b"s", 0)
            end.connection.send_item(side, large, 0)
            for _ in range(begun):
                pair.transmit(end)
            host.cancel(call)
            pair.pump(cut)
            agent.respond(inbound, b"", 0, 0)
            pair.pump(cut)
            for each in pair.ends:
                for event in each.take_events():
                    if event[1] == ITEM:
                        each.connection.consumed(inbound, cost(b"s"))
        credit_is_back(host, agent)
        pair.pump()
        for window in (host.windows, agent.windows):
            assert window.send.size - window.send.available < CONNECTION_WINDOW // 2

    def test_whoever_waits_for_it_is_told(self, cut: Cut) -> None:
        pair = small_pair()
        (call, _), (_, inbound) = call_between(pair, STREAM), call_between(pair)
        host = pair.host.connection
        host.send_item(call, LARGE, 0)
        host.send_item(host.messages, bytes(30 * KIB), 0)
        assert not host.may_send_item(host.messages)
        host.cancel(call)
        assert host.may_send_item(host.messages)
        pair.agent.connection.respond(inbound, b"", 0, 0)
        pair.pump(cut)
        refund = (None, FrameType.CREDIT, 0, cost(LARGE), 0, None, b"")
        assert refund in pair.host.take_events()
        pair.agent.connection.consumed(pair.agent.connection.messages, cost(bytes(30 * KIB)))
        pair.pump(cut)
        assert refund not in pair.host.take_events()  # once only

    def test_a_retracted_call_gets_it_back_at_once(self) -> None:
        pair = small_pair()
        call = start(pair.host, LARGE, STREAM)
        pair.host.connection.send_item(call, b"waits behind its request", 0)
        assert pair.host.connection.cancel(call)
        assert pair.host.connection.windows.send.available == CONNECTION_WINDOW

    def test_a_large_item_for_a_call_that_is_over_is_paid_back_with_its_first_fragment(
        self, cut: Cut
    ) -> None:
        end = open_end(Role.HOST, SMALL)
        call = start(end, flags=BOTH_STREAMS)
        parts = in_parts(ITEM, call.id, LARGE, 1000, 32 * KIB, 32 * KIB)
        parts[0] = first_fragment(ITEM, call.id, len(LARGE), LARGE[:1000])
        for piece in cut(frame(FrameType.EXECUTION_RESPONSE, 0, call.id) + parts[0]):
            end.feed(piece)
        credit_is_back(end.connection)
        for piece in cut(b"".join(parts[1:])):
            end.feed(piece)
        assert end.error is None
        credit_is_back(end.connection)


class TestShape:
    """The required form of stream data."""

    def feed(self, cut: Cut, *data: bytes) -> WireEnd:
        end = open_end(Role.HOST, SMALL)
        start(end, flags=BOTH_STREAMS)
        for piece in cut(b"".join(data)):
            end.feed(piece)
        return end

    def test_a_batch_holds_as_many_as_it_says(self, cut: Cut) -> None:
        batch = pack_items([b"a", b"bc", b""])
        end = self.feed(cut, item(1, batch, BATCH, 3))
        assert items_of(end) == [b"a", b"bc", b""]
        call = end.connection.calls[1]
        assert call.windows is not None
        assert call.windows.receive.available == WINDOW - cost(b"a", b"bc", b"")

    @pytest.mark.parametrize("count", [0, 1, 2, 4, 2**32 - 1])
    def test_or_it_is_refused(self, count: int, cut: Cut) -> None:
        end = self.feed(cut, item(1, pack_items([b"a", b"bc", b""]), BATCH, count))
        assert str(end.error) == "the items in STREAM_DATA do not match their number"

    def test_a_batch_that_is_none_is_refused(self, cut: Cut) -> None:
        assert (
            str(self.feed(cut, item(1, b"\x5a", BATCH, 1)).error) == "a batch ends inside an item"
        )

    @pytest.mark.parametrize(
        "data",
        [
            item(1, b"", 0, 0),
            item(1, b"x", 0, 0),
            item(1, b"x", 0, 2),
            item(1, b"", BATCH, 0),
            frame(ITEM, LAST, 2, 0, 0, b"x"),
            frame(ITEM, LAST | BATCH, 2, 0, 0, b"x"),
        ],
    )
    def test_there_is_one_item_or_the_end(self, data: bytes, cut: Cut) -> None:
        end = self.feed(cut, request(2, flags=STREAM), data)
        assert end.error is not None
        assert items_of(end) == []

    def test_s9_an_end_with_a_payload_cannot_make_credit(self, cut: Cut) -> None:
        # Its bytes were once paid back without having been spent.
        end = self.feed(cut, frame(ITEM, LAST, 1, 0, 0, bytes(30 * KIB)))
        receive = end.connection.windows.receive
        assert receive.available + receive.consumed == receive.size
        assert end.error is not None

    @pytest.mark.parametrize(("flags", "count"), [(BATCH, 5), (BATCH, 1), (0, 0), (0, 2)])
    def test_s6_several_items_do_not_come_in_parts(self, flags: int, count: int, cut: Cut) -> None:
        # 32 MiB of empty items would have been a list of six million.
        end = self.feed(cut, first_fragment(ITEM, 1, 100 * KIB, b"\x5a", flags, count))
        assert str(end.error) == "a batch of items must not be fragmented"

    def test_an_item_does_not_overtake_one_of_its_own_stream(self, cut: Cut) -> None:
        # It would use the credit of the item that it overtakes.
        end = self.feed(cut, first_fragment(ITEM, 1, 2, b"x"), item(1, bytes(30 * KIB)))
        assert str(end.error) == "a frame arrived before the payload of call 1 was complete"

    def test_items_of_no_call_are_refused(self, cut: Cut) -> None:
        for data in (item(9), first_fragment(ITEM, 9, 100, b"x"), item(4), item(0)):
            end = self.feed(cut, data)
            assert "which is not open" in str(end.error)

    def test_the_callee_does_not_say_which_item_is_its_last(self, cut: Cut) -> None:
        assert (
            str(self.feed(cut, item(1, b"x", LAST)).error)
            == "frame 0x195 while call 1 is STREAMING"
        )

    def test_parts_of_an_item_must_be_allowed(self, cut: Cut) -> None:
        end = self.feed(cut, request(2), first_fragment(ITEM, 2, 100, b"x"))
        assert str(end.error) == "frame 0x95 while call 2 is RUNNING"

    def test_a_large_item_is_one_item(self, cut: Cut) -> None:
        data = b"".join(in_parts(ITEM, 1, LARGE, 1000, 32 * KIB, 32 * KIB, flags=CBOR))
        end = self.feed(cut, data)
        assert items_of(end) == [LARGE]
        call = end.connection.calls[1]
        assert call.windows is not None
        assert call.windows.receive.available == WINDOW - cost(LARGE)
        assert end.connection.windows.receive.available == CONNECTION_WINDOW - cost(LARGE)


def test_a_gibibyte_in_proper_portions_is_no_flood() -> None:
    """Credits were once all counted, and a fast stream was cut after 10,000 of them."""
    end = open_end(Role.HOST, WireLimits())
    call = start(end, flags=BOTH_STREAMS)
    portion = WireLimits().stream_window_bytes // 2
    payload = bytes(portion - ITEM_OVERHEAD_BYTES)
    returned = frame(FrameType.CREDIT, 0, call.id, portion)
    for n in range(15_000):  # 1.8 GiB in no time
        end.connection.send_item(call, payload, 0)
        end.feed(returned)
        if n % 4 == 3:
            end.feed(frame(FrameType.CREDIT, 0, 0, 4 * portion))
        end.take_bytes()
        end.events.clear()
    assert end.error is None


def test_fragments_of_a_finished_payload_are_not_mistaken_for_another() -> None:
    end = open_end(Role.HOST, SMALL)
    start(end, flags=BOTH_STREAMS)
    end.feed(b"".join(in_parts(ITEM, 1, b"12345", 2)))
    end.feed(further_fragment(1, b"x", is_last=True))
    assert str(end.error) == "a fragment without a first fragment (call 1)"
