"""Consistent hashing: shares of the instances, and the keys that move."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from spear.calls._ring import HashRing, hash_of

SESSIONS = [hash_of(f"user {number}") for number in range(20_000)]


def homes(ring: HashRing) -> list[str]:
    return [next(ring.behind(each, 8)) for each in SESSIONS]


def ring_of(count: int) -> HashRing:
    ring = HashRing()
    ring.have([f"r-{number}" for number in range(count)])
    return ring


def test_an_empty_ring_has_nothing() -> None:
    assert list(HashRing().behind(7, 8)) == []


def test_shares_are_alike() -> None:
    shares = Counter(homes(ring_of(10)))
    assert len(shares) == 10
    assert max(shares.values()) < 1.6 * min(shares.values())


def test_only_those_move_whose_home_comes_or_goes() -> None:
    ring = ring_of(10)
    before = homes(ring)
    ring.have([f"r-{number}" for number in range(11)])
    after = homes(ring)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"r-10"}
    assert len(moved) < len(SESSIONS) / 11 * 1.5
    ring.have([f"r-{number}" for number in range(10)])
    assert homes(ring) == before


def test_the_same_names_are_the_same_ring() -> None:
    ring = ring_of(3)
    before = homes(ring)
    ring.have(["r-2", "r-0", "r-1"])
    assert homes(ring) == before


def test_names_behind_a_number_differ_from_each_other_in_a_row() -> None:
    ring = ring_of(3)
    for each in SESSIONS[:100]:
        names = list(ring.behind(each, 8))
        assert all(a != b for a, b in pairwise(names))
        assert set(names) <= {"r-0", "r-1", "r-2"}
        assert list(ring.behind(each, 1)) == names[:1]
