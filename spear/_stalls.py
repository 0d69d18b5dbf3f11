"""Instances that wait for themselves: the key and texts that agents and hosts share. A leaf module."""

from __future__ import annotations

from typing import Final

from spear._errors import DeadlineExceeded

STALLED: Final = "spear.stalled"
"""The key in a call's metadata by which an agent reports a stall to its host.

The value names the resource that the waiting calls have used up: ``threads`` or ``calls`` (call slots).
"""

ADVICE: Final = (
    "increase spear.Agent(concurrency=...), add replicas, or call the Python function directly"
)


def because_of(stall: str, late: DeadlineExceeded) -> DeadlineExceeded:
    """Return a DeadlineExceeded that names a stall as its reason; ``late`` if ``stall`` is empty."""
    if not stall:
        return late
    return DeadlineExceeded(f"{late}: {stall}", code="stalled", delivered=late.delivered)
