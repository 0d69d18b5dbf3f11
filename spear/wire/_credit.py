"""Flow control: how many bytes each end may still send.

A receiver grants its sender a window of bytes. Sending an item spends credit; when the receiver's
application has taken the item, the receiver returns the credit. The sum of the sender's credit, the bytes
in flight, the unread bytes and the credit about to be returned never changes.

Two rules keep flow control simple and free of deadlocks:

* An item may *begin* while any credit is left, and then spends its whole cost, so credit may fall below
  zero. A sender therefore never waits in the middle of an item, and an item larger than the window still
  passes. A receiver buffers at most one window and one item.
* Each item costs ``ITEM_OVERHEAD_BYTES`` more than its bytes, so a window also bounds the memory of a
  million empty items.
"""

from __future__ import annotations

from typing import Final, final

import attrs

ITEM_OVERHEAD_BYTES: Final = 64
"""About the memory that CPython needs for a small ``bytes`` object and its slot in a queue."""


@final
@attrs.define
class SendWindow:
    """The credit of this side for sending.

    Attributes:
        size: size of the window, as granted by the peer.
        available: credit left; an item may begin while it is above 0, and then spends its whole cost.
    """

    size: int
    available: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.available = self.size

    def grant(self, credit: int) -> bool:
        """Add credit that the peer returned; return False if that is more than was ever spent."""
        self.available += credit
        return self.available <= self.size


@final
@attrs.define
class ReceiveWindow:
    """The credit of the peer for sending to us."""

    size: int
    # Bytes by which items other than the last one begun may overdraw the window. Above 0 only for a whole
    # connection, on which items can overtake each other; items of one stream cannot.
    overdraft: int = 0
    available: int = attrs.field(init=False)
    consumed: int = attrs.field(
        init=False, default=0
    )  # taken by the application, credit not yet returned

    def __attrs_post_init__(self) -> None:
        self.available = self.size

    def receive(self, cost: int) -> bool:
        """Subtract the cost of an arrived item; return False if the peer had no credit to begin it."""
        before = self.available
        self.available -= cost
        return before > 0 or self.available > -self.overdraft

    def consume(self, cost: int) -> int:
        """Count items that the application took; return the credit to send back now, often 0.

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
    """The windows of both directions of one stream, or of a whole connection."""

    __slots__ = ("receive", "send")

    def __init__(self, send_bytes: int, receive_bytes: int, overdraft: int = 0) -> None:
        self.send = SendWindow(send_bytes)
        self.receive = ReceiveWindow(receive_bytes, overdraft)
