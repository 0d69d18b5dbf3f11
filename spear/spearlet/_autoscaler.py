"""How many replicas a deployment should have: pure arithmetic, given times and loads.

More are wanted at once, fewer only when the most that was needed in the last ``idle_seconds`` was less:
to start one too late makes somebody wait, to keep one too long costs some memory.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import TYPE_CHECKING, Final, final

import attrs

if TYPE_CHECKING:
    from ._settings import Scale

MAX_DECISIONS: Final = 64
"""That are remembered."""

_ROUNDING: Final = 1e-9  # 7 / (10 * 0.7) is a little above 1


@final
@attrs.frozen(kw_only=True)
class Load:
    """What a deployment has to do.

    Attributes:
        in_flight: calls that its replicas work on.
        waiting: calls that wait for one.
        concurrency: calls that a replica takes at a time.
    """

    in_flight: int
    waiting: int
    concurrency: int


@final
@attrs.frozen
class ScalingDecision:
    """A number of replicas was changed.

    Attributes:
        time: of Trio's clock.
        before: so many had been wanted.
        after: so many are wanted now.
        reason: why.
    """

    time: float
    before: int
    after: int
    reason: str


@final
class Autoscaler:
    """Decides for one deployment.

    Attributes:
        scale: between which numbers, and how.
        wanted: how many replicas there should be.
    """

    def __init__(self, scale: Scale, wanted: int, now: float) -> None:
        self.scale = scale
        self.wanted = wanted
        self._decisions: deque[ScalingDecision] = deque(maxlen=MAX_DECISIONS)
        # (time, needed): falling numbers, each the most that was needed after the one before it.
        self._needs: deque[tuple[float, int]] = deque([(now, wanted)])

    @property
    def decisions(self) -> tuple[ScalingDecision, ...]:
        """The last ones, oldest first."""
        return tuple(self._decisions)

    def needed(self, load: Load) -> int:
        """How many replicas this load needs, whatever there is now."""
        scale = self.scale
        calls = load.in_flight + load.waiting
        needed = ceil(calls / (load.concurrency * scale.target) - _ROUNDING)
        return min(max(needed + scale.spare, scale.min), scale.max)

    def look(self, now: float, load: Load) -> bool:
        """Take notice of a load; returns whether another number is wanted from now on."""
        needed, needs = self.needed(load), self._needs
        while needs and needs[-1][1] <= needed:
            needs.pop()
        needs.append((now, needed))
        while len(needs) > 1 and needs[0][0] <= now - self.scale.idle_seconds:
            needs.popleft()
        if needed > self.wanted:
            self._decide(now, needed, f"{load.in_flight} calls run, {load.waiting} wait")
            return True
        if needs[0][1] < self.wanted:
            self._decide(now, needs[0][1], f"no more for {self.scale.idle_seconds:g} s")
            return True
        return False

    def change(self, now: float, scale: Scale, reason: str) -> None:
        """Decide between other numbers from now on."""
        self.scale = scale
        wanted = min(max(self.wanted, scale.min), scale.max)
        self._needs = deque([(now, wanted)])
        self._decide(now, wanted, reason)

    def _decide(self, now: float, wanted: int, reason: str) -> None:
        if wanted != self.wanted:
            self._decisions.append(ScalingDecision(now, self.wanted, wanted, reason))
            self.wanted = wanted
