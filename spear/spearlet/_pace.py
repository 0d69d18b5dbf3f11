"""How fast a line moves, so that a refused caller learns when to come again.

A line's own turns tell it best. In a line that has just formed, the first refusals wait a moment for
turns: a guess may be wrong by a factor of a hundred. If a moment brings few turns or none, the pace of
the line before counts, too, or what calls took until now.
"""

from __future__ import annotations

from typing import Final, final

import trio

GUESSED_SECONDS: Final = 0.1
"""What a call is taken to last as long as none has ended."""

LEAST_TURNS: Final = 8
"""Fewer say little."""

ENOUGH_TURNS: Final = 24
"""A refusal waits for no more than these."""

MOST_TURNS: Final = 128
MOST_ROUNDS: Final = 8
"""Of more turns, and more for each call at a time, half are forgotten: those may all come at once."""

STEP_SECONDS: Final = 0.002
STEPS: Final = 7
"""How long a refusal waits for turns. It is to be early, too."""


@final
class Pace:
    """The pace of one deployment's line.

    Attributes:
        seconds_of_one: what a call took in the last line, as far as others had to wait for it; None if
            there was none that was long enough.
    """

    def __init__(self) -> None:
        self.seconds_of_one: float | None = None
        self._since = self._last = 0.0
        self._turns = 0.0
        self._most = MOST_TURNS
        self._observed: trio.Event | None = None  # set when a refusal has waited for turns

    def begin(self, capacity: int) -> None:
        """A line has formed, in front of so many slots."""
        self._since, self._turns, self._observed = trio.current_time(), 0.0, None
        self._most = max(MOST_TURNS, MOST_ROUNDS * capacity)

    def turn(self) -> None:
        """A call that stood in line has had its turn."""
        self._turns += 1
        self._last = trio.current_time()
        if self._turns > self._most:
            self._since += (self._last - self._since) / 2
            self._turns /= 2

    def end(self, capacity: int) -> None:
        """The line has gone."""
        if self._turns >= LEAST_TURNS:
            self.seconds_of_one = (self._last - self._since) / self._turns * capacity

    async def wait_known(self) -> None:
        """Wait a moment for turns, if this line has had few. Not a checkpoint if it has had enough."""
        if self._turns >= LEAST_TURNS:
            return
        if self._observed is not None:
            await self._observed.wait()
            return
        observed = self._observed = trio.Event()
        try:
            # Steps, not a time: after a thousand calls at once the next pass of the scheduler is a long
            # one, in which there are no turns. What is measured begins behind it.
            await trio.sleep(STEP_SECONDS)
            self._since, self._turns = trio.current_time(), 0.0
            for _ in range(STEPS):
                await trio.sleep(STEP_SECONDS)
                if self._turns >= ENOUGH_TURNS:
                    break
        finally:
            observed.set()

    def measured(self) -> float | None:
        """Seconds from turn to turn; None if there were too few."""
        # Until the last turn, not until now: a thousand refusals in one pass would each find more time
        # without a turn than the one before.
        passed = self._last - self._since
        return passed / self._turns if self._turns >= LEAST_TURNS else None

    def estimate(self, capacity: int, usual_seconds: float | None) -> float:
        """The same with few turns, or none.

        Args:
            capacity: calls at a time.
            usual_seconds: what a call took until now; None if none has ended.
        """
        known = usual_seconds if self.seconds_of_one is None else self.seconds_of_one
        if not self._turns:  # those that run have lasted as long as a refusal has waited
            known = GUESSED_SECONDS if known is None else known
            return max(known, STEPS * STEP_SECONDS) / capacity
        passed = self._last - self._since
        if known is None:
            return passed / self._turns
        # As if what is known were one turn more, unless that is too little. The first of many calls at
        # once last until all have begun: after more turns, what is known may differ less from them.
        turn = min(known / capacity, passed * LEAST_TURNS / 2 / self._turns)
        return max((turn + passed) / (1 + self._turns), passed / self._turns)
