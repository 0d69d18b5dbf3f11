"""Consistent hashing: assign sessions to names, so that few sessions move when names come and go.

Each name has :data:`POINTS` points on a ring (Karger and others, 1997). A session belongs to the name
whose point follows the session's own hash. A look-up costs one hash and one binary search.
"""

from __future__ import annotations

from bisect import bisect
from hashlib import blake2b
from struct import unpack
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

POINTS: Final = 64
"""Points of each name. With 64, the shares of names differ by an eighth (a standard deviation)."""

_IN_DIGEST: Final = 8  # numbers of 64 bits that one hash gives


def hash_of(text: str) -> int:
    """Return a number of 64 bits for a text, the same in every process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


@final
class HashRing:
    """A ring of names."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._points: list[int] = []  # in order
        self._owners: list[int] = []  # for each point, its name's index in the list of names

    def have(self, names: Collection[str]) -> None:
        """Put exactly these names on the ring. Cheap if they are the same as before."""
        if len(names) == len(self._names) and all(each in names for each in self._names):
            return
        self._names = list(names)
        points = sorted(
            (point, owner)
            for owner, name in enumerate(self._names)
            for part in range(POINTS // _IN_DIGEST)
            for point in unpack(f"<{_IN_DIGEST}Q", blake2b(f"{part} {name}".encode()).digest())
        )
        self._points = [point for point, _ in points]
        self._owners = [owner for _, owner in points]

    def behind(self, number: int, most: int) -> Iterator[str]:
        """Yield the names at the first ``most`` points after a number, each once in a row."""
        owners, last = self._owners, -1
        start = bisect(self._points, number)
        for index in range(start, start + min(most, len(owners))):
            owner = owners[index % len(owners)]
            if owner != last:
                yield self._names[owner]
                last = owner
