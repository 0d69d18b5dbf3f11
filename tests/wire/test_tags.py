"""Values of the tagged types on the wire: each arrives as it was, and each decoder bears any bytes."""

from __future__ import annotations

import enum
import re
import sys
from collections import UserDict, UserList
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, cast
from uuid import UUID

import cbor2
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from spear import InvalidArguments
from spear._tagged import BY_TAG, PRIVATE_TAGS
from spear.wire import decode_value_untrusted, encode_alone, encode_call, encode_sendable

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

ZONES = st.none() | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
DECIMALS = st.decimals(places=None) | st.builds(
    "{}{}E{}".format, st.sampled_from(["", "-"]), st.integers(0, 10**60), st.integers(-6144, 6144)
).map(Decimal)
PATHS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS: dict[str, SearchStrategy[object]] = {
    "datetime": st.datetimes(timezones=ZONES, allow_imaginary=True),
    "date": st.dates(),
    "time": st.times(timezones=ZONES),
    "duration": st.timedeltas(),
    "decimal": DECIMALS,
    "uuid": st.uuids(),
    "complex": st.complex_numbers(),
    "path": st.builds(Path, PATHS),
    "posixpath": st.builds(PurePosixPath, PATHS),
    "windowspath": st.builds(PureWindowsPath, PATHS),
}
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.binary(max_size=3)
KEYS = st.integers(-(2**63), 2**64 - 1) | st.text(max_size=2) | st.binary(max_size=2)


def is_comparable(value: object) -> bool:
    return value == value


def members(inner: SearchStrategy[object]) -> SearchStrategy[object]:
    return inner.filter(is_comparable)  # a NaN equals nothing, so no test finds it again


