"""Flow control: who may still send how many bytes.

A receiver lends its sender a window of bytes. Sending an item spends credit; when the receiver's
application has taken the item, the receiver gives the credit back. The sum of what the sender may
spend, what is under way, what is unread and what is about to be given back never changes.

Two rules keep this simple and free of deadlocks:

* An item may *begin* while any credit is left, and is then spent whole, so credit may fall below
  zero. An item that has begun never has to wait in the middle, hence an item larger than the window
  still passes. A receiver holds at most one window and one item.
* Each item costs ``ITEM_OVERHEAD_BYTES`` more than its bytes, so that a window bounds the memory of
  a million empty items as well.
"""

from __future__ import annotations

from typing import Final, final

import attrs

ITEM_OVERHEAD_BYTES: Final = 64
"""About what CPython needs for a small ``bytes`` object and its place in a queue."""


@final
@attrs.define
class SendWindow:
    """What this side may still send.

    Attributes:
        size: what was lent.
        available: what is left: an item may begin while it is above 0, and then takes its whole cost.
    """

    size: int
    available: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.available = self.size

    def grant(self, credit: int) -> bool:
        """Give back what the peer has returned; False if that is more than was ever spent."""
        self.available += credit
        return self.available <= self.size


@final
@attrs.define
class ReceiveWindow:
    """What the peer may still send us."""

    size: int
    # How far it may be overdrawn by items that are not the last of those the sender has begun: a
    # connection's items overtake each other, those of one stream do not.
    overdraft: int = 0
    available: int = attrs.field(init=False)
    consumed: int = attrs.field(
        init=False, default=0
    )  # taken by the application, not yet given back

    def __attrs_post_init__(self) -> None:
        self.available = self.size

    def receive(self, cost: int) -> bool:
        """Account for an item that arrived; False if the peer had no credit to begin it."""
        before = self.available
        self.available -= cost
        return before > 0 or self.available > -self.overdraft

    def consume(self, cost: int) -> int:
        """Account for items the application took; returns the credit to give back now, often 0.

        Credit is returned in portions of half a window: one frame for thousands of small items.
        """
        self.consumed += cost
        if self.consumed * 2 < self.size:
            return 0
        credit, self.consumed = self.consumed, 0
        self.available += credit
        return credit


@final
class Windows:
    """Both directions of one stream, or of a whole connection."""

    __slots__ = ("receive", "send")

    def __init__(self, send_bytes: int, receive_bytes: int, overdraft: int = 0) -> None:
        self.send = SendWindow(send_bytes)
        self.receive = ReceiveWindow(receive_bytes, overdraft)
