"""Arrays in values, small and large, and what a peer may claim of them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, cast

import cbor2
import pytest

from spear import Array, InvalidArguments
from spear._sendable import MAX_LEVELS, CannotSend
from spear.wire import (
    ALIGNMENT,
    ARRAY_TAG,
    BUNDLE_TAG,
    BUNDLED_BYTES,
    Bundle,
    decode_result,
    decode_value_untrusted,
    encode_alone,
    encode_call,
    encode_sendable,
)

if TYPE_CHECKING:
    import random

LARGE = BUNDLED_BYTES // 8


def numbers(count: int) -> Array:
    return Array(struct.pack(f"<{count}d", *range(count)), "<f8")


def as_values(arrived: object) -> object:
    """Return a decoded value with lists for its arrays."""
    if isinstance(arrived, Array):
        return arrived.tolist()
    if isinstance(arrived, list):
        return [as_values(each) for each in arrived]
    if isinstance(arrived, dict):
        return {key: as_values(each) for key, each in arrived.items()}
    return arrived


@pytest.mark.parametrize("count", [0, 1, LARGE - 1, LARGE, LARGE + 7])
def test_arrays_come_back_wherever_they_are(count: int) -> None:
    value = {"a": [numbers(count), numbers(3), {"b": numbers(count + 1)}], "c": 1}
    payload, is_cbor = encode_sendable(value)
    assert is_cbor
    assert isinstance(payload, Bundle) == (count + 1 >= LARGE)
    for received in bytes(payload), memoryview(bytes(payload)):
        assert len(received) == len(payload)
        assert as_values(decode_result(received, is_cbor)) == as_values(value)


def test_arguments_may_be_arrays() -> None:
    for positional, keywords in (
        ([numbers(LARGE)], {}),
        ([1], {"x": numbers(LARGE), "y": numbers(2)}),
    ):
        payload, is_cbor = encode_call("f", positional, keywords)
        assert is_cbor
        arrived = cast("list[object]", decode_value_untrusted(bytes(payload)))
        assert as_values(arrived) == [as_values(positional), as_values(keywords)]


def test_large_arrays_are_views_of_the_payload_and_aligned() -> None:
    payload, _ = encode_sendable([numbers(LARGE), numbers(LARGE + 1)])
    received = bytearray(bytes(payload))
    first, second = cast("list[Array]", decode_result(memoryview(received), True))
    start = received.index(bytes(second.data))
    assert start % ALIGNMENT == 0
    received[start : start + 8] = struct.pack("<d", 99)
    assert cast("list[float]", second.tolist())[0] == 99
    assert second.data.readonly
    assert first.nbytes == LARGE * 8


def test_the_memory_is_not_copied_before_it_is_sent() -> None:
    memory = bytearray(LARGE * 8)
    payload, _ = encode_sendable(Array(memory, "<f8"))
    memory[:8] = struct.pack("<d", 5)
    assert cast("list[float]", cast("Array", decode_result(bytes(payload), True)).tolist())[0] == 5


def test_a_bundle_is_copied_in_steps() -> None:
    payload, _ = encode_sendable([numbers(LARGE), numbers(400_000), numbers(1)])
    assert isinstance(payload, Bundle)
    target = memoryview(bytearray(len(payload)))
    assert len(list(payload.copy_in_steps(target))) == 4  # the first is of less than 1 MiB
    assert target == bytes(payload) == payload.as_view()


def test_alone_an_array_is_one_item() -> None:
    item = encode_alone(numbers(LARGE))
    assert cbor2.loads(item).tag == ARRAY_TAG
    assert as_values(decode_value_untrusted(item)) == as_values(numbers(LARGE))


def test_views_of_larger_elements_are_arrays_and_views_of_bytes_are_bytes() -> None:
    view = memoryview(struct.pack("2d", 1, 2)).cast("d")
    for payload, _ in encode_sendable(view), encode_call("f", [view], {}):
        assert as_values(decode_value_untrusted(bytes(payload))) in ([1, 2], [[[1, 2]], {}])
    assert encode_sendable(memoryview(b"x")) == (b"x", False)


def test_structured_elements_may_be_nested() -> None:
    fields = (("a", "<i4"), ("inner", (("x", "<f8", (2,)), ("y", "|S3"))))
    sent = Array(bytes(46), fields)
    arrived = decode_value_untrusted(bytes(encode_sendable({"a": sent})[0]))
    again = cast("dict[str, Array]", arrived)["a"]
    assert (again.fields, again.shape, again.dtype) == (fields, (2,), "|V23")


def test_what_an_array_cannot_carry_is_named_with_its_place() -> None:
    class Image:
        __array_interface__ = {"typestr": "|O", "shape": (1,), "data": b"12345678"}  # noqa: RUF012

    said = (
        r"f\(images\[0\]\): cannot send a value of type .*Image \(the elements are Python objects\)"
    )
    with pytest.raises(InvalidArguments, match=said):
        encode_call("f", [], {"images": [Image()]})


@pytest.mark.parametrize("fields", [False, True])
def test_an_array_takes_levels(fields: bool) -> None:
    inner: object = Array(bytes(8), (("a", "<f8"),) if fields else "<f8")
    for _ in range(MAX_LEVELS - (35 if fields else 3)):
        inner = [inner]
    decode_value_untrusted(bytes(encode_sendable(inner)[0]))  # raises nothing
    with pytest.raises(CannotSend, match="levels"):
        encode_sendable([inner])


def bundle(content: object, memory: bytes = bytes(64), *, length: int | None = None) -> bytes:
    value = cbor2.dumps([cbor2.CBORTag(ARRAY_TAG, content)])
    mark = b"\xda" + BUNDLE_TAG.to_bytes(4, "big") + b"\x5a"
    head = mark + (len(value) if length is None else length).to_bytes(4, "big") + value
    return head + bytes(-len(head) % ALIGNMENT) + memory


def test_an_honest_bundle_is_decoded() -> None:
    (made,) = cast("list[Array]", decode_value_untrusted(bundle(["<f8", [8], "C", [0, 64]])))
    assert made.tolist() == [0.0] * 8
    (made,) = cast("list[Array]", decode_value_untrusted(bundle(["<f8", [1], "F", [56, 8]])))
    assert made.order == "F"


@pytest.mark.parametrize(
    "payload",
    [
        bundle(["<f8", [8], "C", [1, 64]]),
        bundle(["<f8", [8], "C", [64, 64]]),
        bundle(["<f8", [8], "C", [-64, 64]]),
        bundle(["<f8", [8], "C", [0, -64]]),
        bundle(["<f8", [8], "C", [0, 56]]),
        bundle(["<f8", [8], "C", [0, True]]),
        bundle(["<f8", [8], "C", [0]]),
        bundle(["<f8", [8], "C", 0]),
        bundle(["<f8", [8], "C", None]),
        bundle(["<f8", [8], "C", "x" * 64]),
        bundle(["<f8", [8], "C", [1 << 70, 64]]),
        bundle(["<f8", [8], "C", [0, 1 << 70]]),
        bundle(["<f8", 8, "C", [0, 64]]),
        bundle(["<f8", {}, "C", [0, 64]]),
        bundle([b"<f8", [8], "C", [0, 64]]),
        bundle([["<f8"], [8], "C", [0, 64]]),
        bundle(["|O", [8], "C", [0, 64]]),
        bundle(["<f8", [8], "C"]),
        bundle(["<f8", [8], None, [0, 64]]),
        bundle({}),
        bundle(["<f8", [8], "C", [0, 64]], length=1 << 20),
        bundle(["<f8", [8], "C", [0, 64]], length=3),
        bundle(["<f8", [8], "C", [0, 64]], memory=b""),
        bundle(["<f8", [8], "C", [0, 64]])[:12],
        bundle(["<f8", [8], "C", [0, 64]])[:9],
        cbor2.dumps(cbor2.CBORTag(ARRAY_TAG, ["<f8", [8], "C", [0, 64]])),  # in no bundle
        cbor2.dumps([cbor2.CBORTag(BUNDLE_TAG, b"")]),
        b"\xa1" + cbor2.dumps(cbor2.CBORTag(ARRAY_TAG, ["|u1", [1], "C", b"a"])) + b"\x01",
    ],
)
def test_s6_what_does_not_agree_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="not a valid value"):
        decode_value_untrusted(payload)
    with pytest.raises(ValueError, match="not a valid value"):
        decode_value_untrusted(memoryview(payload))


def test_s6_whatever_a_bundle_says_is_a_value_or_an_error(seed: random.Random) -> None:
    honest = bytes(
        encode_sendable({"a": numbers(LARGE), "b": [Array(bytes(9), "|u1", [3, 3], "F")]})[0]
    )
    outcomes = set()
    for _ in range(2000):
        payload = bytearray(honest)
        for _ in range(seed.randrange(1, 4)):
            payload[seed.randrange(120)] = seed.randrange(256)
        try:
            decode_value_untrusted(memoryview(payload)[: seed.choice([len(payload), 4000])])
            outcomes.add("value")
        except ValueError:
            outcomes.add("error")
    assert outcomes == {"value", "error"}
