"""Functions that get the items of several calls at once: ``@app.batched``.

A :class:`DynamicBatcher` gathers the calls of one function into batches. It has no task of its own: the
first waiting call, the *leader*, waits until its batch is due, and runs the batch in a nursery. A leader
that is cancelled before the batch begins leaves the rest to the next one.

Invariants:

* Each call has one outcome, or leaves.
* The batch is a prefix of the waiting calls, in the order of their arrival.
* The weights of a batch are at most ``max_size`` together, unless it is a single call.
* A batch is cancelled when the last of its calls has left. So its deadline is the latest of its calls.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from copy import copy
from functools import partial
from itertools import zip_longest
from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import attrs
import trio
from trio.lowlevel import disable_ki_protection

from spear._errors import ConfigurationError, FunctionRaised
from spear._limits import expect_seconds, expect_whole, is_number, shown
from spear.channels import call_unprotected, open_private_nursery, protected_class

from ._as_called import as_called
from ._context import current
from ._failures import about_call, as_raisable, note_not_begun
from ._functions import RegisteredFunction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spear._errors import CallFailed
    from spear.channels import InboundCall
    from spear.wire import Payload

    from ._arguments import AnyFunction
    from ._service import AgentService

WRONG_RESULTS: Final = "batch_results"
"""The ``remote_code`` of the failure of a function that has not returned one result for each item."""


@attrs.frozen
class BatchSettings:
    """The arguments of ``Agent.batched``, which describes them. Raises ConfigurationError."""

    max_size: int
    max_wait_seconds: float
    weight: Callable[[object], float] | None
    max_concurrent_batches: int

    def __attrs_post_init__(self) -> None:
        expect_whole("max_size", self.max_size, 1)
        expect_seconds("max_wait_seconds", self.max_wait_seconds)
        expect_whole("max_concurrent_batches", self.max_concurrent_batches, 1)
        if self.weight is not None and not callable(self.weight):
            raise ConfigurationError.about(
                "weight", f"must be a function such as len, not {shown(self.weight)}"
            )


ItemOutcome: TypeAlias = "tuple[object, CallFailed | None]"
"""The result and the failure of one call; one of them is None."""

Run: TypeAlias = "Callable[[list[object]], Awaitable[list[ItemOutcome]]]"
"""Runs a function for some items, and returns the outcome of each."""


@final
class _RunningBatch:
    """Calls that run together.

    Attributes:
        members: the calls, in the order of their arrival.
        scope: the scope of the function; shielded, because one call runs the function on behalf of all.
    """

    __slots__ = ("_present", "members", "scope")

    def __init__(self, members: list[_Member]) -> None:
        self.members = members
        self.scope = trio.CancelScope(shield=True)
        self._present = len(members)

    def leave(self) -> None:
        """Let a member leave; the last one cancels the batch."""
        self._present -= 1
        if not self._present:
            self.scope.cancel()


@final
class _Member:
    """A call that waits for its batch, or for its outcome.

    Attributes:
        due: when the batch begins at the latest, if the call is the first of it.
        changed: set when the call has to look at its position again.
        batch: the batch, once it has begun.
        outcome: the outcome, once it is known.
    """

    __slots__ = ("_has_left", "batch", "changed", "due", "item", "outcome", "weight")

    def __init__(self, item: object, weight: float, due: float) -> None:
        self.item = item
        self.weight = weight
        self.due = due
        self.changed = trio.Event()
        self.batch: _RunningBatch | None = None
        self.outcome: ItemOutcome | None = None
        self._has_left = False

    async def wait_changed(self, until: float = inf) -> None:
        """Wait until the call has to look at its position again, or until a time."""
        if self.changed.is_set():
            self.changed = trio.Event()
        if until == inf:
            await self.changed.wait()
        else:
            with trio.move_on_at(until):
                await self.changed.wait()

    async def wait_outcome(self) -> ItemOutcome:
        """Wait for the outcome, once the batch has begun."""
        while self.outcome is None:
            await self.wait_changed()
        return self.outcome

    def leave(self) -> None:
        """Leave the batch, unless there is an outcome. May be called twice."""
        if self.batch is not None and self.outcome is None and not self._has_left:
            self._has_left = True
            self.batch.leave()

    def end(self, outcome: ItemOutcome) -> None:
        """Give the call its outcome."""
        self.outcome = outcome
        self.changed.set()


@final
@protected_class
class DynamicBatcher:
    """The calls of one function, in batches."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._waiting: OrderedDict[_Member, None] = OrderedDict()
        self._weight = 0.0  # of all that wait
        self._running = 0

    async def submit(self, item: object, run: Run, on_left: Callable[[], object]) -> object:
        """Return the result for an item, which waits for other items, and runs with them.

        If cancelled before the batch has begun, the item is not run. If cancelled later, the other items
        go on. A checkpoint.

        Args:
            item: the item.
            run: runs the batch, if this call happens to lead it.
            on_left: called if the call is cancelled before its batch has begun.

        Raises:
            CallFailed: the failure of this item.
            BaseException: the function ``weight`` raised it.
        """
        due = trio.current_time() + self._settings.max_wait_seconds
        member = _Member(item, self._weight_of(item), due)
        self._waiting[member] = None
        self._weight += member.weight
        if self._weight >= self._settings.max_size:
            self._notify_leader()
        try:
            result, failure = await self._outcome_of(member, run)
        finally:
            if member.batch is None:
                on_left()
        if failure is not None:
            raise failure
        return result

    def _weight_of(self, item: object) -> float:
        if self._settings.weight is None:
            return 1
        weight = call_unprotected(self._settings.weight, item)
        if not is_number(weight) or not 0 <= weight < inf:
            raise TypeError(f"the weight of an item must be a number, not {shown(weight)}")
        return weight

    async def _outcome_of(self, member: _Member, run: Run) -> ItemOutcome:
        try:
            has_waited = False
            while member.batch is None:
                is_leader = member is next(iter(self._waiting))
                can_run = is_leader and self._running < self._settings.max_concurrent_batches
                if not (can_run and (self._is_full() or trio.current_time() >= member.due)):
                    await member.wait_changed(member.due if can_run else inf)
                elif has_waited:
                    return await self._lead(self._take(), member, run)
                else:  # let calls join that arrive in the same pass of the scheduler
                    await trio.lowlevel.checkpoint()
                has_waited = True
            return await member.wait_outcome()
        finally:
            member.leave()
            if member.batch is None:
                del self._waiting[member]
                self._weight -= member.weight
                self._notify_leader()

    def _is_full(self) -> bool:
        return self._weight >= self._settings.max_size

    def _notify_leader(self) -> None:
        if self._waiting:
            next(iter(self._waiting)).changed.set()

    def _take(self) -> _RunningBatch:
        """Remove the next batch from the waiting calls."""
        members: list[_Member] = []
        weight = 0.0
        for member in self._waiting:
            weight += member.weight
            if members and weight > self._settings.max_size:
                break
            members.append(member)
        batch = _RunningBatch(members)
        for member in members:
            member.batch = batch
            del self._waiting[member]
        # Not a difference, which would collect errors of rounding.
        self._weight = sum(each.weight for each in self._waiting)
        self._notify_leader()
        return batch

    async def _lead(self, batch: _RunningBatch, leader: _Member, run: Run) -> ItemOutcome:
        """Run a batch, and return the leader's outcome.

        A leader that is cancelled waits until the batch has ended, as the caller of a thread does.
        """
        self._running += 1
        async with open_private_nursery() as nursery:
            nursery.start_soon(self._run, batch, run)
            try:
                await leader.wait_outcome()
            finally:
                leader.leave()  # before the nursery waits for the batch, which this may cancel
        assert leader.outcome is not None
        return leader.outcome

    async def _run(self, batch: _RunningBatch, run: Run) -> None:
        outcomes: list[ItemOutcome] = []
        try:
            with batch.scope:
                outcomes = await run([each.item for each in batch.members])
        finally:
            self._running -= 1
            self._notify_leader()
            lost = FunctionRaised("the batch was interrupted", type_name="Cancelled")
            for member, outcome in zip_longest(batch.members, outcomes):
                member.end(outcome or (None, about_call(copy(lost))))


