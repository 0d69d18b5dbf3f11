"""Arguments and results as CBOR.

Values are those of JSON, bytes, integers of any size, and as tags those of the types in
``spear._tagged``, arrays, and values with a codec (``spear._codecs``). Decoding refuses everything else:
other tags, simple values other than false, true and null, indefinite lengths, duplicate keys, and more
than a million items. The number of items is limited because a one-byte empty list takes 64 bytes in
memory, and because decoding blocks the event loop.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import cbor2

from spear._arrays import Array
from spear._codecs import CodecFault, restore_coded
from spear._tagged import BY_TAG, CONTAINERS, Restore, TagBudget

from ._bundles import ARRAY_TAG, restore_array, split_untrusted

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from spear._tagged import TaggedScalar

SingleValue: TypeAlias = (
    "bool | int | float | str | bytes | memoryview | TaggedScalar | Array | None"
)
ValueMap: TypeAlias = "dict[str | bytes, Value] | dict[str | bytes | int, Value]"

# On one line: pyright does not read annotations that are made of several texts.
Value: TypeAlias = "SingleValue | list[Value] | ValueMap | AbstractSet[Value | tuple[Value, ...]]"
"""A decoded value; a memoryview, of shared memory, occurs only at the top level."""

MAX_VALUE_DEPTH: Final = 64

MAX_VALUE_ITEMS: Final = 1 << 20
"""Maximum number of items (numbers, texts, lists ...) in one value: 0.1 to 0.2 s of decoding, 120 MB at
the very worst."""


class TooManyItems(ValueError):
    """A value has more than MAX_VALUE_ITEMS items; it was not checked otherwise."""


UNCOLLECTED_BYTES: Final = 64 * 1024
"""Payload size above which decoding disables the garbage collector. The collector finds nothing, but runs
again and again: a million empty lists take 0.1 s to decode without it, and 0.3 s with it."""

_TYPES: Final = frozenset({type(None), bool, int, float, str, bytes, list, dict})
"""The types that a decoded value without tags is made of."""

CODED_TAG: Final = 0x53706582
"""The tag of a value with a codec: a list of the codec's name and the encoded content."""

_NEVER: Final = frozenset({type(cbor2.undefined), cbor2.CBORSimpleValue})

_ODD_BYTES: Final = bytes((*range(0xE0, 0xF4), 0xF7, 0xF8))
"""First bytes of simple values other than false, true and null."""

SHORT_BYTES: Final = 1024
"""Largest payload searched for such a byte: that takes 0.1 us, a tenth of checking the decoded value."""

TagDecoder: TypeAlias = Callable[[object, bool], object]
"""A decoder of the content of one tag."""

# Every tag that cbor2 decodes, except 2 and 3, which are integers beyond 64 bits.
_KNOWN_TO_CBOR2: Final = (
    0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799,
)  # fmt: skip


def encode_value(value: object, unfold: Callable[[object], object] | None = None) -> bytes:
    """Encode a value as one CBOR item.

    Check first whether the value can be sent (``spear._sendable``), and lower one that is not plain: for
    sets, dates and some other types this function makes other items than the table of tags says, and it
    encodes a memoryview in a list or map as a list of numbers. Refusing such values here, with cbor2,
    would double the time of encoding.

    Args:
        value: made of dicts, lists, tuples, strings, numbers, bytes, booleans and None.
        unfold: called for an object of an unknown type; returns a value of the types above, or raises
            TypeError.

    Raises:
        TypeError: an object in the value cannot be encoded; the message names its type.
    """

    def default(encoder: cbor2.CBOREncoder, odd: object) -> None:
        if unfold is None:
            raise TypeError(f"cannot send a {type(odd).__qualname__}")
        encoder.encode(unfold(odd))

    try:
        return cbor2.dumps(value, default=default)
    except cbor2.CBOREncodeError as error:
        cause = error.__cause__
        raise TypeError(str(cause if isinstance(cause, TypeError) else error)) from error


