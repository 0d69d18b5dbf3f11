"""The shape of one frame on the wire.

A frame is ``u64 little-endian length | one CBOR array of six items``. Every item but the head has a
fixed width, so one ``struct`` packs or unpacks a whole frame, while any CBOR decoder still reads it
with ``loads(frame[8:])``::

    86                            array of six
        19 tt ff                      frame type, flags
        1b id id id id id id id id    call id (0: the connection itself)
        1a aa aa aa aa                a number, whose meaning depends on the type
        1a bb bb bb bb                another one
        f6 | map                      head: null, or a small map with text keys
        5a nn nn nn nn ...            payload: last, so that it can be sliced out

This module defines the layout, the frame types and the flags. It contains no rule about the order of
frames.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final, TypeAlias, final

from spear._segments import Segment

from ._heads import Head

Buffer: TypeAlias = bytes | bytearray | memoryview


@final
class TaggedBytes(bytes):
    """A CBOR payload that holds tags, which only a peer with the feature ``types`` decodes."""

    __slots__ = ()


Payload: TypeAlias = Buffer | Segment
"""A payload that can be sent."""

Received: TypeAlias = bytes | Segment
"""A received payload: ``bytes``, unless the peer passed it in a segment."""

Frame: TypeAlias = tuple[int, int, int, int, int, Head | None, Received]
"""(type, flags, call id, a, b, head, payload): a bare tuple, because building a named one for every
frame costs more than parsing it (0.30 us against 0.04 us)."""


class FrameType(enum.IntEnum):
    """The type of a frame. A receiver that does not know a type with the top bit set must disconnect."""

    CHALLENGE = 0x81
    AUTH_REQUEST = 0x82
    AUTH_RESPONSE = 0x83
    ANNOUNCE = 0x84
    HEALTH_CHECK = 0x85
    HEALTH_RESPONSE = 0x86
    CLOSE = 0x87
    EXECUTION_REQUEST = 0x90
    EXECUTION_RESPONSE = 0x91
    ERROR = 0x92
    CANCEL = 0x93
    BODY = 0x94
    STREAM_DATA = 0x95
    CREDIT = 0x96
    LEND = 0x97
    RELEASE = 0x98
    SIGNAL = 0x17


MANDATORY: Final = 0x80

# Flags. Their meaning is the same in every frame type that allows them.
FRAGMENT: Final = (
    0x01  # this frame carries a part of a payload; in a first one without MORE: SEGMENT
)
MORE: Final = 0x02  # further parts follow in BODY frames
SEGMENT: Final = (
    FRAGMENT  # request, response: the payload is in a descriptor that comes with the frame
)
CBOR: Final = 0x04  # the payload is CBOR; otherwise it is the bytes themselves
STREAM: Final = 0x08  # request: items follow from the caller
REPLY_STREAM: Final = 0x10  # request: the caller takes items
LAST: Final = 0x20  # stream data: no item follows this one
BATCH: Final = 0x40  # stream data: the payload holds several items
DELIVERED_MAYBE: Final = 0x40  # error: the function may have run
DELIVERED_YES: Final = 0x80  # error: the function has run
SHARED: Final = 0x80  # request, response: a SharedBuffer, to be viewed and not copied

NO_DEADLINE: Final = 0xFFFF_FFFF

# The struct of a plain frame: one without a head. The constants between the fields are CBOR type bytes,
# in pairs where they touch: packing 14 values costs 0.14 us, 11 cost 0.12.
PLAIN: Final = Struct(">HBBBQBIBIHI")
LENGTH: Final = Struct("<Q")

# A plain frame with its length prefix, for frames below 64 KiB, where only two bytes of the little-endian
# length can be nonzero. This saves a second struct and a concatenation (0.11 us of 0.36).
SHORT: Final = Struct(">BB6xHBBBQBIBIHI")
_ITEM: Final = Struct(">BI")

ARRAY_KIND: Final = 0x8619  # array of six, uint16 follows
ID: Final = 0x1B  # uint64 follows
NUMBER: Final = 0x1A  # uint32 follows
NULL_BYTES: Final = 0xF65A  # null; byte string with a uint32 length

PREFIX_BYTES: Final = LENGTH.size
PLAIN_BYTES: Final = PLAIN.size
"""Bytes of the body of a frame with neither head nor payload: the smallest body."""

HEAD_OFFSET: Final = PLAIN_BYTES - 6
"""Offset of the head in the body: everything before it has a fixed width."""

BYTES_BYTES: Final = 5
"""Bytes of the payload's CBOR prefix: ``5a`` and its length."""


def pack_prefix(
    type_: int, flags: int, call_id: int, a: int, b: int, head: bytes | None, size: int
) -> bytes:
    """Return the part of a frame before its ``size`` bytes of payload."""
    if head is None:
        return LENGTH.pack(PLAIN_BYTES + size) + PLAIN.pack(
            ARRAY_KIND, type_, flags, ID, call_id, NUMBER, a, NUMBER, b, NULL_BYTES, size
        )
    plain = PLAIN.pack(
        ARRAY_KIND, type_, flags, ID, call_id, NUMBER, a, NUMBER, b, NULL_BYTES, size
    )
    body = PLAIN_BYTES - 1 + len(head) + size
    return LENGTH.pack(body) + plain[:HEAD_OFFSET] + head + _ITEM.pack(0x5A, size)


def pack_items(items: list[Buffer]) -> bytes:
    """Join stream items into one payload: a CBOR sequence of byte strings (RFC 8742)."""
    parts: list[Buffer] = []
    for item in items:
        parts.append(_ITEM.pack(0x5A, len(item)))
        parts.append(item)
    return b"".join(parts)


def unpack_items_untrusted(payload: bytes) -> list[bytes]:
    """Split a payload into the items of a batch.

    Raises:
        ValueError: the payload is not a sequence of byte strings with four-byte lengths.
    """
    items = []
    position, end = 0, len(payload)
    unpack = _ITEM.unpack_from
    while position < end:
        if end - position < BYTES_BYTES:
            raise ValueError("a batch ends inside an item")
        marker, size = unpack(payload, position)
        start = position + BYTES_BYTES
        position = start + size
        if marker != 0x5A or position > end:
            raise ValueError("a batch contains data other than byte strings")
        items.append(payload[start:position])
    return items
