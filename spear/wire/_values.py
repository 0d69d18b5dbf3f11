"""Arguments and results as CBOR.

What JSON can say, and bytes, and integers of any size. Decoding builds nothing else: no tags but those
of big integers, no indefinite lengths, no duplicate keys.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Final, TypeAlias, cast

import cbor2

Value: TypeAlias = (
    "bool | int | float | str | bytes | list[Value] | dict[str | bytes, Value] | None"
)
"""What can come out of decoding."""

MAX_VALUE_DEPTH: Final = 64

# Every tag cbor2 gives a meaning to, but 2 and 3, which are integers beyond 64 bits.
_REFUSED_TAGS: Final = (
    0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799,
)  # fmt: skip


def encode_value(value: object, unfold: Callable[[object], object] | None = None) -> bytes:
    """One CBOR item.

    Args:
        value: of dicts, lists, tuples, strings, numbers, bytes, booleans, None.
        unfold: called for any other object; returns one of those, or raises TypeError.

    Raises:
        TypeError: there is no CBOR for something in it; the message names its type.
    """

    def default(encoder: cbor2.CBOREncoder, odd: object) -> None:
        if unfold is None:
            _refuse_to_encode(encoder, odd)
        else:
            encoder.encode(unfold(odd))

    try:
        return cbor2.dumps(value, default=default, encoders=_ENCODERS)
    except cbor2.CBOREncodeError as error:
        cause = error.__cause__
        raise TypeError(str(cause if isinstance(cause, TypeError) else error)) from error


def decode_value_untrusted(payload: bytes) -> Value:
    """The one value in ``payload``. Raises ValueError for anything else."""
    source = BytesIO(payload)
    try:
        value = cbor2.CBORDecoder(
            source,
            max_depth=MAX_VALUE_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            semantic_decoders=_DECODERS,
            tag_hook=_refuse,
        ).decode()
    except cbor2.CBORError as error:
        raise ValueError(f"not a valid value: {error.__cause__ or error}") from error
    if source.tell() != len(payload):
        raise ValueError("not a valid value: bytes behind it")
    return cast("Value", value)


def _as_bytes(encoder: cbor2.CBOREncoder, view: memoryview) -> None:
    encoder.encode(bytes(view))  # left to itself, cbor2 writes a list of numbers


def _refuse_to_encode(encoder: cbor2.CBOREncoder, odd: object) -> None:
    raise TypeError(f"cannot send a {type(odd).__qualname__}")


# Dates, decimals and UUIDs are not here: importing their modules would cost every function process
# 5 ms. They are refused by whoever decodes them.
_ENCODERS: Final = {
    memoryview: _as_bytes,
    set: _refuse_to_encode,
    frozenset: _refuse_to_encode,
    complex: _refuse_to_encode,
}


def _refuse(*_: object) -> object:
    raise ValueError("dates, decimals, UUIDs and other tagged values: send text or numbers instead")


_DECODERS: Final = dict.fromkeys(_REFUSED_TAGS, _refuse)
