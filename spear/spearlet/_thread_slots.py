"""The threads that calls of maps hold, for instances with fewer threads than slots.

An instance with functions of several kinds takes more calls than it has threads, and further calls of
plain functions wait inside of it, while their time runs. So a map sends an instance no more calls of a
plain function than it has threads. Other calls are not limited: they wait under their own deadlines.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spear._ids import InstanceId
    from spear.calls import Candidate, Candidates

    from ._replicas import ServingReplica


@final
class ThreadSlots:
    """A count of the threads that calls of maps hold, by instance.

    Args:
        candidates: the instances as policies see them.
        replicas: the same instances.

    Attributes:
        taken: the number of threads, by instance; empty if no map calls such a function.
        weight: the slots that these calls take beyond one for each: an instance whose threads are all
            taken counts as full, so that the deployment may grow.
    """

    def __init__(
        self, candidates: Candidates, replicas: Mapping[Candidate, ServingReplica]
    ) -> None:
        self._candidates = candidates
        self._replicas = replicas
        self.taken: Counter[InstanceId] = Counter()
        self.weight = 0.0

    @property
    def changes(self) -> int:
        """A number that is different after each change of the instances."""
        return self._candidates.changes

    def slots_for(self, function: str) -> int:
        """Return the most calls of a function that all instances together run at a time."""
        return sum(self._slots_of(each, function) for each in self._candidates.all)

    def better(self, chosen: Candidate, function: str) -> Candidate:
        """Return an instance with a free thread for a function, if the chosen one has none."""
        if self._has_thread(chosen, function):
            return chosen
        others = (each for each in self._candidates.all if each.has_capacity)
        return next((each for each in others if self._has_thread(each, function)), chosen)

    def _slots_of(self, candidate: Candidate, function: str) -> int:
        channel, slots = self._replicas[candidate].channel, candidate.max_calls
        threads = None if channel is None else channel.threads_for(function)
        return slots if threads is None else min(slots, threads)

    def _has_thread(self, candidate: Candidate, function: str) -> bool:
        return self.taken[self._replicas[candidate].id] < self._slots_of(candidate, function)

    def take(self, instance: InstanceId, weight: float) -> None:
        """Note that a call holds a thread, and that it takes ``weight`` slots more than one."""
        self.taken[instance] += 1
        self.weight += weight

    def give(self, instance: InstanceId, weight: float) -> None:
        """Note that a call has ended."""
        self.taken[instance] -= 1
        self.weight -= weight
        if not self.taken[instance]:
            del self.taken[instance]
        if not self.taken:
            self.weight = 0.0  # without errors of rounding
