"""The pace of a queue, from which a refused caller's ``retry_after_seconds`` is computed.

A turn is the start of a queued call. The best measure is the turns of the queue itself. When a queue has
just formed, the first refusals wait a moment for turns: a guess may be wrong by a factor of a hundred. If
there are few turns even then, the pace of the previous queue counts, too, or the mean duration of calls.
"""

from __future__ import annotations

from typing import Final, final

import trio

GUESSED_SECONDS: Final = 0.1
"""Assumed duration of a call while none has ended."""

LEAST_TURNS: Final = 8
"""Fewest turns that make a measurement."""

ENOUGH_TURNS: Final = 24
"""Turns after which a refusal stops waiting for more."""

MOST_TURNS: Final = 128
MOST_ROUNDS: Final = 8
"""A measurement above MOST_TURNS turns, and above MOST_ROUNDS for each slot, is halved, so that recent
turns count more. It covers several rounds, because all slots may become free at once."""

STEP_SECONDS: Final = 0.002
STEPS: Final = 7
"""A refusal waits for one step, and then for turns for up to STEPS steps: 16 ms in all."""


@final
class Pace:
    """A measurement of the pace of one deployment's queue.

    Attributes:
        seconds_of_one: mean time that a call held a slot while the previous queue lasted; None before the
            first queue with LEAST_TURNS turns.
    """

    def __init__(self) -> None:
        self.seconds_of_one: float | None = None
        self._since = self._last = 0.0
        self._turns = 0.0
        self._most = MOST_TURNS
        self._observed: trio.Event | None = None  # set when a refusal has waited for turns

    def begin(self, capacity: int) -> None:
        """Begin to measure a queue that has formed in front of ``capacity`` slots."""
        self._since, self._turns, self._observed = trio.current_time(), 0.0, None
        self._most = max(MOST_TURNS, MOST_ROUNDS * capacity)

    def turn(self) -> None:
        """Count a turn: a queued call has started."""
        self._turns += 1
        self._last = trio.current_time()
        if self._turns > self._most:
            self._since += (self._last - self._since) / 2
            self._turns /= 2

    def end(self, capacity: int) -> None:
        """End the measurement: the queue is empty."""
        if self._turns >= LEAST_TURNS:
            self.seconds_of_one = (self._last - self._since) / self._turns * capacity

    async def wait_known(self) -> None:
        """Wait for turns, for 16 ms at most. Not a checkpoint if the queue has had LEAST_TURNS."""
        if self._turns >= LEAST_TURNS:
            return
        if self._observed is not None:
            await self._observed.wait()
            return
        observed = self._observed = trio.Event()
        try:
            # Steps, not one long sleep: after a thousand calls at once, the next pass of the scheduler
            # is a long one, without turns. The measurement begins after this pass.
            await trio.sleep(STEP_SECONDS)
            self._since, self._turns = trio.current_time(), 0.0
            for _ in range(STEPS):
                await trio.sleep(STEP_SECONDS)
                if self._turns >= ENOUGH_TURNS:
                    break
        finally:
            observed.set()

    def measured(self) -> float | None:
        """Return the seconds from turn to turn; None if there were too few turns."""
        # Until the last turn, not until now: a thousand refusals in one pass would each find more time
        # without a turn than the one before.
        passed = self._last - self._since
        return passed / self._turns if self._turns >= LEAST_TURNS else None

    def estimate(self, capacity: int, usual_seconds: float | None) -> float:
        """Return the estimated seconds from turn to turn, if there were too few turns to measure.

        Args:
            capacity: call slots of all replicas together.
            usual_seconds: mean duration of calls so far; None if none has ended.
        """
        known = usual_seconds if self.seconds_of_one is None else self.seconds_of_one
        if not self._turns:  # running calls have lasted as long as the refusal waited
            known = GUESSED_SECONDS if known is None else known
            return max(known, STEPS * STEP_SECONDS) / capacity
        passed = self._last - self._since
        if known is None:
            return passed / self._turns
        # The known duration counts as one more turn, but as LEAST_TURNS / 2 mean turns at the most: the
        # first of many calls at once last until all have begun. The measured mean is a lower bound.
        turn = min(known / capacity, passed * LEAST_TURNS / 2 / self._turns)
        return max((turn + passed) / (1 + self._turns), passed / self._turns)
