"""Payloads in segments: frames whose payload is passed beside the bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cbor2
import pytest

from spear import CallCancelled, LocalProtocolError, Overloaded, WireLimits
from spear._limits import KIB, MIB
from spear._segments import Segment, SharedBytes
from spear.testing import Cut, WireEnd, random_cuts
from spear.wire import (
    CBOR,
    FRAGMENT,
    MORE,
    NO_DEADLINE,
    SHARED,
    CalleeSide,
    CallerSide,
    FrameType,
    Head,
    LendingFrame,
    Role,
)
from spear.wire._handshake import learn_limits_untrusted

from .helpers import (
    BOTH_STREAMS,
    SMALL,
    Memory,
    Passed,
    called,
    first_fragment,
    frame,
    open_end,
    request,
    split_frames,
    start,
)

if TYPE_CHECKING:
    import random

REQUEST = FrameType.EXECUTION_REQUEST
RESPONSE = FrameType.EXECUTION_RESPONSE
PAYLOAD = b"0123456789abcdef" * KIB  # 16 KiB, inline for SMALL


def lending(
    call_id: int, size: int, number: int = 0, *, flags: int = 0, type_: int = REQUEST
) -> bytes:
    head: Head = {"size": size, "segment": number}
    return frame(type_, flags | FRAGMENT, call_id, 1, NO_DEADLINE, b"", head)


def lending_end(role: Role = Role.AGENT, memory: Memory | None = None) -> tuple[WireEnd, Memory]:
    end = open_end(role, SMALL)
    memory = memory or Memory()
    end.outbox.lend_through(memory)
    return end, memory


def given(end: WireEnd, *payloads: bytes) -> list[Passed]:
    passed = [Passed(payload) for payload in payloads]
    for each in passed:
        end.receiver.attach(each)
    return passed


class TestReceiving:
    def test_a_request_brings_its_segment(self, cut: Cut) -> None:
        agent = open_end(Role.AGENT, SMALL)
        (passed,) = given(agent, PAYLOAD)
        for piece in cut(request(1, b"in front") + lending(3, len(PAYLOAD), 7, flags=CBOR)):
            agent.feed(piece)
        assert agent.error is None
        _, event = agent.take_events()
        call, type_, flags, a, b, head, payload = event
        assert isinstance(call, CalleeSide)
        assert (call.id, type_, flags, a, b, head) == (3, REQUEST, CBOR, 1, NO_DEADLINE, None)
        assert isinstance(payload, Segment)
        assert payload.as_bytes() == PAYLOAD
        assert passed.claimed_as == 7

    def test_a_head_of_its_own_is_handed_out_without_what_was_added(self) -> None:
        agent = open_end(Role.AGENT, SMALL)
        given(agent, PAYLOAD)
        head: Head = {"size": len(PAYLOAD), "segment": 0, "key": "k"}
        agent.feed(frame(REQUEST, FRAGMENT, 1, 1, 5, b"", head))
        assert agent.take_events()[0][5] == {"key": "k"}

    def test_a_response_brings_its_segment(self, cut: Cut) -> None:
        host = open_end(Role.HOST, SMALL)
        call = start(host)
        given(host, PAYLOAD)
        for piece in cut(lending(call.id, len(PAYLOAD), flags=SHARED, type_=RESPONSE)):
            host.feed(piece)
        assert host.error is None
        (event,) = host.take_events()
        assert event[:3] == (call, RESPONSE, SHARED)
        assert not host.connection.outbound_open

    def test_what_is_copied_counts_among_the_arguments(self) -> None:
        host = open_end(Role.HOST, SMALL)
        most = SMALL.request_bytes_in_flight // SMALL.max_message_bytes
        for number in range(most + 1):
            given(host, bytes(SMALL.max_message_bytes))
            host.feed(lending(2 + 2 * number, SMALL.max_message_bytes, number))
        assert host.error is None
        assert host.connection.request_bytes == SMALL.request_bytes_in_flight
        assert host.connection.refused == 1

    def test_what_is_shared_does_not(self) -> None:
        host = open_end(Role.HOST, SMALL)
        size = 2 * SMALL.request_bytes_in_flight
        given(host, bytes(size))
        host.feed(lending(2, size, flags=SHARED))
        assert host.error is None
        assert host.connection.request_bytes == 0

    def test_a_refused_request_leaves_nothing(self) -> None:
        host = open_end(Role.HOST, SMALL)
        host.connection.serve(CalleeSide, lambda function, head: Overloaded("no"))
        given(host, PAYLOAD)
        host.feed(lending(2, len(PAYLOAD)) + request(4))
        assert host.error is None
        assert host.take_events() == []
        assert host.connection.refused == 2
        assert not host.connection.incomplete

    def test_two_may_wait(self) -> None:
        """The end of one frame and the beginning of the next arrive in one read."""
        agent = open_end(Role.AGENT, SMALL)
        first, second = lending(1, 5, 0), lending(3, 6, 1)
        given(agent, b"first")
        agent.feed(first[:-1])
        given(agent, b"second")
        agent.feed(first[-1:] + second)
        assert agent.error is None
        payloads = [event[6] for event in agent.take_events()]
        assert [each.as_bytes() for each in payloads if isinstance(each, Segment)] == [
            b"first",
            b"second",
        ]

    def test_more_may_not(self) -> None:
        agent = open_end(Role.AGENT, SMALL)
        with pytest.raises(
            Exception, match="file descriptors arrived without frames that use them"
        ):
            given(agent, b"1", b"2", b"3")

    def test_what_was_not_claimed_can_be_let_go(self) -> None:
        agent = open_end(Role.AGENT, SMALL)
        given(agent, b"1", b"2")
        agent.receiver.detach()
        agent.feed(lending(1, 1))
        assert str(agent.error) == "a segment without a file descriptor"

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (lending(1, 5) + lending(3, 5, 1), "a segment without a file descriptor"),
            (frame(REQUEST, FRAGMENT, 1), "a segment must have a number and a size"),
            (frame(REQUEST, FRAGMENT, 1, head={"size": 5}), "a segment must have"),
            (frame(REQUEST, FRAGMENT, 1, head={"segment": 0}), "a segment must have"),
            (frame(REQUEST, FRAGMENT, 1, head={"size": 0, "segment": 0}), "a segment must have"),
            (frame(REQUEST, FRAGMENT, 1, head={"size": True, "segment": 0}), "a segment must"),
            (frame(REQUEST, FRAGMENT, 1, head={"size": 5, "segment": -1}), "a segment must have"),
            (frame(REQUEST, FRAGMENT, 1, head={"size": 5, "segment": "0"}), "a segment must"),
            (
                frame(REQUEST, FRAGMENT, 1, payload=b"x", head={"size": 5, "segment": 0}),
                "a frame has a payload and a segment",
            ),
            (lending(0, 5), "call id 0 is not valid for a new call"),
            (lending(2, 5), "call id 2 is not valid for a new call"),
            (lending(1, 5, type_=RESPONSE), "a payload for call 1, which is not open"),
            (lending(1, 5, type_=FrameType.CANCEL), "frame 0x93 must not be fragmented"),
            (
                request(1, flags=BOTH_STREAMS) + lending(1, 5, type_=FrameType.STREAM_DATA),
                "an item must not be in a segment",
            ),
            (first_fragment(REQUEST, 1, 9, b"1") + lending(1, 5), "two payloads at once"),
            (lending(1, SMALL.max_message_bytes + 1), "is too large to copy"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, data: bytes, why: str, cut: Cut) -> None:
        agent = open_end(Role.AGENT, SMALL)
        size = SMALL.max_message_bytes + 1 if "copy" in why else 5
        given(agent, bytes(size))
        for piece in cut(data):
            agent.feed(piece)
        assert str(agent.error).startswith(why) or why in str(agent.error)

    def test_what_the_kernel_says_counts(self) -> None:
        agent = open_end(Role.AGENT, SMALL)
        agent.receiver.attach(Passed(b"12345", "it has 3 bytes"))
        agent.feed(lending(1, 5))
        assert str(agent.error) == "unusable segment: it has 3 bytes"

    def test_nobody_passes_segments_before_the_handshake_is_done(self) -> None:
        host = WireEnd(Role.HOST, WireLimits())
        host.receiver.receive_data(lending(1, 5))
        assert str(host.receiver.error) == "a fragment before the end of the handshake"


class TestSending:
    def test_what_is_large_is_lent(self) -> None:
        agent, memory = lending_end()
        start(agent, PAYLOAD, CBOR)
        (sent,) = agent.outbox.take()
        assert isinstance(sent, LendingFrame)
        head = {"size": len(PAYLOAD), "segment": 0}
        first = REQUEST << 8 | CBOR | FRAGMENT
        assert cbor2.loads(sent[8:]) == [first, 2, 1, NO_DEADLINE, head, b""]
        assert memory.lent[0].payload == PAYLOAD
        assert sent.loan is memory.lent[0]

    def test_what_is_small_is_not(self) -> None:
        agent, memory = lending_end()
        start(agent, b"x" * 1023)
        start(agent, SharedBytes(b"x" * 1023))
        plain_frame, shared = split_frames(agent.take_bytes())
        assert plain_frame == frame(REQUEST, 0, 2, 1, NO_DEADLINE, b"x" * 1023)
        assert shared == frame(REQUEST, SHARED, 4, 1, NO_DEADLINE, b"x" * 1023)
        assert not memory.lent

    def test_the_head_is_kept(self) -> None:
        agent, _ = lending_end()
        start(agent, PAYLOAD, 0, {"key": "k"})
        head: Head = {"key": "k", "size": len(PAYLOAD), "segment": 0}
        assert agent.take_bytes() == frame(REQUEST, FRAGMENT, 2, 1, NO_DEADLINE, b"", head)

    def test_a_head_that_cannot_be_sent_lends_nothing(self) -> None:
        agent, memory = lending_end()
        with pytest.raises(ValueError, match="the head cannot be encoded"):
            start(agent, PAYLOAD, 0, {"key": object()})  # type: ignore[dict-item]  # that is the test
        assert not memory.lent
        assert agent.take_bytes() == b""
        assert not agent.connection.outbound_open

    def test_what_is_shared_may_be_larger_than_a_message(self) -> None:
        agent, memory = lending_end()
        large = bytes(SMALL.max_message_bytes + 1)
        start(agent, SharedBytes(large))
        assert memory.lent[0].payload == large
        with pytest.raises(LocalProtocolError, match="the peer accepts at most"):
            start(agent, large)

    def test_what_cannot_be_lent_goes_in_bytes(self) -> None:
        agent, memory = lending_end(memory=Memory(most=1))
        for _ in range(2):
            start(agent, SharedBytes(PAYLOAD))
        first, second = split_frames(agent.take_bytes())
        assert first[11] == SHARED | FRAGMENT
        assert second == frame(REQUEST, SHARED, 4, 1, NO_DEADLINE, PAYLOAD)
        with pytest.raises(LocalProtocolError, match="the peer accepts at most"):
            start(agent, SharedBytes(bytes(SMALL.max_message_bytes + 1)))
        start(agent, PAYLOAD)
        assert len(memory.lent) == 1

    def test_without_the_feature_all_goes_in_bytes(self) -> None:
        agent = open_end(Role.AGENT, SMALL)
        start(agent, SharedBytes(PAYLOAD))
        assert agent.take_bytes() == frame(REQUEST, SHARED, 2, 1, NO_DEADLINE, PAYLOAD)

    def test_a_result_is_lent(self) -> None:
        agent, memory = lending_end()
        agent.feed(request(1))
        agent.connection.respond(called(agent), SharedBytes(PAYLOAD), 0, 5)
        (sent,) = split_frames(agent.take_bytes())
        assert sent[10:12] == bytes([RESPONSE, SHARED | FRAGMENT])
        assert memory.lent[0].payload == PAYLOAD

    def test_a_result_that_nobody_wants_is_not(self) -> None:
        agent, memory = lending_end()
        agent.feed(request(1))
        call = called(agent)
        agent.feed(frame(FrameType.CANCEL, 0, 1))
        agent.connection.respond(call, SharedBytes(PAYLOAD), 0, 5)
        assert agent.take_bytes() == frame(RESPONSE, 0, 1, 5)
        assert not memory.lent

    def test_items_are_never_lent(self) -> None:
        agent, memory = lending_end()
        call = start(agent, b"", BOTH_STREAMS)
        agent.connection.send_item(call, SharedBytes(PAYLOAD), 0)
        agent.connection.send_item(call, PAYLOAD, 0)
        _, *items = split_frames(agent.take_bytes())
        assert items == [frame(FrameType.STREAM_DATA, 0, call.id, 1, 0, PAYLOAD)] * 2
        assert not memory.lent

    def test_it_waits_behind_a_payload_of_its_call(self) -> None:
        host, memory = lending_end(Role.HOST, Memory(least_bytes=200 * KIB))
        host.feed(request(2, flags=BOTH_STREAMS))
        call = called(host)
        host.connection.send_item(call, bytes(150 * KIB), 0)
        host.connection.respond(call, SharedBytes(bytes(201 * KIB)), 0, 0)
        sent = []
        while host.outbox:
            sent += split_frames(host.take_bytes())
        assert sent[-1][10:12] == bytes([RESPONSE, SHARED | FRAGMENT])
        assert all(each[10] in (FrameType.STREAM_DATA, FrameType.BODY) for each in sent[:-1])
        assert len(memory.lent) == 1

    def test_what_is_dropped_with_the_payload_in_front_of_it_is_withdrawn(self) -> None:
        host, memory = lending_end(Role.HOST, Memory(least_bytes=200 * KIB))
        host.feed(request(2, flags=BOTH_STREAMS))
        call = called(host)
        host.connection.send_item(call, bytes(150 * KIB), 0)
        host.connection.respond(call, SharedBytes(bytes(201 * KIB)), 0, 0)
        host.take_bytes()
        assert memory.lent
        assert host.outbox.abandon(2)
        assert not memory.lent

    def test_it_keeps_its_place_among_the_frames(self) -> None:
        """A descriptor is matched with its frame, not with the frames around it."""
        agent, _ = lending_end()
        start(agent, b"before")
        start(agent, PAYLOAD)
        start(agent, b"behind")
        sent = agent.outbox.take()
        assert [type(each) is LendingFrame for each in sent] == [False, True, False]
        assert [each[13:21] for each in sent] == [bytes([0] * 7 + [n]) for n in (2, 4, 6)]

    def test_a_cancelled_call_is_not_taken_back(self) -> None:
        agent, memory = lending_end()
        call = start(agent, PAYLOAD)
        assert not agent.connection.cancel(call)
        lent, cancel = split_frames(agent.take_bytes())
        assert lent[10] == REQUEST
        assert cancel == frame(FrameType.CANCEL, 0, call.id)
        assert memory.lent  # until the peer releases it


class TestReleasing:
    def test_what_is_released_can_be_lent_again(self) -> None:
        agent, memory = lending_end()
        start(agent, PAYLOAD)
        assert memory.lent
        agent.feed(frame(FrameType.RELEASE, 0, 0, 0))
        assert agent.error is None
        assert not memory.lent

    @pytest.mark.parametrize("has_feature", [True, False])
    def test_what_was_not_lent_cannot_be_released(self, has_feature: bool) -> None:
        end = lending_end()[0] if has_feature else open_end(Role.AGENT, SMALL)
        end.feed(frame(FrameType.RELEASE, 0, 0, 3))
        assert str(end.error) == "RELEASE of segment 3, which was not sent to the peer"

    def test_a_release_concerns_the_connection(self) -> None:
        agent, _ = lending_end()
        start(agent, PAYLOAD)
        agent.feed(frame(FrameType.RELEASE, 0, 2, 0))
        assert str(agent.error).startswith("RELEASE of segment 0")

    def test_it_goes_with_what_is_sent_next(self) -> None:
        notified: list[None] = []
        agent, _ = lending_end()
        agent.outbox._on_pending = lambda: notified.append(None)
        agent.outbox.push_release(3)
        agent.outbox.push_release(3)
        agent.outbox.push_release(1)
        assert not notified
        start(agent, b"x")
        assert notified
        sent = split_frames(agent.take_bytes())
        release = FrameType.RELEASE
        assert sent[:2] == [frame(release, 0, 0, 3), frame(release, 0, 0, 1)]
        assert sent[2][10] == REQUEST

    def test_releases_are_not_counted_as_a_flood(self) -> None:
        """A peer can send at most as many as it got segments."""
        host, memory = lending_end(Role.HOST)
        for _ in range(3 * WireLimits().control_frame_burst):
            memory.lend(b"")
            host.feed(frame(FrameType.RELEASE))
        assert host.error is None


class TestAsking:
    def test_a_question_and_its_answer_do_not_replace_each_other(self) -> None:
        agent, _ = lending_end()
        agent.outbox.push_lend(is_answer=False)
        agent.outbox.push_lend(is_answer=True)
        agent.outbox.push_lend(is_answer=True)
        lend = FrameType.LEND
        assert split_frames(agent.take_bytes()) == [frame(lend), frame(lend, 0, 0, 1)]

    def test_asking_for_ever_is_a_flood(self) -> None:
        host, _ = lending_end(Role.HOST)
        for _ in range(2 * WireLimits().control_frame_burst):
            host.feed(frame(FrameType.LEND))
        assert str(host.error) == "too many control frames"


def test_limits_for_segments_are_learned() -> None:
    learned = learn_limits_untrusted({"segment": 5 * MIB, "segments": 3, "mapped": 6 * MIB})
    assert learned.max_segment_bytes == 5 * MIB
    assert learned.max_segments == 3
    assert learned.mapped_segment_bytes == 6 * MIB


def test_a_fragment_is_still_a_fragment() -> None:
    """FRAGMENT without MORE has a meaning only in a first frame."""
    agent = open_end(Role.AGENT, SMALL)
    agent.feed(first_fragment(REQUEST, 1, 3, b"a"))
    agent.feed(frame(FrameType.BODY, FRAGMENT | MORE, 1, payload=b"b"))
    agent.feed(frame(FrameType.BODY, FRAGMENT, 1, payload=b"c"))
    assert agent.take_events()[0][6] == b"abc"


def test_a_segment_that_is_lent_and_cancelled_crosses_no_answer() -> None:
    """A callee that has begun receives the cancellation, and its answer ends the call."""
    agent, _ = lending_end()
    call = CallerSide()
    agent.connection.start_call(call, 1, NO_DEADLINE, 0, PAYLOAD)
    agent.take_bytes()
    agent.connection.cancel(call)
    host = open_end(Role.HOST, SMALL)
    given(host, PAYLOAD)
    host.feed(lending(2, len(PAYLOAD)) + agent.take_bytes())
    begun, _ = host.take_events()
    assert isinstance(begun[0], CalleeSide)
    host.connection.fail(begun[0], CallCancelled("as you say"))
    agent.feed(host.take_bytes())
    assert agent.error is None
    assert not agent.connection.outbound_open


def test_r1_whatever_is_said_of_a_segment_is_an_event_or_an_error(seed: random.Random) -> None:
    """The frames are nearly valid: any byte may be changed."""
    fine = 0
    for _ in range(3000):
        host = open_end(Role.HOST, SMALL)
        start(host)
        given(host, PAYLOAD, PAYLOAD)
        data = bytearray(
            lending(2, len(PAYLOAD), flags=SHARED) + lending(1, len(PAYLOAD), 1, type_=RESPONSE)
        )
        for _ in range(seed.choice((0, 1, 2, 8))):
            data[seed.randrange(len(data))] = seed.randrange(256)
        for piece in random_cuts(bytes(data), seed):
            host.feed(piece)  # any exception fails this test
        fine += host.error is None
    assert 500 < fine < 2500
