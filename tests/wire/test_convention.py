"""Arguments and results as payloads."""

from __future__ import annotations

import array
import enum
from dataclasses import dataclass

import attrs
import pytest

from spear.wire import (
    NO_ARGUMENTS,
    NONE,
    decode_result,
    decode_value_untrusted,
    encode_arguments,
    encode_result,
)
from spear.wire._convention import unfold


@attrs.frozen
class Point:
    x: int
    _y: int


@dataclass
class Line:
    start: Point
    name: str


class Colour(enum.Enum):
    RED = "red"


def test_no_arguments_are_a_constant() -> None:
    assert encode_arguments([], {}) == (NO_ARGUMENTS, True)
    assert decode_value_untrusted(NO_ARGUMENTS) == [[], {}]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_one_buffer_is_sent_as_it_is(kind: type[bytes | bytearray | memoryview]) -> None:
    buffer = kind(b"raw")
    payload, is_cbor = encode_arguments([buffer], {})
    assert payload is buffer
    assert not is_cbor
    assert encode_result(buffer) == (buffer, False)


def test_a_view_of_larger_items_is_its_bytes() -> None:
    numbers = array.array("I", range(5))
    assert encode_result(memoryview(numbers)) == (numbers.tobytes(), False)
    assert encode_arguments([memoryview(b"abcdef")[::2]], {}) == (b"ace", False)


@pytest.mark.parametrize(
    ("positional", "keywords"), [([1, "a"], {}), ([], {"k": None}), ([b"x"], {"k": 1}), ([[b"x"]], {})]
)  # fmt: skip
def test_everything_else_is_cbor(positional: list[object], keywords: dict[str, object]) -> None:
    payload, is_cbor = encode_arguments(positional, keywords)
    assert is_cbor
    assert decode_value_untrusted(bytes(payload)) == [positional, keywords]


@pytest.mark.parametrize("result", [None, 0, "", [], {"a": [b"x"]}, 2**80])
def test_results_come_back(result: object) -> None:
    payload, is_cbor = encode_result(result)
    assert decode_result(bytes(payload), is_cbor) == result


def test_raw_results_come_back() -> None:
    assert decode_result(b"raw", False) == b"raw"
    assert decode_result(NONE, True) is None


def test_objects_become_maps_and_values() -> None:
    payload, _ = encode_result([Line(Point(1, 2), "l"), Colour.RED, Point(3, 4)])
    line = {"start": {"x": 1, "y": 2}, "name": "l"}
    assert decode_result(bytes(payload), True) == [line, "red", {"x": 3, "y": 4}]


def test_other_objects_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="cannot send a Exception"):
        encode_arguments([Exception()], {})
    with pytest.raises(TypeError, match="cannot send a range"):
        unfold(range(3))
