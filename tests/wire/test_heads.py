"""Heads: valid contents from a peer, and the cost of refusing all others."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal
from time import thread_time
from typing import TYPE_CHECKING

import cbor2
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from spear import WireLimits
from spear._limits import KIB, MIB
from spear.testing import Cut
from spear.wire import Head, HeadValue, decode_head_untrusted, encode_head
from spear.wire._heads import MAX_BYTES, MAX_DEPTH, MAX_ITEMS, Truncated, skip_item_untrusted

from .helpers import open_receiver, raw_frame, receive

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED_WITHIN_BYTES = 1 * MIB
REFUSED_WITHIN_TIMES = 3  # relative to the largest honest head
"""In CPU time, the shortest of some attempts. Most take a hundredth of that."""

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
HEADS = st.dictionaries(st.text(max_size=6), VALUES, max_size=6)


def one(value: bytes) -> bytes:
    """Return the head ``{"a": value}``."""
    return b"\xa1\x61a" + value


def nested(levels: int) -> bytes:
    """Return nested maps of this depth."""
    return b"\xa1\x61a" * (levels - 1) + b"\xa0"


# Trap T7 of the design: everything that cbor2 accepts by default, and the bombs that were measured.
BOMBS: dict[str, tuple[bytes, str]] = {
    "bytes behind it": (b"\xa0\x00", "extra bytes after the head"),
    "another map behind it": (b"\xa0\xa0", "extra bytes after the head"),
    "duplicate keys": (b"\xa2\x61a\x01\x61a\x02", "[Dd]uplicate"),
    "duplicate keys inside": (one(b"\xa2\x61b\x01\x61b\x01"), "[Dd]uplicate"),
    "the same key, written longer": (b"\xa2\x61a\x01\x78\x01a\x02", "[Dd]uplicate"),
    "number as key": (b"\xa1\x01\x02", "a key is not text"),
    "bytes as key": (b"\xa1\x41a\x02", "a key is not text"),
    "null as key": (b"\xa1\xf6\x02", "a key is not text"),
    "array as key": (b"\xa1\x80\x02", "a key is not text"),
    "map as key, inside": (one(b"\xa1\xa0\x01"), "a key is not text"),
    "tag as key": (b"\xa1\xc0\x61a\x02", "a key is not text"),
    "indefinite map": (b"\xbf\x61a\x01\xff", "indefinite"),
    "indefinite map inside": (one(b"\xbf\x61a\x01\xff"), "indefinite"),
    "indefinite array": (one(b"\x9f\x01\xff"), "indefinite"),
    "indefinite text": (one(b"\x7f\x61a\xff"), "indefinite"),
    "indefinite text as key": (b"\xa1\x7f\x61a\xff\x01", "indefinite"),
    "indefinite bytes": (one(b"\x5f\x41a\xff"), "indefinite"),
    "a break alone": (one(b"\xff"), "indefinite"),
    "reserved forms": (one(b"\x1c"), "reserved"),
    "undefined": (one(b"\xf7"), "simple values"),
    "unassigned simple value": (one(b"\xe0"), "simple values"),
    "simple value in two bytes": (one(b"\xf8\xff"), "simple values"),
    "text that is no UTF-8": (one(b"\x61\xff"), "not valid CBOR"),
    "key that is no UTF-8": (b"\xa1\x61\xff\x01", "not valid CBOR"),
    "not a map but an array": (b"\x80", "must be a map"),
    "not a map but null": (b"\xf6", "must be a map"),
    "not a map but text": (b"\x61a", "must be a map"),
    "nothing": (b"", "ends inside"),
    "17 levels": (nested(17), "deeper than 16"),
    "a million levels": (b"\xa1\x61a" * 20_000, "deeper than 16"),
    "arrays without end": (one(b"\x81" * 60_000), "deeper than 16"),
    "1,025 items": (one(b"\x99\x03\xff" + b"\x00" * 1023), "more than 1024 items"),
    "60,000 empty arrays": (one(b"\x99\xea\x60" + b"\x80" * 60_000), "more than 1024 items"),
    "60,000 empty maps": (one(b"\x99\xea\x60" + b"\xa0" * 60_000), "more than 1024 items"),
    "colliding keys": (
        b"\xb9\x2e\xe0" + b"".join(b"\x1b" + (n * (2**61 - 1)).to_bytes(8) + b"\x00" for n in range(7)),
        "a key is not text",
    ),
    "array of 2^62": (one(b"\x9b\x40" + bytes(7)), "ends inside"),
    "map of 2^62": (b"\xbb\x40" + bytes(7), "ends inside"),
    "map of 2^64-1 inside": (one(b"\xbb" + b"\xff" * 8), "ends inside"),
    "text of 2^62": (one(b"\x7b\x40" + bytes(7)), "ends inside a string"),
    "bytes of 2^64-1": (one(b"\x5b" + b"\xff" * 8), "ends inside a string"),
    "bytes of 2^32-1": (one(b"\x5a" + b"\xff" * 4), "ends inside a string"),
    "number cut off": (one(b"\x1b\x00"), "ends inside a number"),
    "map cut off": (b"\xa2\x61a\x01", "ends inside an item"),
}  # fmt: skip

TAGS = [
    0, 1, 2, 3, 4, 5, 24, 25, 28, 29, 30, 32, 35, 36, 37, 43, 52, 54, 100, 256, 258, 260, 261, 1004,
    43000, 55799, 2**32, 2**64 - 1,
]  # fmt: skip


def peak_bytes(act: Callable[[], object]) -> int:
    """Return the peak of memory allocated by a function."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        act()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def seconds(act: Callable[[], object]) -> float:
    """Return the CPU seconds of a function."""
    begun = thread_time()
    act()
    return thread_time() - begun


