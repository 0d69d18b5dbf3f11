"""The number of replicas that a deployment should have: pure arithmetic with times and loads.

The number rises at once. It falls only to the highest number that was needed in the last
``idle_seconds``: a replica started too late makes a caller wait, one kept too long costs some memory.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import TYPE_CHECKING, Final, final

import attrs

if TYPE_CHECKING:
    from ._settings import Scale

MAX_DECISIONS: Final = 64
"""Decisions that are remembered."""

_ROUNDING: Final = 1e-9  # 7 / (10 * 0.7) is a little above 1


@final
@attrs.frozen(kw_only=True)
class Load:
    """The load of a deployment.

    Attributes:
        in_flight: calls that its replicas work on.
        waiting: calls that wait for a replica.
        concurrency: calls that each replica takes at a time.
    """

    in_flight: int
    waiting: int
    concurrency: int


@final
@attrs.frozen
class ScalingDecision:
    """A change of the number of replicas that are wanted.

    Attributes:
        time: the time of the change, by Trio's clock.
        before: number of replicas that were wanted before.
        after: number of replicas that are wanted from then on.
        reason: the reason, for people.
    """

    time: float
    before: int
    after: int
    reason: str


@final
class Autoscaler:
    """A calculator of the number of replicas that one deployment should have.

    Attributes:
        scale: the range of the number, and how it follows the load.
        wanted: number of replicas that the deployment should have.
    """

    def __init__(self, scale: Scale, wanted: int, now: float) -> None:
        self.scale = scale
        self.wanted = wanted
        self._decisions: deque[ScalingDecision] = deque(maxlen=MAX_DECISIONS)
        # (time, needed): falling numbers, each the most that was needed after the one before it.
        self._needs: deque[tuple[float, int]] = deque([(now, wanted)])

    @property
    def decisions(self) -> tuple[ScalingDecision, ...]:
        """The last decisions, oldest first."""
        return tuple(self._decisions)

    def needed(self, load: Load) -> int:
        """Return how many replicas a load needs, regardless of how many there are."""
        scale = self.scale
        calls = load.in_flight + load.waiting
        needed = ceil(calls / (load.concurrency * scale.target) - _ROUNDING)
        return min(max(needed + scale.spare, scale.min), scale.max)

    def look(self, now: float, load: Load) -> bool:
        """Decide by a new load; returns whether the wanted number has changed."""
        needed, needs = self.needed(load), self._needs
        while needs and needs[-1][1] <= needed:
            needs.pop()
        needs.append((now, needed))
        while len(needs) > 1 and needs[0][0] <= now - self.scale.idle_seconds:
            needs.popleft()
        if needed > self.wanted:
            self._decide(now, needed, f"{load.in_flight} calls in flight, {load.waiting} queued")
            return True
        if needs[0][1] < self.wanted:
            self._decide(now, needs[0][1], f"lower load for {self.scale.idle_seconds:g} s")
            return True
        return False

    def change(self, now: float, scale: Scale, reason: str) -> None:
        """Use another scale from now on, and forget all earlier loads."""
        self.scale = scale
        wanted = min(max(self.wanted, scale.min), scale.max)
        self._needs = deque([(now, wanted)])
        self._decide(now, wanted, reason)

    def _decide(self, now: float, wanted: int, reason: str) -> None:
        if wanted != self.wanted:
            self._decisions.append(ScalingDecision(now, self.wanted, wanted, reason))
            self.wanted = wanted
