"""Arguments and results: values that can be sent, and values that either side refuses."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from ipaddress import IPv4Address
from typing import cast

import cbor2
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from spear._tagged import BY_TAG
from spear.wire import (
    MAX_VALUE_DEPTH,
    MAX_VALUE_ITEMS,
    TooManyItems,
    decode_value_untrusted,
    encode_value,
)

from .test_heads import TAGS

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.binary(max_size=4), inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.mark.slow
@settings(max_examples=150)
@given(VALUES)
def test_values_come_back_as_they_were(value: object) -> None:
    assert decode_value_untrusted(encode_value(value)) == value


def test_bytearrays_are_bytes_and_tuples_are_lists() -> None:
    assert decode_value_untrusted(encode_value((1, bytearray(b"a")))) == [1, b"a"]


def test_what_cannot_be_sent_is_named() -> None:
    with pytest.raises(TypeError, match="cannot send a object"):
        encode_value([object()])


@pytest.mark.parametrize(
    ("filler", "item"),
    [
        (b"\x80", []), (b"\xa0", {}), (b"\xf6", None), (b"\x01", 1), (b"\x61a", "a"), (b"\x38\x20", -33),
        (b"\x58\x02ab", b"ab"), (b"\x79\x00\x01a", "a"), (b"\xf9\x00\x00", 0.0),
    ],
)  # fmt: skip
def test_s6_each_kind_of_item_counts(
    filler: bytes, item: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spear.wire._values.MAX_VALUE_ITEMS", 1000)
    for count, rest in (999, b""), (1000, b""), (1000, b"\xff"):
        payload = b"\x9a" + count.to_bytes(4, "big") + filler * count + rest
        if count == 1000:
            with pytest.raises(TooManyItems, match="has more than 1000 items: send bytes"):
                decode_value_untrusted(payload)
        else:
            assert decode_value_untrusted(payload) == [item] * count


def test_s6_a_value_has_at_most_a_million_items() -> None:
    for count in MAX_VALUE_ITEMS - 1, MAX_VALUE_ITEMS:
        payload = b"\x9a" + count.to_bytes(4, "big") + b"\x61a" * count
        if count == MAX_VALUE_ITEMS:
            with pytest.raises(TooManyItems, match="has more than 1048576 items"):
                decode_value_untrusted(payload)
        else:
            assert len(cast("list[object]", decode_value_untrusted(payload))) == count


def test_long_strings_are_one_item() -> None:
    value = {"long": b"\x80" * (2 * MAX_VALUE_ITEMS), "text": "x" * 70_000, "short": ["a" * 300]}
    assert decode_value_untrusted(encode_value(value)) == value


def test_odd_objects_can_be_unfolded() -> None:
    assert decode_value_untrusted(encode_value([range(3)], list)) == [[0, 1, 2]]  # type: ignore[arg-type]  # list takes what range is


def test_a_circle_cannot_be_sent() -> None:
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(TypeError, match="cyclic"):
        encode_value(circle)


def test_unfolding_may_refuse() -> None:
    def refuse(odd: object) -> object:
        raise TypeError(f"not {odd!r}")

    with pytest.raises(TypeError, match="not Ellipsis"):
        encode_value(..., refuse)


@pytest.mark.parametrize("tag", sorted({*TAGS} - {2, 3} - {*BY_TAG}))
def test_s6_tags_are_refused(tag: int) -> None:
    with pytest.raises(ValueError, match="not a valid value"):
        decode_value_untrusted(cbor2.dumps([cbor2.CBORTag(tag, "x")]))


SIMPLE = [bytes([0xE0 + number]) for number in (*range(20), 23)]
SIMPLE += [bytes([0xF8, number]) for number in range(32, 256)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"\x81", b""),
        (b"\x82\x61a", b""),
        (b"\xa1\x61a", b""),
        (b"\xa1\x61a\x81" * 20, b""),
        (b"\x82\x59\x08\x00" + bytes(2048), b""),
        (b"\x82\x82", b"\x01\x79\x08\x00" + b"x" * 2048),
    ],
    ids=["alone", "in a list", "behind a text", "in a map", "deep", "behind much", "before much"],
)
def test_of_cbors_simple_values_only_false_true_and_null_are_taken(
    before: bytes, after: bytes
) -> None:
    for simple in b"\xf4", b"\xf5", b"\xf6":
        decode_value_untrusted(before + simple + after)
    for simple in SIMPLE:
        with pytest.raises(ValueError, match="not a valid value: undefined and unknown"):
            decode_value_untrusted(before + simple + after)


def test_bytes_that_look_like_simple_values_are_none() -> None:
    value = ["日本語", b"\xf7\xe0", -2.5e300, {"ÿ": [0xF7F7F7F7]}]
    assert decode_value_untrusted(encode_value(value)) == value
    assert decode_value_untrusted(encode_value(value * 100)) == value * 100


@pytest.mark.parametrize("value", [Fraction(1, 2), IPv4Address(1)])
def test_s6_what_needs_another_tag_is_refused_where_it_arrives(value: object) -> None:
    with pytest.raises(ValueError, match="a tag that is not supported: send text or numbers"):
        decode_value_untrusted(encode_value(value))


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\x01\x01", b"\x9f\x01\xff", b"\xa2\x61a\x01\x61a\x02", b"\x61\xff", b"\x9b\x40" + bytes(7),
        b"\x5b\x40" + bytes(7), b"\x81" * (MAX_VALUE_DEPTH + 1) + b"\x00", b"\x81" * 100_000,
    ],
)  # fmt: skip
def test_s6_t7_bombs_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="not a valid value"):
        decode_value_untrusted(payload)


@pytest.mark.slow
@settings(max_examples=1000)
@given(st.binary(max_size=60))
def test_random_bytes_decode_or_raise_value_error(payload: bytes) -> None:
    with suppress(ValueError):
        decode_value_untrusted(payload)  # raises nothing else
