"""Rate limits for actions of a peer that cost us more than they cost the peer.

This is a token bucket without a clock: the caller passes the time.
"""

from __future__ import annotations

from typing import final

import attrs


@final
@attrs.define
class RateLimit:
    """A token bucket: ``burst`` events at once, ``rate`` a second; an event beyond them is a strike."""

    rate: float
    burst: int
    tokens: float = attrs.field(init=False)
    updated: float = attrs.field(init=False, default=float("-inf"))
    strikes: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.tokens = self.burst

    def _refill(self, now: float) -> None:
        if now > self.updated:
            if self.updated != float("-inf"):
                self.tokens = min(self.burst, self.tokens + (now - self.updated) * self.rate)
            self.updated = now

    def take(self, now: float, count: int = 1) -> bool:
        """Count ``count`` events at time ``now`` unless they exceed the rate; return whether they fit."""
        self._refill(now)
        if self.tokens < count:
            return False
        self.tokens -= count
        return True

    def allow(self, count: int) -> None:
        """Add tokens for ``count`` more events, up to a full burst."""
        self.tokens = max(self.tokens, min(self.burst, self.tokens + count))

    def hit(self, now: float, count: int = 1) -> int:
        """Count ``count`` events at time ``now``; return the number of strikes so far."""
        self._refill(now)
        self.tokens -= count
        if self.tokens < 0:
            # Refill a second's worth: the next strike needs another full second of excess, so one long
            # read of a socket cannot count as two strikes.
            self.tokens += max(1.0, self.rate)
            self.strikes += 1
        return self.strikes
