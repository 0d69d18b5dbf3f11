"""The instances that a policy chooses from, in the order of their names."""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._target import Callee, CallTarget


@final
class Candidate:
    """An instance that may get the next call.

    Attributes:
        callee: the instance.
        name: the instance's name, which a replacement keeps.
        target: the instance's target; None while it has none.
    """

    __slots__ = ("_most", "callee", "name", "target")

    def __init__(self, callee: Callee, target: CallTarget | None, most: int | None) -> None:
        self.callee = callee
        self.name = callee.id.name
        self.target = target
        self._most = most

    def __repr__(self) -> str:
        return f"<Candidate {self.callee.id}: {self.calls_in_flight} of {self.max_calls} calls>"

    @property
    def calls_in_flight(self) -> int:
        """Calls whose handlers have not ended."""
        return 0 if self.target is None else self.target.calls_in_flight

    @property
    def max_calls(self) -> int:
        """Calls that the instance gets at a time; 0 if it takes none now."""
        target, most = self.target, self._most
        if target is None or not target.is_connected:
            return 0
        return target.max_calls if most is None else min(target.max_calls, most)

    @property
    def has_capacity(self) -> bool:
        """Whether a call that is made now starts at once."""
        target, most = self.target, self._most
        return (
            target is not None
            and target.has_capacity
            and (most is None or target.calls_in_flight < most)
        )


@final
class Candidates:
    """The instances that a policy chooses from.

    Args:
        most: calls that each instance gets at a time, if fewer than it takes.

    Attributes:
        all: every candidate, in the order of names: ``shop-2`` comes before ``shop-10``.
    """

    def __init__(self, most: int | None = None) -> None:
        self.all: list[Candidate] = []
        self._most = most

    def __len__(self) -> int:
        return len(self.all)

    def limit(self, most: int | None) -> None:
        """Give each instance so many calls at a time from now on."""
        self._most = most
        for each in self.all:
            each._most = most

    def add(self, callee: Callee, target: CallTarget | None) -> Candidate:
        """Let an instance have calls from now on."""
        candidate = Candidate(callee, target, self._most)
        insort(self.all, candidate, key=lambda each: (len(each.name), each.callee.id))
        return candidate

    def remove(self, candidate: Candidate) -> None:
        """Let an instance have no more calls."""
        self.all.remove(candidate)

    def free(self) -> Sequence[Candidate]:
        """Return the candidates that have a free slot, in the order of their names."""
        return [each for each in self.all if each.has_capacity]
