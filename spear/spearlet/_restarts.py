"""The times at which an ended replica is restarted, and the error when it was restarted too often.

Pure functions of times and random numbers.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

from spear._errors import SpawnFailed, SpearError, WorkerDied
from spear._failures import first_line

if TYPE_CHECKING:
    from random import Random

    from ._settings import RestartPolicy


@final
class RestartBudget:
    """A budget for the restarts of one replica: the delay before each, and the limit of their number.

    Args:
        policy: see :class:`RestartPolicy`.
        rng: spreads the delays, so that replicas that died together do not come back together.
    """

    def __init__(self, policy: RestartPolicy, rng: Random) -> None:
        self._policy = policy
        self._rng = rng
        self._restarts: deque[float] = deque()  # times of restarts within the last period
        self._failures = 0  # in a row

    def delay_seconds(self, now: float, lived_seconds: float) -> float | None:
        """Return how long to wait before the next start; None if there have been too many restarts.

        Args:
            now: the time at which the replica ended.
            lived_seconds: seconds since its start; 0 if it was never ready.
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
        # Half of the delay is fixed, so that no loop can spin by chance; the rest is jitter.
        delay = self._rng.uniform(longest / 2, longest)
        self._restarts.append(now + delay)
        return delay

    def give_up(self) -> float:
        """Forget all restarts; returns how long to wait before the replica is tried again."""
        self._restarts.clear()
        self._failures = 0
        return self._policy.retry_seconds


def verdict_of(policy: RestartPolicy, failure: SpearError) -> WorkerDied:
    """Return the error for callers when all replicas have been given up."""
    verdict = WorkerDied(
        f"given up after {policy.intensity} restarts within {policy.period_seconds:g} s: "
        f"{first_line(failure)}",
        code="given_up",
        delivered="no",
    )
    if isinstance(failure, SpawnFailed | WorkerDied):
        verdict.stderr_tail = failure.stderr_tail
    return verdict
