"""Frames in, bytes out: order, portions, and frames that can be withdrawn."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING

import pytest

from spear import WireLimits
from spear._limits import KIB, MIB
from spear.wire import (
    BATCH,
    CBOR,
    FRAGMENT,
    ITEM_OVERHEAD_BYTES,
    LAST,
    MORE,
    Frame,
    FrameType,
    Outbox,
)
from spear.wire._frames import unpack_items_untrusted
from spear.wire._outbox import (
    BATCH_BYTES,
    BATCHED_BYTES,
    EARLY_BYTES,
    EARLY_FRAMES,
    INLINE_BYTES,
    OPENING_BYTES,
    ROUND_BYTES,
)

from .helpers import SMALL, frame, open_receiver, receive, split_frames
from .test_heads import peak_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear.wire import Buffer

REQUEST, RESPONSE, ITEM = (
    FrameType.EXECUTION_REQUEST,
    FrameType.EXECUTION_RESPONSE,
    FrameType.STREAM_DATA,
)
FRAGMENT_BYTES = SMALL.fragment_bytes
LARGE = b"L" * (2 * FRAGMENT_BYTES)


def make(limits: WireLimits = SMALL) -> Outbox:
    return Outbox(limits, lambda: None)


def take(outbox: Outbox) -> bytes:
    return b"".join(outbox.take())


def take_all(outbox: Outbox) -> bytes:
    """Take all bytes from an outbox."""
    taken = b""
    while part := take(outbox):
        taken += part
    return taken


def parsed(data: bytes) -> list[Frame]:
    return receive(open_receiver(WireLimits()), [data])


def ids(data: bytes) -> list[tuple[int, int]]:
    """Return (type, call id) of raw frames, each fragment on its own."""
    return [(each[10], int.from_bytes(each[13:21], "big")) for each in split_frames(data)]


class TestOrdinaryFrames:
    """Frames that are sent in one piece."""

    @pytest.mark.parametrize("size", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, FRAGMENT_BYTES])
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_kind_of_bytes_can_be_sent(self, size: int, kind: type[Buffer]) -> None:
        outbox = make()
        payload = kind(b"p" * size)
        outbox.push(RESPONSE, CBOR, 3, 4, 5, payload)
        outbox.push(RESPONSE, CBOR, 3, 4, 5, payload, {"k": "v"})
        expected = [
            (RESPONSE, CBOR, 3, 4, 5, None, b"p" * size),
            (RESPONSE, CBOR, 3, 4, 5, {"k": "v"}, b"p" * size),
        ]
        assert parsed(take(outbox)) == expected

    def test_they_keep_their_order(self) -> None:
        outbox = make()
        for n in range(50):
            outbox.push(
                RESPONSE, 0, n, 0, 0, bytes(n % 3 * INLINE_BYTES), {"n": n} if n % 5 else None
            )
        assert [each[2] for each in parsed(take(outbox))] == list(range(50))

    def test_small_ones_are_handed_out_as_one_buffer(self) -> None:
        outbox = make()
        for n in range(1, 10):
            outbox.push(RESPONSE, 0, n, 0, 0, b"x" * 100)
        assert len(outbox.take()) == 1

    def test_large_payloads_are_not_copied(self) -> None:
        payload = b"x" * (INLINE_BYTES + 1)
        outbox = make()
        outbox.push(RESPONSE, 0, 1, 0, 0, payload)
        assert outbox.take()[1] is payload

    def test_fragments_are_not_copied(self) -> None:
        payload = bytes(8 * MIB)
        outbox = Outbox(WireLimits(), lambda: None)

        def send() -> None:
            outbox.push(RESPONSE, 0, 1, 0, 0, payload)
            while outbox.take():
                pass

        assert peak_bytes(send) < 64 * KIB

    def test_what_was_taken_is_gone(self) -> None:
        outbox = make()
        outbox.push(RESPONSE, 0, 1, 0, 0, b"x")
        assert outbox
        assert take(outbox)
        assert not outbox
        assert outbox.take() == []
        assert outbox.pending_bytes == 0


class TestNotice:
    """The writer is notified once, and again only after it has taken all bytes."""

    def test_it_is_told_when_the_outbox_stops_being_empty(self) -> None:
        told = []
        outbox = Outbox(SMALL, lambda: told.append("pending"))
        pushes: list[Callable[[], None]] = [
            lambda: outbox.push(RESPONSE, 0, 1, 0, 0),
            lambda: outbox.push(RESPONSE, 0, 1, 0, 0, LARGE),
            lambda: outbox.push_item(0, 3, b"item"),
            lambda: outbox.push_credit(1, 5),
            lambda: outbox.push_latest(FrameType.SIGNAL, 1, 0, 0),
        ]
        for push in pushes:
            told.clear()
            push()
            push()
            assert told == ["pending"]
            take_all(outbox)

    def test_it_is_told_when_many_wait(self) -> None:
        told = []
        outbox = Outbox(SMALL, lambda: None, lambda: told.append(outbox.pushed))
        for _ in range(EARLY_FRAMES + 3):
            outbox.push(RESPONSE, 0, 1, 0, 0)
        assert told == [EARLY_FRAMES]

    def test_it_is_told_when_much_waits(self) -> None:
        told = []
        outbox = Outbox(WireLimits(), lambda: None, lambda: told.append(outbox.pushed))
        for _ in range(33):
            outbox.push(RESPONSE, 0, 1, 0, 0, bytes(EARLY_BYTES // 16))
        assert told == [16, 32]


class TestControlFrames:
    """A lane with precedence, in which a newer frame replaces an older one."""

    def test_s9_a_peer_that_never_reads_cannot_make_it_grow(self) -> None:
        outbox = make()
        for n in range(10_000):
            outbox.push_latest(FrameType.HEALTH_RESPONSE, 0, n, 0)
            outbox.push_credit(0, 10)
            outbox.push_credit(n % 8, 1)
            outbox.push_latest(FrameType.SIGNAL, n % 8, 0, 0, b"progress")
        data = take_all(outbox)
        assert len(data) < 64 * KIB
        assert len(split_frames(data)) == 1 + 8 + 8

    def test_credit_adds_up(self) -> None:
        outbox = make()
        for credit in (1, 20, 300):
            outbox.push_credit(7, credit)
        outbox.push_credit(0, 5)
        assert take(outbox) == frame(FrameType.CREDIT, 0, 7, 321) + frame(FrameType.CREDIT, 0, 0, 5)

    def test_the_newest_of_a_kind_and_call_replaces_the_older(self) -> None:
        outbox = make()
        outbox.push_latest(FrameType.SIGNAL, 1, 0, 0, b"half")
        outbox.push_latest(FrameType.SIGNAL, 3, 0, 0, b"other call", {"k": 1})
        outbox.push_latest(FrameType.HEALTH_CHECK, 0, 8, 0)
        outbox.push_latest(FrameType.SIGNAL, 1, 0, 0, b"done")
        assert [each[1:] for each in parsed(take(outbox))] == [
            (0, 1, 0, 0, None, b"done"),
            (0, 3, 0, 0, {"k": 1}, b"other call"),
            (0, 0, 8, 0, None, b""),
        ]

    def test_they_overtake_everything(self) -> None:
        outbox = make()
        outbox.push(REQUEST, 0, 1, 0, 0, LARGE)
        outbox.push(REQUEST, 0, 3, 0, 0, b"small")
        outbox.push_credit(5, 1)
        outbox.push_latest(FrameType.HEALTH_CHECK, 0, 0, 0)
        assert ids(take(outbox))[:3] == [
            (FrameType.CREDIT, 5),
            (FrameType.HEALTH_CHECK, 0),
            (REQUEST, 3),
        ]


class TestFragments:
    """Payloads above the fragment size."""

    @pytest.mark.parametrize("extra", [1, OPENING_BYTES, FRAGMENT_BYTES, FRAGMENT_BYTES + 1])
    def test_they_are_cut_and_put_together(self, extra: int) -> None:
        payload = bytes(range(256)) * (FRAGMENT_BYTES // 256) + b"e" * extra
        outbox = make()
        outbox.push(RESPONSE, CBOR, 3, 4, 5, payload, {"k": "v"})
        data = take_all(outbox)
        assert parsed(data) == [(RESPONSE, CBOR, 3, 4, 5, {"k": "v"}, payload)]
        frames = split_frames(data)
        assert len(frames) == 1 + -(-(len(payload) - OPENING_BYTES) // FRAGMENT_BYTES)
        assert max(map(len, frames)) <= FRAGMENT_BYTES + 37
        assert [each[11] & (FRAGMENT | MORE) for each in frames] == [3] * (len(frames) - 1) + [1]

    def test_a_fragment_of_the_whole_size_is_none(self) -> None:
        outbox = make()
        outbox.push(RESPONSE, 0, 3, 0, 0, b"x" * FRAGMENT_BYTES)
        assert len(split_frames(take_all(outbox))) == 1

    def test_a_view_of_larger_items_is_cut_by_bytes(self) -> None:
        view = memoryview(array.array("I", range(20_000))).cast("B")
        outbox = make()
        outbox.push(RESPONSE, 0, 3, 0, 0, view)
        assert parsed(take_all(outbox))[0][6] == view.tobytes()

    def test_small_frames_overtake_them(self) -> None:
        outbox = make()
        outbox.push(REQUEST, 0, 1, 0, 0, b"x" * 10 * FRAGMENT_BYTES)
        take(outbox)
        outbox.push(REQUEST, 0, 3, 0, 0, b"small")
        assert ids(take(outbox)) == [(REQUEST, 3), (FrameType.BODY, 1)]

    def test_they_take_turns(self) -> None:
        outbox = make(WireLimits(fragment_bytes=FRAGMENT_BYTES))
        for call_id in (1, 3, 5):
            outbox.push(REQUEST, 0, call_id, 0, 0, LARGE)
        turns = [ids(take(outbox)) for _ in range(3)]
        assert turns == [
            [(REQUEST, 1), (REQUEST, 3), (REQUEST, 5)],
            [(FrameType.BODY, 1), (FrameType.BODY, 3), (FrameType.BODY, 5)],
            [(FrameType.BODY, 1), (FrameType.BODY, 3), (FrameType.BODY, 5)],
        ]
        assert not outbox
        assert not outbox.has_more

    def test_one_take_is_bounded_and_the_next_goes_on_with_the_others(self) -> None:
        limits = WireLimits(fragment_bytes=ROUND_BYTES // 2, assembly_bytes=64 * MIB)
        outbox = make(limits)
        for call_id in range(1, 9):
            outbox.push(REQUEST, 0, call_id, 0, 0, bytes(2 * MIB))
        take(outbox)  # the first fragments
        rounds = [[call_id for _, call_id in ids(take(outbox))] for _ in range(4)]
        assert rounds == [[1, 2], [3, 4], [5, 6], [7, 8]]
        assert outbox.has_more

    def test_no_more_are_begun_than_the_peer_assembles(self) -> None:
        outbox = make()  # assembles 128 KiB
        for call_id in (1, 3, 5):
            outbox.push(REQUEST, 0, call_id, 0, 0, LARGE)
        begun: list[int] = []
        while data := take(outbox):
            begun += [call_id for type_, call_id in ids(data) if type_ == REQUEST]
            receiver_has = [call_id for _, call_id in ids(data)]
            assert len(set(receiver_has)) <= 2
        assert begun == [1, 3, 5]

    def test_a_larger_one_waits_until_it_is_alone_and_is_not_overtaken(self) -> None:
        outbox = make()
        outbox.push(REQUEST, 0, 1, 0, 0, LARGE)
        outbox.push(REQUEST, 0, 3, 0, 0, b"x" * 5 * FRAGMENT_BYTES)
        outbox.push(REQUEST, 0, 5, 0, 0, LARGE)
        order = [call_id for type_, call_id in ids(take_all(outbox)) if type_ == REQUEST]
        assert order == [1, 3, 5]

    def test_what_it_sends_a_receiver_of_those_limits_takes(self) -> None:
        outbox = make()
        for call_id in range(1, 20):
            outbox.push(REQUEST, 0, call_id, 0, 0, b"x" * (call_id * 10 * KIB))
        received = receive(open_receiver(SMALL), [take_all(outbox)])
        assert sorted(each[2] for each in received) == list(range(1, 20))

    def test_later_frames_of_the_same_call_wait_behind(self) -> None:
        outbox = make()
        outbox.push(REQUEST, 0, 1, 0, 0, LARGE)
        outbox.push_item(0, 1, b"item")
        outbox.push(ITEM, 0, 1, 1, 0, LARGE)
        outbox.push_item(0, 1, b"another")
        outbox.push(ITEM, LAST, 1, 0, 0)
        outbox.push(FrameType.ERROR, 0, 1, 1, 0, b"", {"message": "no"})
        sizes = [(each[0], len(each[6])) for each in parsed(take_all(outbox))]
        assert sizes == [
            (REQUEST, len(LARGE)), (ITEM, 4), (ITEM, len(LARGE)), (ITEM, 7), (ITEM, 0),
            (FrameType.ERROR, 0),
        ]  # fmt: skip

    def test_a_head_that_cannot_be_encoded_changes_nothing(self) -> None:
        outbox = make()
        for payload in (b"", LARGE):
            with pytest.raises(ValueError, match="the head cannot be encoded"):
                outbox.push(REQUEST, 0, 1, 0, 0, payload, {"k": object()})  # type: ignore[dict-item]  # that is the point
        assert not outbox
        assert outbox.pushed == 0

    def test_new_limits_hold_from_the_next_payload_on(self) -> None:
        outbox = make()
        outbox.open(WireLimits(), lambda _: None)
        outbox.push(REQUEST, 0, 1, 0, 0, LARGE)
        assert len(split_frames(take_all(outbox))) == 1


class TestBatches:
    """Small items of one stream that share a frame."""

    def items(self, data: bytes) -> list[tuple[int, list[bytes]]]:
        """Return (call id, items) of each frame."""
        return [
            (each[2], unpack_items_untrusted(payload) if each[1] & BATCH else [payload] * each[3])
            for each in parsed(data)
            for payload in [bytes(each[6])]
        ]

    def test_they_share_a_frame(self) -> None:
        outbox = make()
        for item in (b"a", memoryview(b"bc"), bytearray()):
            outbox.push_item(0, 1, item)
        data = take(outbox)
        assert self.items(data) == [(1, [b"a", b"bc", b""])]
        assert parsed(data)[0][1] == BATCH
        assert parsed(data)[0][3] == 3

    def test_a_single_one_needs_no_batch(self) -> None:
        outbox = make()
        outbox.push_item(CBOR, 1, b"alone")
        assert take(outbox) == frame(ITEM, CBOR, 1, 1, 0, b"alone")

    def test_each_stream_has_its_own(self) -> None:
        outbox = make()
        for n in range(6):
            outbox.push_item(0, n % 2 + 1, bytes([n]))
        assert self.items(take(outbox)) == [(1, [b"\0", b"\2", b"\4"]), (2, [b"\1", b"\3", b"\5"])]

    def test_items_of_another_kind_begin_another(self) -> None:
        outbox = make()
        for flags in (0, 0, CBOR, CBOR, 0):
            outbox.push_item(flags, 1, b"x")
        assert [each[1] for each in parsed(take(outbox))] == [BATCH, BATCH | CBOR, 0]

    def test_what_comes_behind_in_the_same_stream_stays_behind(self) -> None:
        outbox = make()
        for item in (b"1", b"2", b"x" * (BATCHED_BYTES + 1), b"3", b"4", LARGE, b"5", b"6"):
            outbox.push_item(0, 1, item)
        outbox.push(RESPONSE, 0, 1, 0, 0)
        received = [item for _, items in self.items(take_all(outbox))[:-1] for item in items]
        assert received == [b"1", b"2", b"x" * (BATCHED_BYTES + 1), b"3", b"4", LARGE, b"5", b"6"]

    def test_the_last_item_has_a_frame_of_its_own(self) -> None:
        outbox = make()
        for flags in (0, 0, LAST):
            outbox.push_item(flags, 1, b"x")
        assert [each[3] for each in parsed(take(outbox))] == [2, 1]

    def test_those_that_follow_a_take_begin_another(self) -> None:
        outbox = make()
        outbox.push_item(0, 1, b"x")
        take(outbox)
        outbox.push_item(0, 1, b"y")
        assert self.items(take(outbox)) == [(1, [b"y"])]

    @pytest.mark.parametrize("size", [0, 1, 100, BATCHED_BYTES])
    def test_a_batch_is_never_larger_than_the_smallest_fragment(self, size: int) -> None:
        # Empty items once had no cost, so a batch grew beyond the peer's limit for a frame.
        outbox = make()
        for _ in range(4000):
            outbox.push_item(0, 1, bytes(size))
        frames = split_frames(take(outbox))
        assert sum(len(items) for _, items in self.items(b"".join(frames))) == 4000
        assert max(map(len, frames)) <= 37 + BATCH_BYTES + BATCHED_BYTES + 5 < 32 * KIB


class TestTakingBack:
    """Frames that are withdrawn before they are sent."""

    def dropping(self) -> tuple[Outbox, list[int]]:
        dropped: list[int] = []
        outbox = make()
        outbox.open(SMALL, dropped.append)
        return outbox, dropped

    def test_the_newest_frame_can_be_retracted(self) -> None:
        outbox = make()
        outbox.push(REQUEST, 0, 1, 0, 0, b"first")
        outbox.push(REQUEST, 0, 3, 0, 0, b"second")
        assert outbox.retract(3, 2)
        assert take(outbox) == frame(REQUEST, 0, 1, 0, 0, b"first")

    def test_an_older_one_cannot(self) -> None:
        outbox = make()
        outbox.push(REQUEST, 0, 1, 0, 0)
        outbox.push(REQUEST, 0, 3, 0, 0)
        assert not outbox.retract(1, 1)

    def test_nor_one_that_was_taken(self) -> None:
        outbox = make()
        outbox.push(REQUEST, 0, 1, 0, 0)
        take(outbox)
        assert not outbox.retract(1, 1)

    def test_nor_one_in_two_buffers(self) -> None:
        outbox = make()
        outbox.push(REQUEST, 0, 1, 0, 0, bytes(INLINE_BYTES + 1))
        assert not outbox.retract(1, 1)
        assert len(split_frames(take(outbox))) == 1

    def test_nothing_is_pending_after_the_last_was_retracted(self) -> None:
        outbox = make()
        outbox.push(REQUEST, 0, 1, 0, 0, b"12345")
        assert outbox.pending_bytes == 5
        assert outbox.retract(1, 1)
        assert outbox.pending_bytes == 0
        assert not outbox
        assert outbox.take() == []

    def test_a_large_one_can_be_retracted_until_it_has_begun(self) -> None:
        for is_begun in (False, True):
            outbox = make()
            outbox.push(REQUEST, 0, 1, 0, 0, LARGE)
            outbox.push(REQUEST, 0, 3, 0, 0)
            if is_begun:
                take(outbox)
            assert outbox.retract(1, 1) is not is_begun
            assert ((FrameType.BODY, 1) in ids(take_all(outbox))) is is_begun

    def test_a_request_that_was_sent_is_not_retracted_with_a_large_item_behind_it(self) -> None:
        outbox = make()
        outbox.push(REQUEST, 0, 1, 0, 0)
        take(outbox)
        outbox.push_item(0, 1, LARGE)
        assert not outbox.retract(1, 1)
        assert not outbox.is_unsent(1, 1)
        assert outbox.is_unsent(1, 2)

    def test_abandoning_drops_a_payload_and_what_is_behind_it(self) -> None:
        outbox = make()
        assert not outbox.abandon(1)
        outbox.push(REQUEST, 0, 1, 0, 0, LARGE)
        outbox.push_item(0, 1, b"item")
        outbox.push(REQUEST, 0, 3, 0, 0)
        take(outbox)
        assert outbox.abandon(1)
        assert not outbox.abandon(1)
        assert not outbox
        assert not outbox.has_more
        assert outbox.take() == []

    def test_it_makes_room_for_others(self) -> None:
        outbox = make()
        outbox.push(REQUEST, 0, 1, 0, 0, b"x" * SMALL.assembly_bytes)
        take(outbox)
        outbox.push(REQUEST, 0, 3, 0, 0, LARGE)
        assert (REQUEST, 3) not in ids(take(outbox))
        outbox.abandon(1)
        assert (REQUEST, 3) in ids(take(outbox))

    def test_the_credit_of_items_that_were_not_begun_comes_back(self) -> None:
        outbox, dropped = self.dropping()
        outbox.push_item(0, 1, LARGE)
        outbox.push_item(0, 1, b"12345")
        outbox.push(ITEM, LAST, 1, 0, 0)
        outbox.push_item(0, 1, LARGE)
        cost = len(LARGE) + ITEM_OVERHEAD_BYTES
        assert outbox.abandon(1)
        assert dropped == [2 * cost + 5 + ITEM_OVERHEAD_BYTES]

    def test_the_credit_of_one_that_was_begun_does_not(self) -> None:
        outbox, dropped = self.dropping()
        outbox.push_item(0, 1, LARGE)
        outbox.push_item(0, 1, b"12345")
        take(outbox)
        assert outbox.abandon(1)
        assert dropped == [5 + ITEM_OVERHEAD_BYTES]

    def test_responses_have_no_credit(self) -> None:
        outbox, dropped = self.dropping()
        outbox.push(RESPONSE, 0, 1, 0, 0, LARGE)
        assert outbox.abandon(1)
        assert dropped == []

    def test_which_frames_are_unsent(self) -> None:
        outbox = make()
        outbox.push(REQUEST, 0, 1, 0, 0)  # 1
        outbox.push(REQUEST, 0, 3, 0, 0, b"x" * SMALL.assembly_bytes)  # 2
        outbox.push(REQUEST, 0, 5, 0, 0, LARGE)  # 3
        outbox.push_item(0, 5, b"behind")  # 4
        assert [outbox.is_unsent(c, n) for c, n in ((1, 1), (3, 2), (5, 3), (5, 4))] == [True] * 4
        take(outbox)
        assert [outbox.is_unsent(c, n) for c, n in ((1, 1), (3, 2), (5, 3), (5, 4))] == [
            False, False, True, True,
        ]  # fmt: skip
        take_all(outbox)
        assert [outbox.is_unsent(c, n) for c, n in ((1, 1), (3, 2), (5, 3), (5, 4))] == [False] * 4
