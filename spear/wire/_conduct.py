"""Limits on the peer's frames that cost this end more to handle than they cost the peer to send.

Each kind of frame has a rate that no well-behaved peer reaches. Exceeding the rate is a strike; too many
strikes are a protocol error. A trusted peer is not counted: a function trusts its host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from spear._errors import RemoteProtocolError

from ._credit import ITEM_OVERHEAD_BYTES
from ._strikes import RateLimit

if TYPE_CHECKING:
    from spear._limits import WireLimits


@final
class PeerConduct:
    """The counts of a peer's offences on one connection, called strikes.

    Methods raise RemoteProtocolError after too many of them.

    Args:
        limits: the limits of this side.
        is_trusted: whether the peer's offences are ignored.

    Attributes:
        controls: the limiter for control frames: heartbeats, SIGNAL frames, grants of little credit and
            the like.
    """

    __slots__ = (
        "_allowed_for",
        "_cancels",
        "_late_credit",
        "_max_strikes",
        "controls",
        "is_trusted",
    )

    def __init__(self, limits: WireLimits, *, is_trusted: bool) -> None:
        self.is_trusted = is_trusted
        self.controls = RateLimit(limits.control_frames_per_second, limits.control_frame_burst)
        self._max_strikes = limits.max_strikes
        self._cancels = RateLimit(limits.cancels_per_second, limits.cancel_burst)
        self._late_credit = 0  # credit bytes that the peer may still spend on its ended calls
        self._allowed_for = 0  # calls of this end that each have added a control frame already

    def control_untrusted(self, now: float, count: int = 1) -> None:
        """Count control frames."""
        if not self.is_trusted and self.controls.hit(now, count) >= self._max_strikes:
            raise RemoteProtocolError("too many control frames")

    def cancel_untrusted(self, now: float) -> None:
        """Count a call that the peer cancelled."""
        if not self.is_trusted and self._cancels.hit(now) >= self._max_strikes:
            raise RemoteProtocolError("too many cancelled calls")

    def signal_untrusted(self, cost: int, calls: int, now: float) -> None:
        """Allow one more control frame for each new call of this end; then count the signal.

        Args:
            cost: number of control frames that the signal counts as.
            calls: number of calls that this end has made so far.
            now: current time.
        """
        self.controls.allow(calls - self._allowed_for)
        self._allowed_for = calls
        self.control_untrusted(now, cost)

    def expect_late_items(self, credit: int) -> None:
        """Allow late items for a call that ended with ``credit`` bytes left to the peer."""
        # Until the peer learns of the end, it may send that much, and the frame that ends its items.
        self._late_credit += max(0, credit) + ITEM_OVERHEAD_BYTES

    def late_items_untrusted(self, cost: int, now: float) -> None:
        """Count late items for an ended call: beyond the credit it had left, as control frames."""
        self._late_credit -= max(cost, ITEM_OVERHEAD_BYTES)
        if self._late_credit < 0:
            self._late_credit = 0
            self.control_untrusted(now)