def refuse(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_head_untrusted(data)


@pytest.mark.parametrize("name", BOMBS)
def test_s6_t7_bombs_are_refused_before_they_go_off(name: str) -> None:
    data, message = BOMBS[name]
    assert peak_bytes(lambda: refuse(data, message)) < REFUSED_WITHIN_BYTES
    honest = cbor2.dumps({"a": list(range(MAX_ITEMS - 3))})
    rounds = [
        (seconds(lambda: refuse(data, message)), seconds(lambda: decode_head_untrusted(honest)))
        for _ in range(5)
    ]
    refusing, decoding = map(min, zip(*rounds, strict=True))
    assert refusing < REFUSED_WITHIN_TIMES * decoding


# In a frame, an empty head and null are no bombs, but mean that there is no head.
@pytest.mark.parametrize("name", sorted(BOMBS.keys() - {"nothing", "not a map but null"}))
def test_s6_t7_bombs_in_frames_are_refused_however_they_arrive(name: str, cut: Cut) -> None:
    receiver = open_receiver()
    assert receive(receiver, cut(raw_frame(BOMBS[name][0][: 2 * KIB]))) == []
    assert receiver.error is not None


@pytest.mark.parametrize("tag", TAGS)
def test_s6_no_tag_is_taken(tag: int) -> None:
    refuse(one(cbor2.dumps(cbor2.CBORTag(tag, "x"))), "tags are not allowed")
    refuse(cbor2.dumps(cbor2.CBORTag(tag, {})), "tags are not allowed")


def test_s6_sixteen_levels_pass_and_seventeen_do_not() -> None:
    assert decode_head_untrusted(nested(MAX_DEPTH))
    assert decode_head_untrusted(one(b"\x81" * (MAX_DEPTH - 1) + b"\x00"))
    refuse(nested(MAX_DEPTH + 1), "deeper than 16 levels")
    refuse(one(b"\x81" * MAX_DEPTH + b"\x00"), "deeper than 16 levels")


def test_s6_a_thousand_and_24_items_pass_and_one_more_does_not() -> None:
    # The map, a key, the array, and its contents.
    full = list(range(MAX_ITEMS - 3))
    assert decode_head_untrusted(cbor2.dumps({"a": full})) == {"a": full}
    refuse(cbor2.dumps({"a": [*full, 1]}), "more than 1024 items")


def test_s6_64_kib_pass_in_a_frame_and_one_byte_more_does_not(cut: Cut) -> None:
    text = "x" * (MAX_BYTES - 6)
    head = cbor2.dumps({"a": text})
    assert len(head) == MAX_BYTES
    receiver = open_receiver()
    (frame,) = receive(receiver, cut(raw_frame(head)))
    assert frame[5] == {"a": text}
    assert receive(receiver, cut(raw_frame(cbor2.dumps({"a": text + "x"})))) == []
    assert "longer than 65536 bytes" in str(receiver.error)


def test_s6_a_smaller_cap_holds_too(cut: Cut) -> None:
    limits = WireLimits(max_head_bytes=100)
    receiver = open_receiver(limits)
    (frame,) = receive(receiver, cut(raw_frame(cbor2.dumps({"a": "x" * 94}), b"p")))
    assert frame[5] == {"a": "x" * 94}
    receive(receiver, cut(raw_frame(cbor2.dumps({"a": "x" * 96}), b"p")))
    assert "longer than 100 bytes" in str(receiver.error)


@pytest.mark.slow
@settings(max_examples=100)
@given(HEADS)
def test_what_can_be_encoded_comes_back_as_it_was(head: dict[str, HeadValue]) -> None:
    encoded = encode_head(head)
    assert decode_head_untrusted(encoded) == head
    assert cbor2.loads(encoded) == head


@pytest.mark.slow
@settings(max_examples=100)
@given(HEADS, st.data())
def test_a_head_that_is_cut_off_is_refused(head: dict[str, HeadValue], data: st.DataObject) -> None:
    encoded = encode_head(head)
    end = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(Truncated):
        decode_head_untrusted(encoded[:end])


@pytest.mark.slow
@settings(max_examples=1000)
@given(st.binary(max_size=40))
def test_random_bytes_decode_or_raise_value_error(data: bytes) -> None:
    try:
        head = decode_head_untrusted(b"\xa1\x61a" + data)
    except ValueError:
        return
    assert set(head) == {"a"}


def test_the_scan_stops_behind_the_first_item() -> None:
    assert skip_item_untrusted(b"\xff\x82\x01\x02\xff", 1) == 4
    assert skip_item_untrusted(b"\x80", 0) == 1
    assert skip_item_untrusted(b"\xfb" + bytes(8), 0) == 9


class TestEncoding:
    """A head that a receiver would refuse is refused when it is created."""

    @pytest.mark.parametrize(
        ("head", "message"),
        [
            ({"a": object()}, "object"),
            ({"a": datetime(2026, 1, 1)}, "naive"),
            ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "tags are not allowed"),
            ({"a": Decimal(1)}, "tags are not allowed"),
            ({"a": 2**64}, "tags are not allowed"),
            ({"a": {1, 2}}, "tags are not allowed"),
            ({1: "a"}, "a key is not text"),
            ({"a": {b"b": 1}}, "a key is not text"),
            ({"a": "\ud800"}, "surrogates"),
            ({"a": list(range(MAX_ITEMS))}, "more than 1024 items"),
            ({"a": "x" * MAX_BYTES}, "the head has 65544 bytes"),
        ],
    )
    def test_what_a_head_cannot_carry(self, head: Head, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            encode_head(head)

    def test_depth_is_refused_before_the_encoder_meets_it(self) -> None:
        # At 10,000 levels cbor2's encoder overflows the stack, and the process is killed.
        deep: dict[str, HeadValue] = {}
        for _ in range(50_000):
            deep = {"a": deep}
        with pytest.raises(ValueError, match="deeper than 16 levels"):
            encode_head(deep)

    def test_a_circle_is_refused(self) -> None:
        circle: list[HeadValue] = []
        circle.append(circle)
        with pytest.raises(ValueError, match="deeper than 16 levels"):
            encode_head({"a": circle})

    def test_tuples_and_lists_are_arrays(self) -> None:
        mixed: Head = {"a": (1, [2, (3,)])}  # type: ignore[dict-item]  # a head has lists, and takes tuples
        assert decode_head_untrusted(encode_head(mixed)) == {"a": [1, [2, [3]]]}

    def test_sixteen_levels_can_be_encoded(self) -> None:
        deep: HeadValue = 1
        for _ in range(MAX_DEPTH):
            deep = {"a": deep}
        assert isinstance(deep, dict)
        assert decode_head_untrusted(encode_head(deep)) == deep
