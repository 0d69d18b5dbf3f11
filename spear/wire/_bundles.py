"""Arrays in values: as a tag, and as a bundle of a value and the memory of its large arrays.

An array is a tag over ``[data type, shape, order, memory]``. The memory of a small array is a byte string
there. The memory of a large one follows the value, at a place that the tag names, so that encoding and
decoding do not touch it::

    da 53706581 5a nn nn nn nn    the mark of a bundle, and the length of the value
    value                         one CBOR item
    00 ...                        up to a multiple of 64 bytes from the beginning
    memory                        of all large arrays, each at a multiple of 64 bytes

A decoded array is a view of the payload. So an array is copied once, into a segment, on its way to
another process, or never if the payload is one already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

from spear._arrays import MAX_FIELD_LEVELS, Array, ArrayPieces
from spear._segments import Segment

ARRAY_TAG: Final = 0x53706580
BUNDLE_TAG: Final = 0x53706581

LEVELS_OF_ARRAY: Final = 3
"""Levels of nesting that an array takes in a value: the tag, its content, and the shape in it."""

LEVELS_OF_FIELDS: Final = LEVELS_OF_ARRAY + 2 * MAX_FIELD_LEVELS
"""Levels that an array of structured elements may take."""

BUNDLED_BYTES: Final = 16 * 1024
"""Memory from which on an array follows the value. To copy less costs less than a place of its own."""

ALIGNMENT: Final = 64
"""A multiple of the alignment of all types of elements, and the size of a line of the cache."""

_MARK: Final = b"\xda" + BUNDLE_TAG.to_bytes(4, "big") + b"\x5a"
HEAD_BYTES: Final = len(_MARK) + 4


@final
class ArrayMemory:
    """The memory of the large arrays of a value, in the order in which it follows the value.

    Attributes:
        views: all pieces of memory, and the padding between arrays.
        size: bytes of all of it.
    """

    __slots__ = ("size", "views")

    def __init__(self) -> None:
        self.views: list[memoryview] = []
        self.size = 0

    def add(self, views: list[memoryview], size: int) -> int:
        """Add the memory of an array, of so many bytes in one or several pieces; return its offset."""
        offset = self.size
        self.views += views
        if size % ALIGNMENT:
            self.views.append(memoryview(_padding(size)))
        self.size += _aligned(size)
        return offset


@final
class Bundle(Segment):
    """An encoded value, and the memory of its arrays, which is not copied before the bundle is sent.

    Args:
        value: the encoded value.
        memory: the memory of its large arrays, placed by ``array_content()``.
    """

    __slots__ = ("_memory", "_size", "_value")

    def __init__(self, value: bytes, memory: ArrayMemory) -> None:
        self._value = value
        self._memory = memory
        self._size = _aligned(HEAD_BYTES + len(value)) + memory.size

    def __len__(self) -> int:
        return self._size

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Iterate over the payload in pieces; together they have its length."""
        yield _MARK + len(self._value).to_bytes(4, "big")
        yield self._value
        yield _padding(HEAD_BYTES + len(self._value))
        yield from self._memory.views

    def as_view(self) -> memoryview:
        """Return a view of a copy."""
        return memoryview(self.as_bytes())

    def as_bytes(self) -> bytes:
        """Return the payload in one piece."""
        return b"".join(self.pieces())


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _padding(size: int) -> bytes:
    return bytes(-size % ALIGNMENT)


def array_content(array: Array | ArrayPieces, memory: ArrayMemory | None) -> list[object]:
    """Return the content of an array's tag; add the memory of a large array to ``memory``, if any."""
    size = array.nbytes
    views = [array.data] if isinstance(array, Array) else array.pieces
    if memory is not None and size >= BUNDLED_BYTES:
        place: object = [memory.add(views, size), size]
    else:
        place = b"".join(views)
    return [array.fields or array.dtype, array.shape, array.order, place]


def split_untrusted(payload: bytes | memoryview) -> tuple[bytes, memoryview | None]:
    """Return the value in a payload, and the memory of its arrays if a bundle. Raises ValueError."""
    if payload[: len(_MARK)] != _MARK:
        return (payload if type(payload) is bytes else bytes(payload)), None
    end = HEAD_BYTES + int.from_bytes(payload[len(_MARK) : HEAD_BYTES], "big")
    if end > len(payload):
        raise ValueError("not a valid value: a bundle of arrays is incomplete")
    return bytes(payload[HEAD_BYTES:end]), memoryview(payload)[_aligned(end) :].toreadonly()


def restore_array(content: object, memory: memoryview | None) -> Array:
    """Return the array of a tag's content. Raises ValueError.

    Args:
        content: the decoded content of the tag.
        memory: the memory that follows the value; None if the value is in no bundle.
    """
    if type(content) is not list or len(content) != 4:
        raise ValueError("not a valid array: a data type, a shape, an order and memory")
    dtype, shape, order, place = content
    data = place
    if type(place) is list:
        if list(map(type, place)) != [int, int] or min(place) < 0 or memory is None:
            raise ValueError(
                "not a valid array: its memory must be bytes, or an offset and a length"
            )
        start, size = place
        if start + size > len(memory):
            raise ValueError("not a valid array: its memory lies outside of the payload")
        data = memory[start : start + size]
    elif type(place) is not bytes:
        raise ValueError("not a valid array: its memory must be bytes, or an offset and a length")
    if type(dtype) not in (str, list) or type(shape) is not list:
        raise ValueError(
            "not a valid array: its data type must be text or fields, its shape a list"
        )
    return Array(data, dtype, shape, order)
