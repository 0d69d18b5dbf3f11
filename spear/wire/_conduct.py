"""How a peer behaves: what costs this end more than it costs the peer, counted.

Each kind has a rate that no honest peer reaches. Exceeding the rate is a strike, and too many strikes
are a broken rule. A trusted peer is not counted: a function trusts its host.
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
    """The counts of one connection's peer. Methods raise RemoteProtocolError at one strike too many.

    Args:
        limits: of this end.
        is_trusted: whether nothing is counted.

    Attributes:
        controls: the rate of frames that carry neither calls nor credit in proper portions.
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
        self._late_credit = 0  # of the peer's calls that are over, for items that are under way
        self._allowed_for = 0  # calls of ours for each of which a signal was allowed

    def control_untrusted(self, now: float, count: int = 1) -> None:
        """Count control frames."""
        if not self.is_trusted and self.controls.hit(now, count) >= self._max_strikes:
            raise RemoteProtocolError("too many control frames")

    def cancel_untrusted(self, now: float) -> None:
        """Count a call that the peer has cancelled."""
        if not self.is_trusted and self._cancels.hit(now) >= self._max_strikes:
            raise RemoteProtocolError("too many cancelled calls")

    def signal_untrusted(self, cost: int, calls: int, now: float) -> None:
        """Count a signal as control frames, and allow one more for each call of ours.

        Args:
            cost: how many signals it counts for.
            calls: how many calls this end has ever made.
            now: the time.
        """
        self.controls.allow(calls - self._allowed_for)
        self._allowed_for = calls
        self.control_untrusted(now, cost)

    def expect_late_items(self, credit: int) -> None:
        """Expect items of a call that is over: it had so much credit left when it ended."""
        # The peer may have sent so much before it knows, and the end of its items.
        self._late_credit += max(0, credit) + ITEM_OVERHEAD_BYTES

    def late_items_untrusted(self, cost: int, now: float) -> None:
        """Count items for a call that is over as control frames, beyond the credit that it had left."""
        self._late_credit -= max(cost, ITEM_OVERHEAD_BYTES)
        if self._late_credit < 0:
            self._late_credit = 0
            self.control_untrusted(now)
