"""Retries that a caller asks for: which failures are tried again, when, and how many in all.

A policy says which failures are tried again, a budget how many at one deployment, and :class:`Attempts`
applies both to one call, within its time. This module makes no calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from spear._errors import Overloaded
from spear._failures import annotate
from spear._retry_policy import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from spear._errors import SpearError
    from spear._ids import InstanceId

    from ._assignment import AssignmentObserver

BUDGET_SHARE: Final = 0.1
"""Retries that each call adds to the budget of its deployment."""

BUDGET_MOST: Final = 100.0
"""Retries that a budget holds at most, and at first."""

FULL_QUEUE_SECONDS: Final = 0.1
"""Delay before a call that found the queue full is made again, if the refusal names none."""

ONE_ATTEMPT: Final = RetryPolicy(max_attempts=1)
"""The policy of calls without a policy: no failure is tried again."""


@final
class RetryBudget:
    """A budget of retries that all callers of a deployment share. It keeps retries from adding load.

    The items of a map do not use it. They wait their turn, so a map that retries makes no more calls at a
    time than one that does not.

    Attributes:
        deployment: the name of the deployment.
    """

    __slots__ = ("_left", "deployment")

    def __init__(self, deployment: str) -> None:
        self.deployment = deployment
        self._left = BUDGET_MOST

    def earn(self, calls: int = 1) -> None:
        """Add the share of so many calls."""
        self._left = min(self._left + BUDGET_SHARE * calls, BUDGET_MOST)

    def spend(self) -> bool:
        """Take one retry, and return whether there was one."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


@final
class Attempts:
    """The attempts of one call: whether another one follows a failure, when, and how much time is left.

    Attempts and the delays between them have one ``timeout`` together. If the wait for a slot has a time
    of its own, the waits of all attempts have this time together, and do not count as run time.

    Observes the assignment of the call, and passes it on; see :class:`AssignmentObserver`.

    Attributes:
        count: the attempts that have failed.
        run_seconds: seconds that are left for attempts.
        queue_seconds: seconds that are left for waits; None if they count as ``run_seconds``.
    """

    __slots__ = (
        "_assigned", "_begun", "_budget", "_clock", "_execution", "_policy", "_rng", "_waits_for_queue",
        "count", "queue_seconds", "run_seconds",
    )  # fmt: skip

    def __init__(
        self,
        policy: RetryPolicy,
        budget: RetryBudget | None,
        clock: Callable[[], float],
        rng: Random,
        *,
        run_seconds: float,
        queue_seconds: float | None = None,
        execution: AssignmentObserver | None = None,
        waits_for_queue: bool = False,
        earlier: int = 0,
    ) -> None:
        """Begin the first attempt.

        Args:
            policy: which failures are tried again.
            budget: the retries of all callers of the deployment; None if they do not limit this call.
            clock: returns the present time.
            rng: the source of random delays.
            run_seconds: the timeout of the call.
            queue_seconds: the time for waits, if it is separate.
            execution: the observer that is notified of the instance of each attempt; may be None.
            waits_for_queue: whether the call also waits while the queue of the deployment is full. A
                refusal by a full queue is then no attempt.
            earlier: attempts of the call that have failed already.
        """
        self._policy = policy
        self._budget = budget
        self._clock = clock
        self._rng = rng
        self._execution = execution
        self._waits_for_queue = waits_for_queue
        self.run_seconds = run_seconds
        self.queue_seconds = queue_seconds
        self.count = earlier
        self._begun = clock()
        self._assigned: float | None = None  # when the present attempt got a slot
        if budget is not None and policy.max_attempts > 1:
            budget.earn()

    @property
    def is_accepted(self) -> bool:
        """Whether the call was accepted before; see :class:`AssignmentObserver`."""
        return self._execution is not None and self._execution.is_accepted

    def assigned(self, instance: InstanceId) -> None:
        """Note that an attempt has got a slot."""
        if self._assigned is None:
            self._assigned = self._clock()
        if self._execution is not None:
            self._execution.assigned(instance)

    def may_repeat(self, failure: SpearError) -> bool:
        """Return whether another attempt may follow a failure, if there is time and a budget for it."""
        return self.count + 1 < self._policy.max_attempts and self._policy.may_repeat(failure)

    def delay_after(self, failure: SpearError) -> float | None:
        """Note that an attempt has failed; return the delay before the next one, in seconds.

        The caller must wait so long, and then make the next attempt. Returns None if there is none. If
        the policy allows one, and the time or the budget does not, the failure gets a note of the reason.
        """
        now = self._clock()
        self._use(now - self._begun, None if self._assigned is None else now - self._assigned)
        if self._waits_for_queue and failure.code == "queue_full":
            delay = _wanted_by(failure) or FULL_QUEUE_SECONDS
        elif self.may_repeat(failure):
            self.count += 1
            delay = max(self._policy.delay_seconds(self.count, self._rng), _wanted_by(failure))
            if delay >= self._left():
                annotate(failure, "not tried again: the timeout would end before the next attempt")
                return None
            if self._budget is not None and not self._budget.spend():
                name = self._budget.deployment
                annotate(failure, f"not tried again: the retry budget of {name} is used up")
                return None
        else:
            self.count += 1
            return None
        self._use(delay, None if self._assigned is None else delay)
        self._begun, self._assigned = now + delay, None
        return delay

    def _use(self, seconds: float, run: float | None) -> None:
        """Take seconds off the time that is left; ``run`` of them had a slot, None if there was none."""
        if self.queue_seconds is None:
            self.run_seconds -= seconds
        else:
            self.run_seconds -= run or 0.0
            self.queue_seconds -= seconds - (run or 0.0)

    def _left(self) -> float:
        """Return the time for a delay: that of the phase in which the attempt has failed."""
        if self._assigned is not None or self.queue_seconds is None:
            return self.run_seconds
        return self.queue_seconds


def _wanted_by(failure: SpearError) -> float:
    """Return the delay that a failure asks for, in seconds."""
    return (isinstance(failure, Overloaded) and failure.retry_after_seconds) or 0.0
