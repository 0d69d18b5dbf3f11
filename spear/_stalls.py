"""Instances that wait for themselves: the key and the words that agents and hosts share. A leaf."""

from __future__ import annotations

from typing import Final

from spear._errors import DeadlineExceeded

STALLED: Final = "spear.stalled"
"""The key in a call's metadata by which an agent reports a stall to its host.

The value is ``threads`` or ``calls``: what the calls that wait hold.
"""

ADVICE: Final = (
    "raise spear.Agent(concurrency=...), add replicas, or call the Python function itself"
)


def because_of(stall: str, late: DeadlineExceeded) -> DeadlineExceeded:
    """Return the DeadlineExceeded with the stall that explains it, if the text is not empty."""
    if not stall:
        return late
    return DeadlineExceeded(f"{late}: {stall}", code="stalled", delivered=late.delivered)
