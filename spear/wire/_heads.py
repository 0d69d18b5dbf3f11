"""The optional head of a frame: a small CBOR map, decoded strictly.

A head comes from a peer, so it is checked before it is decoded. cbor2 alone accepts trailing bytes, tags
that build regular expressions or cyclic lists, and 64 KiB of empty maps that become megabytes of objects.
The scan below refuses all of these before anything is allocated.

This is the only module of the wire package that imports cbor2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias, cast

import cbor2

HeadValue: TypeAlias = (
    "bool | int | float | str | bytes | list[HeadValue] | dict[str, HeadValue] | None"
)
Head: TypeAlias = Mapping[str, HeadValue]

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16
MAX_ITEMS = 1024


class Truncated(ValueError):
    """The data ends before the item does."""


class HeadRefused(ValueError):
    """A head cannot be sent.

    Attributes:
        code: code of the LocalProtocolError that this error is converted to.
    """

    def __init__(self, message: str, code: str = "head_not_sendable") -> None:
        super().__init__(message)
        self.code = code


# Major types of CBOR (RFC 8949, section 3.1).
_BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = 2, 3, 4, 5, 6, 7


def encode_head(head: Head) -> bytes:
    """Encode a head as one CBOR map, within the limits that every receiver accepts.

    Raises:
        HeadRefused: the head cannot be encoded within these limits; the message says why.
    """
    _check_depth(head, MAX_DEPTH)
    try:
        encoded = cbor2.dumps(head)
        skip_item_untrusted(encoded, 0)
    except (cbor2.CBOREncodeError, ValueError) as error:
        raise HeadRefused(f"the head cannot be encoded: {error}") from error
    if len(encoded) > MAX_BYTES:
        message = f"the head has {len(encoded)} bytes; at most {MAX_BYTES} are allowed"
        raise HeadRefused(message, "head_too_large")
    return encoded


def _check_depth(value: object, levels: int) -> None:
    # cbor2 6.2 encodes recursively without a limit: 10,000 levels crash the process.
    children: Iterable[object]
    if isinstance(value, Mapping):
        children = value.values()
    elif isinstance(value, list | tuple):
        children = value
    else:
        return
    if not levels:
        raise HeadRefused(f"the head cannot be encoded: nested deeper than {MAX_DEPTH} levels")
    for child in children:
        _check_depth(child, levels - 1)


def decode_head_untrusted(data: bytes) -> dict[str, HeadValue]:
    """Decode the head of a peer's frame: exactly one CBOR map with text keys; return it as a dict.

    Raises:
        ValueError: ``data`` is not such a map, or has bytes behind the map.
    """
    end = skip_item_untrusted(data, 0)
    if end != len(data):
        raise ValueError("extra bytes after the head")
    return load_map_untrusted(data)


def load_map_untrusted(data: bytes) -> dict[str, HeadValue]:
    """Decode a map that :func:`skip_item_untrusted` has accepted. Raises ValueError."""
    if not data or data[0] >> 5 != _MAP:
        raise ValueError("a head must be a map")
    try:
        head = cbor2.loads(
            data, max_depth=MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False
        )
    except cbor2.CBORError as error:
        raise ValueError(f"a head is not valid CBOR: {error}") from error
    return cast("dict[str, HeadValue]", head)


def skip_item_untrusted(data: bytes, position: int) -> int:
    """Return the offset after the CBOR item that begins at ``position``, without building it.

    Refuses tags, indefinite lengths, simple values other than false, true and null, keys that are not
    text, more than 16 levels and more than 1,024 items. Raises ValueError with the reason.
    """
    end = len(data)
    # One entry for each open container: how many items are still to come, and whether it is a map.
    remaining, is_map = 1, False
    open_containers: list[tuple[int, bool]] = []
    items = 0
    while True:
        while remaining == 0:
            if not open_containers:
                return position
            remaining, is_map = open_containers.pop()
        # Keys and values alternate: with an even number of items left, the next one is a key.
        key_expected = is_map and remaining % 2 == 0
        remaining -= 1
        items += 1
        if items > MAX_ITEMS:
            raise ValueError(f"more than {MAX_ITEMS} items")
        if position >= end:
            raise Truncated("ends inside an item")
        initial = data[position]
        major, info = initial >> 5, initial & 31
        if key_expected and major != _TEXT:
            raise ValueError("a key is not text")
        position, argument = _argument_untrusted(data, position + 1, end, info)
        if major in (_BYTES, _TEXT):
            position += argument
            if position > end:
                raise Truncated("ends inside a string")
        elif major in (_ARRAY, _MAP):
            open_containers.append((remaining, is_map))
            if len(open_containers) > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
            is_map = major == _MAP
            remaining = 2 * argument if is_map else argument
        elif major == _TAG:
            raise ValueError("tags are not allowed")
        elif major == _SIMPLE and (info < 20 or info == 23 or info == 24):
            raise ValueError("simple values other than false, true and null are not allowed")


def _argument_untrusted(data: bytes, position: int, end: int, info: int) -> tuple[int, int]:
    """Return the offset after an item's argument, and the argument."""
    if info < 24:
        return position, info
    if info > 27:
        raise ValueError("indefinite lengths and reserved forms are not allowed")
    behind = position + (1 << (info - 24))
    if behind > end:
        raise Truncated("ends inside a number")
    return behind, int.from_bytes(data[position:behind], "big")
