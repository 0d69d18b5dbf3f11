"""Values made to harm their decoder: their cost, as a ratio (S6, and T7 for values).

A byte can be an empty list. The reference is an honest value with the allowed number of items, decoded in
the same run.
"""

from __future__ import annotations

import tracemalloc
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING, Final
from uuid import UUID

import cbor2
import pytest

from spear._limits import MIB
from spear._tagged import MAX_EQUAL_HASHES, MAX_NUMBERS
from spear.wire import (
    MAX_VALUE_DEPTH,
    MAX_VALUE_ITEMS,
    TooManyItems,
    decode_value_untrusted,
    encode_alone,
    encode_value,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SIZE = 8 * MIB
HUGE = (1 << 62) - 1
PRIME = (1 << 61) - 1
"""Python's hashes of integers are remainders modulo this prime."""

MOST_TIME = 3
"""Limit in multiples of the reference; the usual ratio is about one, the rest is for a busy machine."""

ITEM_BYTES = 128
"""Most bytes of memory per item of an allowed value: a map of one, in a map of one ..."""


def head(kind: int, number: int) -> bytes:
    """Return the first bytes of a string, a list or a map, with the length in eight bytes."""
    return bytes([kind << 5 | 27]) + number.to_bytes(8, "big")


def full(unit: bytes, size: int = SIZE) -> bytes:
    """Return an array of as many units as fit."""
    return head(4, size // len(unit)) + unit * (size // len(unit))


def set_of(members: Iterable[object]) -> bytes:
    """Return a set on the wire, though it may not be allowed."""
    items = [encode_alone(each) for each in members]
    return b"\xd9\x01\x02" + head(4, len(items)) + b"".join(items)


NESTED = b"\x81" * (MAX_VALUE_DEPTH - 2) + b"\x80"

TOO_MANY: Final = {
    "empty lists": full(b"\x80"),
    "empty maps": full(b"\xa0"),
    "nothings": full(b"\xf6"),
    "nested lists": full(NESTED),
    "an endless list": b"\x9f" + b"\x80" * SIZE,
    "endless lists": b"\x9f" * SIZE,
    "a list that claims more": head(4, HUGE) + b"\x80" * SIZE,
    "a map that claims more": head(5, HUGE) + b"\0" * SIZE,
    "tags of tags": b"\xc1" * SIZE,
    "tags": full(b"\xc1\0"),
    "big integers": full(b"\xc2\x41\x01"),
    "big integers of themselves": b"\xc2" * SIZE,
    "the same key": head(5, SIZE // 2) + b"\x40\0" * (SIZE // 2),
}
"""Values with more items than are allowed."""

INVALID: Final = {
    "bytes that claim more": head(2, HUGE) + b"x" * SIZE,
    "a text that claims more": head(3, HUGE) + b"x" * SIZE,
    "a text that ends badly": head(3, SIZE) + b"x" * (SIZE - 1) + b"\xff",
    "too many levels": b"\x81" * SIZE,
    "keys of one hash": head(5, 200_000)
    + b"".join(cbor2.dumps(PRIME * number) + b"\0" for number in range(200_000)),
    "the same key": head(5, 400_000) + b"\x40\0" * 400_000,
    "lists as keys": head(5, 200_000) + b"\x81\x01\0" * 200_000,
}
"""Invalid values with few items."""

ALLOWED: Final = {
    "a big integer": b"\xc2" + head(2, SIZE) + b"\xff" * SIZE,
    "a big negative integer": b"\xc3" + head(2, SIZE) + b"\xff" * SIZE,
    "bytes": encode_value([bytes(SIZE)]),
    "texts": encode_value(["x" * 1000] * (SIZE // 1000)),
}
"""Values of the same size that are no bombs."""

TAGGED: Final = {
    "dates": full(encode_alone(date.today()), SIZE // 4),
    "times": full(encode_alone(datetime.now(UTC))),
    "UUIDs": full(encode_alone(UUID(int=1)), SIZE // 2),
    "decimal numbers": full(encode_alone(Decimal("1.5")), SIZE // 8),
    "empty sets": full(encode_alone(set()), SIZE // 8),
    "empty maps": full(encode_alone({1: 1}), SIZE // 4),
    "nested sets": full(b"\xda\x53\x70\x65\x04\x81" * 30 + b"\x00", SIZE // 4),
    "many numbers as members": set_of(range(1 << 40, 1 << 59, 1 << 40)),
    "numbers of one hash": set_of(PRIME * each for each in range(16_000)),
    "UUIDs of one hash": set_of(UUID(int=PRIME * each) for each in range(16_000)),
    "tuples of one hash": set_of(
        [*[0] * 50, *[-1 - int(bit) for bit in f"{each:013b}"]] for each in range(8_000)
    ),
    "small sets of one hash": full(set_of(PRIME * each for each in range(17)), SIZE // 8),
}
"""Values with more tags, or more numbers in hash tables, than are allowed."""

LONG: Final = {
    "decimal numbers": full(encode_alone(Decimal("-" + "9" * 300))),
    "odd decimal numbers": full(encode_alone(Decimal("sNaN" + "9" * 300))),
    "paths": full(encode_alone(Path("x/" * 15_000 + "x"))),
    "numbers far apart": set_of(each << 42 for each in range(MAX_NUMBERS)),
    "pairs of one hash": set_of([0, -1 - each % 2, each // 2] for each in range(MAX_NUMBERS)),
    "sets of one hash": full(set_of(PRIME * each for each in range(MAX_EQUAL_HASHES)), SIZE // 8),
}
"""Allowed values whose tags take long to decode: long ones, and numbers that share a hash."""


def cost(work: Callable[[], object]) -> float:
    """Return the CPU time of a function, the better of two."""
    took = []
    for _ in range(2):
        begun = thread_time()
        work()
        took.append(thread_time() - begun)
    return min(took)


def refuse(payload: bytes, error: type[ValueError] = ValueError) -> None:
    with pytest.raises(error):
        decode_value_untrusted(payload)


@pytest.mark.slow
@pytest.mark.repetitive
@pytest.mark.parametrize("name", TAGGED)
def test_s6_too_many_tags_are_refused_for_less_than_the_largest_honest_value(
    name: str, yardstick: float
) -> None:
    assert cost(lambda: refuse(TAGGED[name])) <= MOST_TIME * yardstick


@pytest.mark.slow
@pytest.mark.repetitive
@pytest.mark.parametrize("name", LONG)
def test_s6_allowed_tags_take_no_longer_than_the_largest_honest_value(
    name: str, yardstick: float
) -> None:
    assert cost(lambda: decode_value_untrusted(LONG[name])) <= MOST_TIME * yardstick


@pytest.fixture(scope="module")
def yardstick() -> float:
    honest = encode_value(list(range(MAX_VALUE_ITEMS - 1)))
    return cost(lambda: decode_value_untrusted(honest))


@pytest.mark.slow
@pytest.mark.repetitive
@pytest.mark.parametrize("name", TOO_MANY)
def test_s6_a_bomb_is_refused_for_less_than_the_largest_honest_value(
    name: str, yardstick: float
) -> None:
    payload = TOO_MANY[name]
    assert len(payload) > SIZE - len(NESTED)
    assert cost(lambda: refuse(payload)) <= MOST_TIME * yardstick


@pytest.mark.slow
@pytest.mark.repetitive
@pytest.mark.parametrize("name", ["empty lists", "nested lists", "a map that claims more"])
def test_s6_a_bomb_is_refused_before_anything_is_built(name: str) -> None:
    tracemalloc.start()
    try:
        refuse(TOO_MANY[name], TooManyItems)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= MIB


@pytest.mark.slow
@pytest.mark.parametrize("name", INVALID)
def test_s6_what_is_no_value_costs_no_more(name: str, yardstick: float) -> None:
    payload = INVALID[name]
    assert cost(lambda: refuse(payload)) <= MOST_TIME * yardstick


@pytest.mark.parametrize("name", ALLOWED)
def test_s6_what_is_merely_large_costs_less(name: str, yardstick: float) -> None:
    payload = ALLOWED[name]
    assert cost(lambda: decode_value_untrusted(payload)) <= yardstick


@pytest.mark.slow
@pytest.mark.repetitive
@pytest.mark.parametrize(
    ("unit", "items"),
    [
        (b"\x80", 1), (b"\xa0", 1), (b"\x62ab", 1), (b"\xc2\x49" + b"\x01" * 9, 2),
        (NESTED, MAX_VALUE_DEPTH - 1),
        (b"\xa1\x61a" * (MAX_VALUE_DEPTH - 2) + b"\xa0", 2 * MAX_VALUE_DEPTH - 3),
        (b"\xa1\x40" * (MAX_VALUE_DEPTH - 2) + b"\xa0", 2 * MAX_VALUE_DEPTH - 3),
    ],
)  # fmt: skip
def test_s6_the_memory_of_the_worst_values_is_known(unit: bytes, items: int) -> None:
    """Values of a sixteenth of the size, which show the same."""
    count = MAX_VALUE_ITEMS // 16 // items
    payload = full(unit, count * len(unit))
    tracemalloc.start()
    try:
        value = decode_value_untrusted(payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(value, list)
    assert len(value) == count
    assert peak <= count * items * ITEM_BYTES
