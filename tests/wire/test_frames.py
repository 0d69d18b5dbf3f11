"""The form of frames: CBOR, Spear's structure, and a lossless round trip."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

import cbor2
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from spear import RemoteProtocolError, WireLimits
from spear._limits import KIB
from spear.testing import Cut, random_cuts
from spear.wire import FRAGMENT, Frame, FrameType, Head, Outbox, pack_prefix
from spear.wire._frames import (
    BYTES_BYTES,
    HEAD_OFFSET,
    LENGTH,
    MANDATORY,
    PLAIN,
    PLAIN_BYTES,
    PREFIX_BYTES,
    SHORT,
    pack_items,
    unpack_items_untrusted,
)

from .helpers import frame, open_end, open_receiver, receive
from .test_heads import HEADS

if TYPE_CHECKING:
    from spear.wire import Buffer

MESSAGES_PER_TYPE = 10_000
EXAMPLES = 25
PER_EXAMPLE = MESSAGES_PER_TYPE // EXAMPLES

UNKNOWN_OPTIONAL = 0x55
UNKNOWN_MANDATORY = 0xD5


def test_the_smallest_frame_is_37_bytes() -> None:
    assert (PREFIX_BYTES, PLAIN_BYTES, HEAD_OFFSET, BYTES_BYTES) == (8, 29, 23, 5)
    assert len(frame(FrameType.CLOSE)) == 37
    assert SHORT.size == LENGTH.size + PLAIN.size


def test_a_frame_is_one_cbor_array_behind_its_length() -> None:
    data = frame(0x90, 0x04, 7, 8, 9, b"abc", {"k": [1, None]})
    assert int.from_bytes(data[:8], "little") == len(data) - 8
    assert cbor2.loads(data[8:]) == [0x9004, 7, 8, 9, {"k": [1, None]}, b"abc"]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 8 * KIB, 8 * KIB + 1, 65_507, 70_000, 256 * KIB])
def test_the_outbox_makes_the_same_bytes_however_it_makes_them(size: int) -> None:
    payload = bytes(size)
    outbox = Outbox(WireLimits(), lambda: None)
    outbox.push(0x91, 4, 5, 6, 7, payload)
    assert b"".join(outbox.take()) == pack_prefix(0x91, 4, 5, 6, 7, None, size) + payload


@pytest.mark.repetitive
@pytest.mark.parametrize("type_", [*FrameType, UNKNOWN_OPTIONAL, UNKNOWN_MANDATORY])
@pytest.mark.slow
def test_r3_ten_thousand_frames_of_each_type_come_back_as_they_went(type_: int) -> None:
    numbers = st.integers(0, 2**32 - 1)
    sizes = st.sampled_from([0, 1, 5, 300, 8 * KIB, 9 * KIB])

    @settings(max_examples=EXAMPLES)
    @given(
        flags=st.lists(st.integers(0, 127), min_size=4, max_size=4),
        ids=st.lists(st.integers(0, 2**64 - 1), min_size=5, max_size=5),
        numbers=st.lists(st.tuples(numbers, numbers), min_size=5, max_size=5),
        heads=st.lists(st.none() | HEADS, min_size=2, max_size=2),
        sizes=st.lists(sizes, min_size=2, max_size=2),
        cuts=st.integers(0, 2**32),
    )
    def round_trip(
        flags: list[int],
        ids: list[int],
        numbers: list[tuple[int, int]],
        heads: list[Head | None],
        sizes: list[int],
        cuts: int,
    ) -> None:
        frames: list[Frame] = [
            (type_, flag * 2 & ~FRAGMENT, call_id, a, b, head, bytes([flag]) * size)
            for flag in flags
            for call_id in ids
            for a, b in numbers
            for head in heads
            for size in sizes
        ]
        assert len(frames) == PER_EXAMPLE
        outbox = Outbox(WireLimits(), lambda: None)
        for _, flag, call_id, a, b, head, payload in frames:
            outbox.push(type_, flag, call_id, a, b, payload, head)
        data = b"".join(outbox.take())
        assert open_receiver().receive_data(data) == frames
        assert receive(open_receiver(), random_cuts(data, random.Random(cuts))) == frames

    round_trip()


def test_r3_an_unknown_optional_frame_is_ignored_and_counted(cut: Cut) -> None:
    end = open_end()
    for piece in cut(frame(UNKNOWN_OPTIONAL, 0xFE, 3, 1, 2, b"news", {"from": "the future"}) * 2):
        end.feed(piece)
    assert end.error is None
    assert end.events == []
    assert end.connection.unknown_frames == 2


def test_r3_an_unknown_mandatory_frame_is_refused(cut: Cut) -> None:
    end = open_end()
    for piece in cut(frame(UNKNOWN_MANDATORY)):
        end.feed(piece)
    assert str(end.error) == "frame 0xd5 in state OPEN"


def test_r3_the_mandatory_bit_says_which_types_a_peer_must_know() -> None:
    assert {type_ for type_ in FrameType if not type_ & MANDATORY} == {FrameType.SIGNAL}


class TestBatches:
    """Several items in one payload."""

    @given(st.lists(st.binary(max_size=20), max_size=20))
    def test_items_come_back(self, items: list[bytes]) -> None:
        payload: list[Buffer] = [*items]
        assert unpack_items_untrusted(pack_items(payload)) == items

    def test_they_are_a_cbor_sequence(self) -> None:
        packed = pack_items([b"a", memoryview(b"bc"), bytearray(b"")])
        assert packed == b"\x5a\0\0\0\x01a\x5a\0\0\0\x02bc\x5a\0\0\0\0"
        starts = [0, 6, 13, 18]
        assert [cbor2.loads(packed[i:j]) for i, j in pairwise(starts)] == [b"a", b"bc", b""]

    @pytest.mark.parametrize(
        "payload",
        [
            b"\x5a",
            b"\x5a\0\0\0",
            b"\x5a\0\0\0\x01",
            b"\x5a\0\0\0\x02a",
            b"\x5a\xff\xff\xff\xff",
            b"\x41a",
            b"\x7a\0\0\0\x01a",
            b"\x5a\0\0\0\x01a\x5a",
            b"\x5b" + bytes(8),
        ],
    )
    def test_anything_else_is_refused(self, payload: bytes) -> None:
        with pytest.raises(ValueError, match="a batch"):
            unpack_items_untrusted(payload)

    @given(st.binary(max_size=60))
    def test_random_bytes_unpack_or_raise(self, payload: bytes) -> None:
        try:
            items = unpack_items_untrusted(payload)
        except ValueError:
            return
        assert pack_items([*items]) == payload


def test_errors_of_peers_are_of_one_type() -> None:
    receiver = open_receiver()
    assert receiver.receive_data(bytes(8)) == []
    assert type(receiver.error) is RemoteProtocolError
    with pytest.raises(RemoteProtocolError, match="a frame has 0 bytes; at least"):
        receiver.receive_data(b"")
