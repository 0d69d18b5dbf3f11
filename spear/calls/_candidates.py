"""The instances that a policy chooses from, and an index of the instances with a free slot.

The cost of a choice must not grow with the number of instances, so no choice looks at all of them. The
index is lazy: a call that starts changes nothing here. A candidate that is found full is dropped from the
index, and its target is asked to report the next free slot. The report puts the candidate back: each call
pays for at most one drop and one return.

Invariants:

* Every candidate that has a free slot is in the index. A candidate in the index may be full by now.
* The target of a candidate that is not in the index reports its next free slot.
* While ``on_free`` is set, all targets report all free slots.
* Once loads are asked for, all targets report all free slots, and no load is higher in the index than at
  the target.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from ._target import Callee, CallTarget

_NOWHERE = -1


@final
class Candidate:
    """An instance that may get the next call.

    Attributes:
        callee: the instance.
        name: the instance's name, which a replacement keeps.
        target: the instance's target; None while it has none.
    """

    __slots__ = ("_limit", "_load", "_on_free", "_position", "callee", "name", "target")

    def __init__(self, callee: Callee, target: CallTarget | None, limit: int | None) -> None:
        self.callee = callee
        self.name = callee.id.name
        self.target = target
        self._limit = limit
        self._on_free: Callable[[], None]  # called by the target to report a free slot
        self._position = _NOWHERE  # in the list of candidates with a free slot
        self._load = _NOWHERE  # calls in flight, according to the index of loads

    def __repr__(self) -> str:
        return f"<Candidate {self.callee.id}: {self.calls_in_flight} of {self.max_calls} calls>"

    @property
    def calls_in_flight(self) -> int:
        """Calls whose handlers have not ended."""
        return 0 if self.target is None else self.target.calls_in_flight

    @property
    def max_calls(self) -> int:
        """The most calls that the instance gets at a time; 0 if it takes none now."""
        target, limit = self.target, self._limit
        if target is None or not target.is_connected:
            return 0
        return target.max_calls if limit is None else min(target.max_calls, limit)

    @property
    def has_capacity(self) -> bool:
        """Whether a call that is made now starts at once."""
        target, limit = self.target, self._limit
        return (
            target is not None
            and target.has_capacity
            and (limit is None or target.calls_in_flight < limit)
        )

    def _report(self, on_free: Callable[[], None] | None) -> None:
        if self.target is not None:
            self.target.when_free(on_free)


@final
class Candidates:
    """A set of instances that a policy chooses from.

    A policy calls :meth:`draw`, :meth:`least_loaded` or :meth:`at`, whose cost does not depend on the
    number of instances, or looks at :attr:`all` instances.

    Args:
        limit: the most calls that each instance gets at a time; None for as many as it takes.

    Attributes:
        all: every candidate, in the order of names: ``shop-2`` comes before ``shop-10``.
        changes: a number that is different after each change of :attr:`all`.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.all: tuple[Candidate, ...] = ()
        self.changes = 0
        self._limit = limit
        self._free: list[Candidate] = []  # the index of free slots, in no order
        # One bucket for each number of calls in flight; oldest entries first. Empty until asked for.
        self._loads: list[OrderedDict[Candidate, None]] = []
        self._least = 0  # no candidate has a lower load
        self._tracks_loads = False
        self._on_free: Callable[[], None] | None = None
        self._known_sizes: tuple[int, int] | None = None  # (capacity, smallest), until a change

    def __len__(self) -> int:
        return len(self.all)

    # -- members --------------------------------------------------------------------------------

    def add(self, callee: Callee, target: CallTarget | None) -> Candidate:
        """Add an instance, which may get calls from now on."""
        candidate = Candidate(callee, target, self._limit)
        candidate._on_free = partial(self._freed, candidate)
        members = list(self.all)
        insort(members, candidate, key=lambda each: (len(each.name), each.callee.id))
        self.all = tuple(members)
        self.changes += 1
        self.refresh(candidate, target)
        return candidate

    def remove(self, candidate: Candidate) -> None:
        """Remove an instance, which gets no more calls."""
        self.all = tuple(each for each in self.all if each is not candidate)
        self.changes += 1
        self._known_sizes = None
        self._forget(candidate)
        candidate._report(None)

    def refresh(self, candidate: Candidate, target: CallTarget | None) -> None:
        """Set the target of an instance, which may be another one, or the same one after a change."""
        candidate.target = target
        self._known_sizes = None
        self._put(candidate)
        if self._on_free is not None or self._tracks_loads:
            candidate._report(candidate._on_free)

    def set_limit(self, limit: int | None) -> None:
        """Set the most calls that each instance gets at a time; None for as many as it takes."""
        self._limit = limit
        for each in self.all:
            each._limit = limit
            self.refresh(each, each.target)

    @property
    def capacity(self) -> int:
        """The most calls that all instances together get at a time."""
        return self._sizes()[0]

    @property
    def smallest(self) -> int:
        """The smallest ``max_calls`` of all instances that take calls; 0 if no instance takes any."""
        return self._sizes()[1]

    def _sizes(self) -> tuple[int, int]:
        if self._known_sizes is None:
            takes = [each.max_calls for each in self.all]
            self._known_sizes = sum(takes), min(filter(None, takes), default=0)
        return self._known_sizes

    def when_free(self, call: Callable[[], None] | None) -> None:
        """Register ``call``, which runs whenever a slot becomes free at any instance.

        Args:
            call: the function, which must neither block nor raise; None removes it.
        """
        self._on_free = call
        if call is not None:
            for each in self._free:  # the other candidates report already
                each._report(each._on_free)

    # -- choosing -------------------------------------------------------------------------------

    def draw(self, rng: Random, *, but: Candidate | None = None) -> Candidate | None:
        """Return a candidate with a free slot, drawn at random; None if there is none.

        Args:
            rng: the generator.
            but: a candidate to leave out.
        """
        free, draw = self._free, rng.random
        while True:
            skipped = but is not None and but._position >= 0
            count = len(free) - skipped
            if not count:
                return None
            position = int(draw() * count)
            if but is not None and skipped and position >= but._position:
                position += 1
            candidate = free[position]
            if candidate.has_capacity:
                return candidate
            self._drop(candidate)

    def at(self, number: int) -> Candidate | None:
        """Return a candidate with a free slot: the same for the same number, while none changes."""
        free = self._free
        while free:
            candidate = free[number % len(free)]
            if candidate.has_capacity:
                return candidate
            self._drop(candidate)
        return None

    def least_loaded(self) -> Candidate | None:
        """Return the candidate with the fewest calls in flight; None if no candidate has a free slot.

        Of several such candidates, return the one whose last call ended longest ago.
        """
        if not self._tracks_loads:
            self._tracks_loads = True
            for each in self._free:
                self._put_load(each)
                each._report(each._on_free)
        loads = self._loads
        while self._least < len(loads):
            bucket = loads[self._least]
            if not bucket:
                self._least += 1
                continue
            candidate = next(iter(bucket))
            if not candidate.has_capacity:
                self._drop(candidate)
            elif candidate.calls_in_flight > self._least:
                self._put_load(candidate)
            else:
                return candidate
        return None

    # -- the index ------------------------------------------------------------------------------

    def _freed(self, candidate: Candidate) -> None:
        """Put a candidate back into the index, because a slot has become free."""
        self._put(candidate)
        if self._on_free is not None:
            self._on_free()
        elif not self._tracks_loads:
            candidate._report(None)

    def _put(self, candidate: Candidate) -> None:
        """Put a candidate into the index, unless it is there, and renew its load if loads are tracked."""
        if candidate._position == _NOWHERE:
            candidate._position = len(self._free)
            self._free.append(candidate)
        if self._tracks_loads:
            self._put_load(candidate)

    def _put_load(self, candidate: Candidate) -> None:
        """Move a candidate to the end of the bucket of its load."""
        loads, load = self._loads, candidate.calls_in_flight
        if candidate._load != _NOWHERE:
            del loads[candidate._load][candidate]
        while len(loads) <= load:
            loads.append(OrderedDict())
        loads[load][candidate] = None
        candidate._load = load
        self._least = min(self._least, load)

    def _drop(self, candidate: Candidate) -> None:
        """Remove a candidate that is full, or cannot be reached, from the index."""
        self._forget(candidate)
        if candidate.target is not None and not candidate.target.is_connected:
            self._known_sizes = None
        candidate._report(candidate._on_free)

    def _forget(self, candidate: Candidate) -> None:
        position = candidate._position
        if position != _NOWHERE:
            last = self._free.pop()
            if last is not candidate:
                self._free[position] = last
                last._position = position
            candidate._position = _NOWHERE
        if candidate._load != _NOWHERE:
            del self._loads[candidate._load][candidate]
            candidate._load = _NOWHERE
