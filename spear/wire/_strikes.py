"""How often a peer may do what costs us more than it costs the peer.

A token bucket without a clock: the caller says what time it is.
"""

from __future__ import annotations

from typing import final

import attrs


@final
@attrs.define
class RateLimit:
    """``burst`` at once, ``rate`` a second for ever; more is a strike and empties the debt."""

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
        """Count ``count`` events of our own at time ``now``, unless they are too many."""
        self._refill(now)
        if self.tokens < count:
            return False
        self.tokens -= count
        return True

    def allow(self, count: int) -> None:
        """Allow ``count`` events more, but never more than a full burst at once."""
        self.tokens = max(self.tokens, min(self.burst, self.tokens + count))

    def hit(self, now: float, count: int = 1) -> int:
        """Count ``count`` events at time ``now``; returns the strikes so far."""
        self._refill(now)
        self.tokens -= count
        if self.tokens < 0:
            # The next strike needs another full second of excess, so that one long read of a
            # socket cannot count as two offences.
            self.tokens += max(1.0, self.rate)
            self.strikes += 1
        return self.strikes