@protected_class
class BatchedFunction(RegisteredFunction):
    """A function that gets a list of items, and returns a list of results; callers pass one item."""

    __slots__ = ("_batch_function", "_batcher", "settings")

    is_batched = True

    def __init__(self, name: str, function: AnyFunction, settings: BatchSettings) -> None:
        super().__init__(name, as_called(name, function))
        self.settings = settings
        self._batch_function = function
        self._batcher = DynamicBatcher(settings)

    @property
    def wanted_slots(self) -> int:
        """The number of calls that make a full batch; 1 if that depends on their weights."""
        return self.settings.max_size if self.settings.weight is None else 1

    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Return the encoded result for the item of a call."""
        positional, keywords = self.bind(call)
        (item,) = (*positional, *keywords.values())
        return self.encode(await self.submit(item, call, service, partial(note_not_begun, call)))

    async def submit(
        self, item: object, call: InboundCall, service: AgentService, on_left: Callable[[], object]
    ) -> object:
        """Return the result for a converted item; see :meth:`DynamicBatcher.submit`."""
        return await self._batcher.submit(item, partial(self._perform, call, service), on_left)

    async def _perform(
        self, call: InboundCall, service: AgentService, items: list[object]
    ) -> list[ItemOutcome]:
        current.set(self.name)  # not the leader's call
        try:
            results = self._checked(await self._call(items, call, service), len(items))
        except BaseException as error:
            # Copies, because one exception must not be raised twice.
            failure = service.failure_of(error)
            return [(None, about_call(copy(failure))) for _ in items]
        return [
            (None, about_call(service.failure_of(each)))
            if isinstance(each, Exception)
            else (each, None)
            for each in results
        ]

    def _checked(self, results: object, count: int) -> Sequence[object]:
        if not isinstance(results, list | tuple):
            fault, kind = f"a value of type {type(results).__name__}", "TypeError"
        elif len(results) != count:
            fault, kind = f"{len(results)} results", "ValueError"
        else:
            return results
        message = (
            f"{self.name}() returned {fault} for {count} items: return a list with one result or "
            "exception for each item, in their order"
        )
        raise about_call(FunctionRaised(message, type_name=kind, remote_code=WRONG_RESULTS))

    @abstractmethod
    async def _call(self, items: list[object], call: InboundCall, service: AgentService) -> object:
        """Call the function, and return its result.

        Args:
            items: the items of a batch.
            call: one of the calls of the batch.
            service: the service of the agent.
        """


@final
class AsyncBatchedFunction(BatchedFunction):
    """An ``async def`` that gets a list of items."""

    __slots__ = ()

    @disable_ki_protection  # it runs the user's code
    async def _call(self, items: list[object], call: InboundCall, service: AgentService) -> object:
        return await cast("Awaitable[object]", self._batch_function(items))


@final
class PlainBatchedFunction(BatchedFunction):
    """A function written with plain ``def`` that gets a list of items."""

    __slots__ = ()

    @disable_ki_protection  # it awaits the user's code
    async def _call(self, items: list[object], call: InboundCall, service: AgentService) -> object:
        result = await service.in_thread(call, self._call_plain, items)
        return await result if isinstance(result, Coroutine) else result

    def _call_plain(self, items: list[object]) -> object:
        try:
            return self._batch_function(items)
        except StopIteration as stop:
            raise as_raisable(stop) from stop
