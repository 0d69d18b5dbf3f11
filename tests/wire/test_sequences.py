"""CBOR sequences are split into their items, whatever the pieces in which they arrive."""

from __future__ import annotations

import random

import pytest

import spear
from spear.wire import MAX_VALUE_ITEMS, SequenceSplitter, encode_alone

LARGE = 1 << 20

VALUES = [
    None, False, 0, -24, 255, 2**70, 1.5, "", "tea" * 100, b"x" * 300, [], [1, [2, ["x"]]], {},
    {"a": {"b": [b"c", 1.0]}, "d": None}, {1, 2, 3}, {1: "one"}, list(range(300)),
]  # fmt: skip


def test_items_are_found_however_they_are_cut(seed: random.Random) -> None:
    encoded = [encode_alone(seed.choice(VALUES)) for _ in range(60)]
    whole = b"".join(encoded)
    assert SequenceSplitter(LARGE).split_untrusted(whole) == encoded
    for longest in (1, 2, 7, 400):
        splitter, found, at = SequenceSplitter(LARGE), [], 0
        while at < len(whole):
            size = seed.randint(1, longest)
            found += splitter.split_untrusted(whole[at : at + size])
            at += size
        assert (found, splitter.is_between) == (encoded, True)


def test_an_incomplete_item_is_not_between_items() -> None:
    splitter = SequenceSplitter(LARGE)
    assert splitter.split_untrusted(b"\x01\x82\x01") == [b"\x01"]
    assert not splitter.is_between


@pytest.mark.parametrize(
    "data",
    [b"\x9f", b"\x7f", b"\x5a\x00\x10\x00\x00", b"\x9a\xff\xff\xff\xff", b"\xba\x00\x10\x00\x00"],
)
def test_an_item_without_bounds_is_refused(data: bytes) -> None:
    with pytest.raises(spear.RemoteProtocolError):
        SequenceSplitter(LARGE).split_untrusted(data)


def test_parts_are_counted_over_an_item_with_tags_and_lists() -> None:
    splitter = SequenceSplitter(1 << 30)
    nested = b"\xc1\x99\xff\xff" * (MAX_VALUE_ITEMS // 0xFFFF)
    assert splitter.split_untrusted(nested) == []
    with pytest.raises(spear.RemoteProtocolError, match="parts"):
        splitter.split_untrusted(b"\xc1\x99\xff\xff")
