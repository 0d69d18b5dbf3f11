"""When to start again what has ended: pure arithmetic, given times and a source of chance."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from random import Random

    from ._settings import RestartPolicy


@final
class RestartBudget:
    """The restarts of one replica: how soon each may come, and when there have been too many.

    Args:
        policy: see :class:`RestartPolicy`.
        rng: spreads the delays, so that replicas that died together do not come back together.
    """

    def __init__(self, policy: RestartPolicy, rng: Random) -> None:
        self._policy = policy
        self._rng = rng
        self._restarts: deque[float] = deque()  # within the last period
        self._failures = 0  # in a row

    def delay_seconds(self, now: float, lived_seconds: float) -> float | None:
        """How long to wait before the next start; None if there have been too many.

        Args:
            now: when it ended.
            lived_seconds: how long it had been ready; 0 if it never was.
        """
        policy = self._policy
        if lived_seconds >= policy.period_seconds:
            self._failures = 0
        while self._restarts and self._restarts[0] <= now - policy.period_seconds:
            self._restarts.popleft()
        if len(self._restarts) >= policy.intensity:
            return None
        self._failures += 1
        longest = min(
            policy.first_delay_seconds * 2.0 ** min(self._failures - 1, 64),
            policy.longest_delay_seconds,
        )
        # Half of it is certain, or a loop could spin by chance; the rest is jitter.
        delay = self._rng.uniform(longest / 2, longest)
        self._restarts.append(now + delay)
        return delay

    def give_up(self) -> float:
        """How long to leave it alone; then all begins anew."""
        self._restarts.clear()
        self._failures = 0
        return self._policy.retry_seconds