def decode_value_untrusted(payload: bytes | memoryview, *, passes_on: bool = False) -> Value:
    """Decode a payload, which must be exactly one value.

    Large arrays are views of the payload. A value whose type has a codec is an object of this type.

    Args:
        payload: the encoded value, or a bundle.
        passes_on: whether values with codecs stay encoded, as ``CodedValue``, to be sent again.

    Raises:
        TooManyItems: the value has more than :data:`MAX_VALUE_ITEMS` items.
        CodecFault: a codec is missing, or has raised.
        ValueError: the payload is not valid.
    """
    payload, memory = split_untrusted(payload)
    if len(payload) > MAX_VALUE_ITEMS and _has_too_many_items(payload):
        raise TooManyItems(
            f"the value has more than {MAX_VALUE_ITEMS} items: send bytes, a stream of smaller values, "
            "or several calls"
        )
    source = BytesIO(payload)
    collects = len(payload) > UNCOLLECTED_BYTES and gc.isenabled()
    if collects:
        gc.disable()
    try:
        try:
            value = _decode(source, _STOP)
        except cbor2.CBORError as error:
            if type(error.__cause__) is not _TagFound:
                raise
            source.seek(0)
            value = _decode(source, _tag_decoders(memory, passes_on=passes_on))
    except cbor2.CBORError as error:
        if isinstance(error.__cause__, CodecFault):
            raise error.__cause__ from error.__cause__.__cause__
        raise ValueError(f"not a valid value: {error.__cause__ or error}") from error
    finally:
        if collects:
            gc.enable()
    if source.tell() != len(payload):
        raise ValueError("not a valid value: extra bytes at the end")
    is_long = len(payload) > SHORT_BYTES
    if (is_long or payload.translate(None, _ODD_BYTES) != payload) and not _is_known(value):
        raise ValueError("not a valid value: undefined and unknown simple values are not supported")
    return cast("Value", value)


def _decode(source: BytesIO, decoders: Mapping[int, TagDecoder]) -> object:
    return cbor2.CBORDecoder(
        source,
        max_depth=MAX_VALUE_DEPTH,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
        semantic_decoders=decoders,
        tag_hook=_refuse,
    ).decode()


def _is_known(value: object) -> bool:
    """Return whether a value has no unknown simple values, which cbor2 decodes, too."""
    level = [value]
    while level:
        if not _TYPES.issuperset(map(type, level)):
            if not _NEVER.isdisjoint(map(type, level)):
                return False
            level = [each for each in level if type(each) in CONTAINERS]
        level = gc.get_referents(*level)  # the contents of all lists and maps, collected in C
    return True


def _has_too_many_items(payload: bytes) -> bool:
    """Return whether a payload has more than MAX_VALUE_ITEMS items; undefined for invalid CBOR.

    This takes as long as decoding, so call it only for payloads long enough to have so many items.
    """
    at, end, items = 0, len(payload), 0
    while at < end:
        items += 1
        if items > MAX_VALUE_ITEMS:
            return True
        initial = payload[at]
        at += _HEAD_BYTES[initial]
        if initial in _LENGTH_BYTES:
            at += int.from_bytes(payload[at - _LENGTH_BYTES[initial] : at], "big")
    return False


def _head_bytes(initial: int) -> int:
    """Return the bytes of an item with this first byte, without long strings and list contents."""
    kind, detail = initial >> 5, initial & 31
    if detail < 24:
        return 1 + (detail if kind in _STRINGS else 0)
    return 1 + (1 << (detail - 24) if detail < 28 else 0)


_STRINGS: Final = (2, 3)  # major types: bytes and text
_HEAD_BYTES: Final = tuple(map(_head_bytes, range(256)))
_LENGTH_BYTES: Final = {
    kind << 5 | 24 + power: 1 << power for kind in _STRINGS for power in range(4)
}
"""First bytes of strings that are followed by their length, and the number of bytes of that length."""


def _refuse(*_: object) -> object:
    raise ValueError("a tag that is not supported: send text or numbers")


class _TagFound(Exception):
    """A payload holds a tag, so the tags in it have to be counted while they are decoded."""


def _stop(*_: object) -> object:
    raise _TagFound


_REFUSED: Final = {tag: _refuse for tag in _KNOWN_TO_CBOR2 if tag not in BY_TAG}
_STOP: Final = _REFUSED | dict.fromkeys((*BY_TAG, ARRAY_TAG, CODED_TAG), _stop)


def _tag_decoders(memory: memoryview | None, *, passes_on: bool) -> dict[int, TagDecoder]:
    """Return decoders for the tags of one value, which count what they cost together.

    Args:
        memory: the memory of the value's large arrays; None if the value is in no bundle.
        passes_on: see :func:`decode_value_untrusted`.
    """
    budget = TagBudget()

    def array(content: object, _: bool) -> object:
        budget.spend()
        return restore_array(content, memory)

    def coded(content: object, _: bool) -> object:
        budget.spend()
        if not _is_known(content):  # before the user's code sees it
            _refuse()
        return restore_coded(content, passes_on=passes_on)

    def decoder(restore: Restore) -> TagDecoder:
        def decode(content: object, _: bool) -> object:
            budget.spend()
            return restore(content, budget)

        return decode

    decoders = {tag: decoder(restore) for tag, restore in BY_TAG.items()}
    return _REFUSED | decoders | {ARRAY_TAG: array, CODED_TAG: coded}
