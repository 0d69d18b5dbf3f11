"""CBOR sequences (RFC 8742) that arrive piece by piece: find where each item ends, and decode none."""

from __future__ import annotations

from typing import Final, final

from spear._errors import RemoteProtocolError

from ._values import MAX_VALUE_ITEMS

_TEXT_OR_BYTES: Final = (2, 3)
_ARRAY: Final = 4
_MAP: Final = 5
_TAG: Final = 6


@final
class SequenceSplitter:
    """A splitter of one CBOR sequence into its items.

    The cost of a piece does not depend on the pieces before it.

    Args:
        max_item_bytes: most bytes of an item.
    """

    def __init__(self, max_item_bytes: int) -> None:
        self._max_item_bytes = max_item_bytes
        self._buffer = bytearray()  # begins with an item
        self._at = 0  # before this, the item was looked at
        self._missing = 1  # parts of the item that follow: numbers, texts, lists ...

    @property
    def is_between(self) -> bool:
        """Whether no item has arrived in part."""
        return not self._buffer

    def split_untrusted(self, data: bytes) -> list[bytes]:
        """Add received bytes; return the items that are complete now, each with its encoding.

        Raises:
            RemoteProtocolError: an item is too large, has too many parts, or has an indefinite length.
        """
        buffer = self._buffer
        buffer += data
        found: list[bytes] = []
        start, at, missing, end = 0, self._at, self._missing, len(buffer)
        while at < end:
            initial = buffer[at]
            kind, number, size = initial >> 5, initial & 31, 1
            if number >= 28:
                raise RemoteProtocolError(
                    "an item has an indefinite length, which is not supported"
                )
            if number >= 24:
                size += 1 << (number - 24)
                if at + size > end:
                    break
                number = int.from_bytes(buffer[at + 1 : at + size], "big")
            if kind in _TEXT_OR_BYTES:
                size += number
            elif kind == _ARRAY:
                missing += number
            elif kind == _MAP:
                missing += 2 * number
            elif kind == _TAG:
                missing += 1
            if at + size - start > self._max_item_bytes or missing > MAX_VALUE_ITEMS:
                raise RemoteProtocolError(
                    f"an item has more than {self._max_item_bytes} bytes or {MAX_VALUE_ITEMS} parts"
                )
            if at + size > end:
                break
            at += size
            missing -= 1
            if not missing:
                found.append(bytes(buffer[start:at]))
                start, missing = at, 1
        if start:
            del buffer[:start]
        self._at, self._missing = at - start, missing
        return found