HASHABLE = st.recursive(
    PLAIN | st.one_of(*SCALARS.values()).filter(lambda each: "sNaN" not in str(each)),
    lambda inner: st.frozensets(members(inner), max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)
VALUES = st.recursive(
    PLAIN | st.one_of(*SCALARS.values()) | st.sets(members(HASHABLE), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.frozensets(members(HASHABLE), max_size=3)
    ),
    max_leaves=8,
)


def sent(value: object) -> object:
    return decode_value_untrusted(encode_alone(value))


def same(one: object, other: object) -> bool:
    """Return whether two values are the same in type, digits, sign, offset and fold."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(cast("list[object]", other)) and all(
            map(same, one, cast("list[object]", other))
        )
    if isinstance(one, dict):
        there = cast("dict[object, object]", other)
        return list(one) == list(there) and all(
            type(key) is type(also) and same(one[key], there[also])
            for key, also in zip(one, there, strict=True)
        )
    if isinstance(one, set | frozenset):
        there_too = list(cast("set[object]", other))
        return len(one) == len(there_too) and all(
            any(same(each, also) for also in there_too) for each in one
        )
    if isinstance(one, datetime | time):
        also = cast("datetime", other)
        return (one.replace(tzinfo=None), one.utcoffset(), one.fold) == (
            also.replace(tzinfo=None),
            also.utcoffset(),
            also.fold if one.utcoffset() is None or isinstance(one, time) else one.fold,
        )
    return repr(one) == repr(other)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.data())
@pytest.mark.parametrize("name", SCALARS)
def test_each_scalar_arrives_as_it_was(name: str, data: st.DataObject) -> None:
    value = data.draw(SCALARS[name])
    assert same(sent(value), value)


@pytest.mark.slow
@settings(max_examples=300)
@given(VALUES)
def test_values_arrive_as_they_were_wherever_they_stand(value: object) -> None:
    assert same(sent(value), value)


CONTENTS = st.recursive(
    PLAIN | st.floats() | st.text(alphabet="0123456789-+:.TZPEDHMSNaIf;ol=", max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)


def decodes_to_what_comes_back(payload: bytes) -> None:
    with suppress(ValueError):
        value = decode_value_untrusted(payload)
        assert same(sent(value), value)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.data())
@pytest.mark.parametrize("tag", BY_TAG)
def test_s6_any_content_of_a_tag_is_refused_or_comes_back_as_it_is(
    tag: int, data: st.DataObject
) -> None:
    decodes_to_what_comes_back(cbor2.dumps(cbor2.CBORTag(tag, data.draw(CONTENTS))))
    decodes_to_what_comes_back(cbor2.dumps([{"x": cbor2.CBORTag(tag, data.draw(CONTENTS))}]))


@pytest.mark.slow
@settings(max_examples=300)
@given(st.binary(max_size=40))
@pytest.mark.parametrize("tag", BY_TAG)
def test_s6_any_bytes_behind_a_tag_are_refused_or_come_back_as_they_are(
    tag: int, rest: bytes
) -> None:
    head = cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1]
    for payload in head + rest, b"\x82\x01" + head + rest, b"\xd9\x01\x02\x81" + head + rest:
        decodes_to_what_comes_back(payload)


AT_NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        (AT_NOON, "c0 7819 323032362d30312d33315431323a30303a30302b30303a3030"),
        (AT_NOON.replace(tzinfo=None), "da53706500 73 323032362d30312d33315431323a30303a3030"),
        (date(2026, 1, 31), "d903ec 6a 323032362d30312d3331"),
        (time(12), "da53706501 68 31323a30303a3030"),
        (timedelta(microseconds=-1), "da53706502 20"),
        (Decimal("1.50"), "c4 82 21 1896"),
        (Decimal("-0"), "da53706503 62 2d30"),
        (UUID(int=1), "d825 50 00000000000000000000000000000001"),
        (1j, "d9a7f8 82 fb0000000000000000 fb3ff0000000000000"),
        ({1}, "d90102 81 01"),
        (frozenset({1}), "da53706504 81 01"),
        ({1: 2, "a": 3}, "da53706505 84 01 02 6161 03"),
        (Path("a"), "da53706506 61 61"),
        (PurePosixPath("a"), "da53706507 61 61"),
        (PureWindowsPath("a"), "da53706508 61 61"),
        ({(1, "a")}, "d90102 81 82 01 6161"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_type_has_the_bytes_of_the_table(value: object, payload: str) -> None:
    assert encode_alone(value) == bytes.fromhex(payload)
    assert same(decode_value_untrusted(bytes.fromhex(payload)), value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (cbor2.CBORTag(258, [1, True]), "a set with equal members"),
        (cbor2.CBORTag(258, [1, 1]), "a set with equal members"),
        (cbor2.CBORTag(258, ["a", "a"]), "a set with equal members"),
        (cbor2.CBORTag(258, [[1], [1]]), "a set with equal members"),
        (cbor2.CBORTag(258, [{"a": 1}]), "cannot be hashed"),
        (cbor2.CBORTag(258, [[{"a": 1}]]), "cannot be hashed"),
        (cbor2.CBORTag(258, [cbor2.CBORTag(258, [])]), "cannot be hashed"),
        (cbor2.CBORTag(258, [cbor2.CBORTag(PRIVATE_TAGS + 3, "sNaN")]), "cannot be hashed"),
        (cbor2.CBORTag(258, "ab"), "not a set"),
        (cbor2.CBORTag(PRIVATE_TAGS + 5, [1]), "not a map"),
        (cbor2.CBORTag(PRIVATE_TAGS + 5, [1, 2, 1, 3]), "a map with equal keys"),
        (cbor2.CBORTag(PRIVATE_TAGS + 5, [True, 2]), "neither text, bytes nor an integer"),
        (cbor2.CBORTag(PRIVATE_TAGS + 5, [1.0, 2]), "neither text, bytes nor an integer"),
        (cbor2.CBORTag(PRIVATE_TAGS + 5, [2**64, 2]), "a key of more than 64 bits"),
        (cbor2.CBORTag(4, [1_000_000_000, 1]), "an exponent beyond 6144"),
        (cbor2.CBORTag(4, [0, 10**300]), "more than 300 digits"),
        (cbor2.CBORTag(PRIVATE_TAGS + 9, 1), "a tag that is not supported"),
        (cbor2.CBORTag(1, 1), "a tag that is not supported"),
        ([cbor2.CBORTag(1004, "2026-01-31"), cbor2.CBORTag(1, 1)], "a tag that is not supported"),
        (
            [cbor2.CBORTag(1004, "2026-01-31"), cbor2.undefined],
            "undefined and unknown simple values",
        ),
        (cbor2.CBORTag(258, [cbor2.CBORSimpleValue(9)]), "undefined and unknown simple values"),
        ({1: 2}, "map key must be a text string or byte string"),
    ],
)
def test_s6_a_tag_is_refused_with_its_reason(content: object, said: str) -> None:
    with pytest.raises(ValueError, match=f"not a valid value: .*{said}"):
        decode_value_untrusted(cbor2.dumps(content))


def test_s6_a_tag_is_no_key_of_a_map() -> None:
    keys: list[object] = [1j, Decimal(1), date.today(), frozenset()]
    for key in keys:
        payload = b"\xa1" + encode_alone(key) + b"\x00"
        with pytest.raises(ValueError, match="not a valid value"):
            decode_value_untrusted(payload)


def test_s6_tags_and_numbers_in_tables_are_counted_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dates = encode_alone([date.today()] * 1001)
    numbers = encode_alone([set(range(501)), dict.fromkeys(range(501))])
    texts = encode_alone([{f"{each}" for each in range(2000)}, set(range(500))])
    monkeypatch.setattr("spear._tagged.SMALL_TABLE", 500)
    monkeypatch.setattr("spear._tagged.MAX_TAGS", 1000)
    monkeypatch.setattr("spear._tagged.MAX_NUMBERS", 1000)
    decode_value_untrusted(texts)
    for payload in dates, numbers:
        with pytest.raises(ValueError, match="not a valid value: more than 1000"):
            decode_value_untrusted(payload)


def test_a_decimal_number_of_the_largest_exponent_is_a_small_integer() -> None:
    number = cast("Decimal", sent(Decimal("9E+6144")))
    assert sys.getsizeof(int(number)) < 4096


class Colour(enum.Enum):
    RED = "red"
    NIGHT = date(2026, 1, 2)


class Name(str):
    pass


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Order:
    day: date
    colour: Colour


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (Name("tea"), "tea"),
        ((1, "a"), [1, "a"]),
        (Level.HIGH, 3),
        (UserDict({"day": date.min}), {"day": date.min}),
        (UserList([date.min]), [date.min]),
        (range(2), [0, 1]),
        (Colour.RED, "red"),
        (Colour.NIGHT, date(2026, 1, 2)),
        (Order(date.min, Colour.RED), {"day": date.min, "colour": "red"}),
        ({Colour.RED, 1}, {"red", 1}),
        ({Level.HIGH, (1, 2)}, {3, (1, 2)}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_stands_beside_a_tagged_value_arrives_as_it_does_alone(
    value: object, arrives: object
) -> None:
    for beside in [Decimal(1), value], {"beside": Decimal(1), "value": value}:
        arrived = cast("list[object] | dict[str, object]", sent(beside))
        assert (arrived[1] if isinstance(arrived, list) else arrived["value"]) == arrives


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([{1}, object()], "[1]"),
        ({"a": [{1}, object()]}, "['a'][1]"),
        ({(1, object())}, "{...}[1]"),
        (Order(date.min, cast("Colour", object())), ".colour"),
    ],
)
def test_the_place_of_what_cannot_be_sent_is_told(value: object, path: str) -> None:
    with pytest.raises(InvalidArguments, match=re.escape(f"argument 1{path}")):
        encode_call("f", (value,), {})
    with pytest.raises(InvalidArguments, match=re.escape(f"order{path}")):
        encode_call("f", ({1},), {"order": value})


def test_too_many_levels_are_refused_wherever_they_are() -> None:
    value: object = {1}
    for _ in range(58):
        value = [value]
    encode_call("f", (value,), {})
    for edge in Order(date.min, cast("Colour", value)), (value,), UserDict(a=value), {1: value}:
        deeper: object = edge
        for _ in range(4):
            deeper = [deeper]
            with suppress(InvalidArguments):
                encode_call("f", (deeper,), {})
        with pytest.raises(InvalidArguments, match="more than 64 levels"):
            encode_call("f", (deeper,), {})


def test_plain_values_are_bytes_and_others_are_marked() -> None:
    plain: list[object] = [1, [1], {"a": {"b": 1.5}}, {b"a": None}]
    tagged: list[object] = [{1}, [1j], {"a": {1: 2}}]
    for value in plain:
        assert type(encode_sendable(value)[0]) is bytes
        assert type(encode_call("f", (value,), {})[0]) is bytes
    for value in tagged:
        assert type(encode_sendable(value)[0]).__name__ == "TaggedBytes"
        assert type(encode_call("f", (value,), {})[0]).__name__ == "TaggedBytes"
        assert type(encode_call("f", (), {"x": value})[0]).__name__ == "TaggedBytes"
