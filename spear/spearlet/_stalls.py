"""Instances that wait for themselves: calls that wait for the instance hold all its threads or slots.

The instance reports the stall with the call that takes its last thread or slot. The DeadlineExceeded of
each call that overlaps the stall then names it as the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Final, final

from spear._errors import DeadlineExceeded
from spear._stalls import ADVICE, because_of

if TYPE_CHECKING:
    from spear._errors import Delivered

SAYS: Final = {
    "threads": "all threads of {} wait for its own plain functions",
    "calls": "all call slots of {} are taken by calls that wait for its own functions",
}


@final
class Stalls:
    """The stalls of one deployment.

    Args:
        clock: returns Trio's time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._now: list[str] = []
        self._last, self._last_at = "", -inf

    def begin(self, instance: str, what: object) -> Stall | None:
        """Return a context manager for a call whose instance reports a stall in ``what``; else None."""
        if isinstance(what, str) and what in SAYS:
            return Stall(self, f"{SAYS[what].format(instance)}: {ADVICE}")
        return None

    def since(self, begun: float) -> str:
        """Return the text of a stall that goes on, or whose call failed after ``begun``; else empty."""
        if self._now:
            return self._now[-1]
        return self._last if self._last_at >= begun else ""

    def late(
        self, function: str, begun: float, deadline: float, delivered: Delivered
    ) -> DeadlineExceeded:
        """Return the DeadlineExceeded of a call, with the stall that explains it, if there was one."""
        late = DeadlineExceeded.of_call(function, deadline - begun, delivered)
        return because_of(self.since(begun), late)

    def enter(self, text: str) -> None:
        """Note the start of a call that stalls its instance."""
        self._now.append(text)

    def leave(self, text: str, *, failed: bool) -> None:
        """Note the end of a call that stalled its instance."""
        self._now.remove(text)
        if failed:
            self._last, self._last_at = text, self._clock()


@final
class Stall:
    """A context manager around a call that stalls its instance until the call has a result."""

    __slots__ = ("_stalls", "_text")

    def __init__(self, stalls: Stalls, text: str) -> None:
        self._stalls = stalls
        self._text = text

    def __enter__(self) -> None:
        self._stalls.enter(self._text)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stalls.leave(self._text, failed=error is not None)
