"""Instances that wait for themselves: all threads or slots of one are held by calls that wait for others.

The instance notices that, and says so with the call that takes its last thread or slot. Whoever waits for
one of these calls until its time is up is then told why.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Final, final

from spear._errors import DeadlineExceeded

if TYPE_CHECKING:
    from spear._errors import Delivered

STALLED: Final = "spear.stalled"
"""Where the metadata of such a call says what there is none left of."""

SAYS: Final = {
    "threads": "all threads of {} wait for plain functions of its own",
    "calls": "all calls that {} takes at a time wait for functions of its own",
}

ADVICE: Final = (
    "raise spear.Agent(concurrency=...), add replicas, or call the Python function itself"
)


@final
class Stalls:
    """The stalls of one deployment.

    Args:
        clock: Trio's time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._now: list[str] = []
        self._last, self._last_at = "", -inf

    def begin(self, instance: str, what: object) -> Stall | None:
        """Return a block for a call that stalls its instance, as that says; None if it does not."""
        if isinstance(what, str) and what in SAYS:
            return Stall(self, f"{SAYS[what].format(instance)}: {ADVICE}")
        return None

    def since(self, begun: float) -> str:
        """Return what was said, if there is a stall, or one has ended badly since then."""
        if self._now:
            return self._now[-1]
        return self._last if self._last_at >= begun else ""

    def late(
        self, function: str, begun: float, deadline: float, delivered: Delivered
    ) -> DeadlineExceeded:
        """Return the failure of a call whose time is up, and why it came to that, if that is known."""
        late = DeadlineExceeded.of_call(function, deadline - begun, delivered)
        if why := self.since(begun):
            late = DeadlineExceeded(f"{late}: {why}", delivered=delivered)
        return late

    def enter(self, text: str) -> None:
        """A call has begun that may never get its turn."""
        self._now.append(text)

    def leave(self, text: str, *, failed: bool) -> None:
        """It has ended."""
        self._now.remove(text)
        if failed:
            self._last, self._last_at = text, self._clock()


@final
class Stall:
    """A block in which an instance may be stalled: until its call has a result."""

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
