"""Calls of a function for items: one call for a long item, one batch for many short ones.

The size of a batch follows the measured duration of the items: a batch is about 5 ms of work, so that the
cost of a call is small beside it, and a lost instance costs few items.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from copy import copy
from math import inf
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

import trio

from spear._errors import (
    DeadlineExceeded,
    InvalidArguments,
    NotFound,
    Overloaded,
    Rejected,
    RemoteProtocolError,
    SpearError,
    UnexpectedResult,
)
from spear._signatures import BATCH
from spear.calls import MapItem, arguments_of_item, decode_result_untrusted, enter_stream
from spear.channels import protected_class
from spear.wire import decode_failure_untrusted, decode_result, encode_alone, encode_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear._ids import InstanceId
    from spear.calls import Attempts, Result

    from ._replica_calls import ReplicaCalls
    from ._thread_slots import ThreadSlots

T = TypeVar("T")

BATCH_SECONDS: Final = 0.005
"""Work of one batch, in seconds of its items' functions."""

MAX_BATCH: Final = 1024
"""Most items of a batch."""

CROWDED_ITEMS: Final = 100
"""Items of a batch from which on the items are too short to wait for anything but the interpreter."""

MAX_BATCH_BYTES: Final = 256 * 1024
"""Most bytes of a batch's arguments, and of its results, by the mean of earlier ones."""

LEAST_BATCH_TIMEOUT: Final = 1.0
"""Items with a shorter timeout travel alone, so that no item waits long for another one of its batch."""

GRACE_SECONDS: Final = 1.0
"""Seconds beyond an item's timeout after which its batch is given up: the agent should be faster."""

MAX_MESSAGE_BYTES: Final = 16 * 1024
"""Most bytes of the message of an item's failure."""


@final
class _Assignments:
    """The instance of the last call for an item or a batch, and the number of calls.

    Attributes:
        attempts: the number of calls.
        instance: the instance of the last call, if any.
    """

    __slots__ = ("_held", "_on_assigned", "_threads", "_weight", "attempts", "instance")

    is_accepted: Final = False

    def __init__(
        self, on_assigned: Callable[[], object], threads: ThreadSlots, weight: float | None
    ) -> None:
        self._on_assigned = on_assigned
        self._threads = threads
        self._weight = weight  # of a call that holds a thread; None if it holds none
        self._held: InstanceId | None = None  # the instance whose thread it holds
        self.attempts = 0
        self.instance: InstanceId | None = None

    def assigned(self, instance: InstanceId) -> None:
        """Note the instance, and start further calls if there are further slots."""
        self.instance = instance
        self.attempts += 1
        if self._weight is not None:
            self.release()
            self._threads.take(instance, self._weight)
            self._held = instance
        self._on_assigned()

    def release(self) -> None:
        """Give back the thread of the last call, if it holds one. May be called twice."""
        if self._held is not None:
            assert self._weight is not None
            self._threads.give(self._held, self._weight)
            self._held = None


@final
@protected_class
class ItemCalls(Generic[T]):
    """A maker of calls for items: alone, or in batches of a size that follows their duration.

    Attributes:
        on_assigned: called when a call or batch has got an instance.
    """

    def __init__(
        self, calls: ReplicaCalls, limit: int | None, *, unpack: bool, keeps_items: bool
    ) -> None:
        self._calls = calls
        self._pool = calls.pool
        self._most = inf if limit is None else limit
        self._unpack = unpack
        self._keeps_items = keeps_items
        self._batch = 1
        self._may_batch = (
            calls.timeout >= LEAST_BATCH_TIMEOUT
            and calls.options.on_progress is None
            and not calls.options.keywords
            and not calls.instruments.watches_calls  # instruments see each call
        )
        self.on_assigned: Callable[[], object] = bool
        self._weight: float | None = None  # of a call that holds a thread; see ThreadSlots
        self._sizes: tuple[int, int] | None = None  # (capacity, changes) that the slots belong to
        self._slots = 0

    def limit(self) -> int:
        """Return how many batches may run at a time."""
        pool = self._pool
        # Threads with many short items would only take the interpreter of their process from each other.
        is_crowded = self._batch >= CROWDED_ITEMS
        capacity = pool.load(is_full=True).in_flight
        wanted = 2 * len(pool.ready) if is_crowded else capacity
        if self._slots_of(capacity) < capacity:
            return int(min(self._most, wanted, self._slots))
        # One call more than there are slots, so that the deployment sees a queue, and may grow. Such a
        # call waits for the map itself, so there is none if it may not wait for ever.
        is_patient = self._calls.options.queue_timeout == inf
        return int(min(self._most, wanted + is_patient))

    def _slots_of(self, capacity: int) -> int:
        """Return the most calls that the instances run at a time, and set the weight of each."""
        threads = self._pool.threads
        sizes = capacity, threads.changes
        if sizes != self._sizes:
            self._sizes, self._slots = sizes, threads.slots_for(self._calls.name)
            self._weight = capacity / self._slots - 1 if 0 < self._slots < capacity else None
        return self._slots

    def _assignments(self) -> _Assignments:
        return _Assignments(self.on_assigned, self._pool.threads, self._weight)

    def batch_size(self) -> int:
        """Return how many items the next batch may have."""
        return self._batch if self._may_batch else 1

    async def run(self, first: int, items: list[T]) -> list[Result | MapItem[T]]:
        """Return the outcomes of a batch: results, and a :class:`MapItem` for each failure.

        With ``keeps_items``, each outcome is a :class:`MapItem`.
        """
        if len(items) == 1:
            return [await self._run_alone(first, items[0])]
        assignments = self._assignments()
        seconds = self._calls.timeout * len(items)  # each item has its own time
        attempts = self._calls.attempts(seconds, assignments, is_item=True)
        try:
            outcomes = await self._run_batch(first, items, assignments, attempts)
        finally:
            assignments.release()
        refused: dict[int, int] = {}  # calls made so far, by index
        failed: dict[int, int] = {}
        failure: SpearError | None = None
        for at, outcome in enumerate(outcomes):
            if type(outcome) is MapItem and outcome.error is not None:
                if self._is_refused(outcome.error, outcome.attempts):
                    refused[at] = outcome.attempts
                elif attempts.may_repeat(outcome.error):
                    failed[at], failure = outcome.attempts, failure or outcome.error
        if failure is not None:
            delay = attempts.delay_after(failure)  # a batch was one call, and is one retry
            if delay is None:
                failed.clear()
            else:
                await trio.sleep(delay)
        for at, made in sorted({**refused, **failed}.items()):
            earlier = attempts.count if at in failed else 0
            outcomes[at] = await self._run_alone(first + at, items[at], made, earlier)
        return outcomes

    def _is_refused(self, error: SpearError, made: int) -> bool:
        """Return whether a batch was refused as such, so that its items have to be sent alone."""
        if isinstance(error, InvalidArguments) and made == 0:
            return True  # some item of the batch cannot be sent: find out which
        is_refusal = isinstance(error, Rejected | NotFound) and error.delivered == "no"
        return is_refusal and not self._may_batch

    def _outcome(
        self,
        index: int,
        item: T,
        result: Result,
        error: SpearError | None,
        assignments: _Assignments,
    ) -> Result | MapItem[T]:
        if error is None and not self._keeps_items:
            return result
        return MapItem(index, item, result, error, assignments.attempts, assignments.instance)

    # -- one item -----------------------------------------------------------------------------

    async def _run_alone(
        self, index: int, item: T, made: int = 0, earlier: int = 0
    ) -> Result | MapItem[T]:
        """Return the outcome of one item.

        Args:
            index: the index of the item.
            item: the item.
            made: the number of calls that were made for the item.
            earlier: how many of these count as attempts.
        """
        calls, assignments = self._calls, self._assignments()
        assignments.attempts = made
        result: Result = None
        error: SpearError | None = None
        try:
            payload, is_cbor = calls.encode(arguments_of_item(item, unpack=self._unpack), {})
            attempts = calls.attempts(execution=assignments, is_item=True, earlier=earlier)
            response = await calls.repeat(attempts, payload, is_cbor)
            if response.is_segment:
                await response.settle()
            result = decode_result_untrusted(response.payload, response.is_cbor)
            if isinstance(result, memoryview):
                self._may_batch = False  # shared memory cannot travel in a batch
            result = calls.convert(result)
        except SpearError as failure:
            error, result = failure, None
        else:
            size = max(len(payload), len(response.payload))
            self._adapt(response.execution_seconds, 1, size)
        finally:
            assignments.release()
        return self._outcome(index, item, result, error, assignments)

    def _adapt(self, seconds: float, items: int, size: int) -> None:
        """Choose the size of further batches.

        Args:
            seconds: what so many items have taken.
            items: their number.
            size: the bytes of their arguments or of their results, whichever are more.
        """
        # At least a half: one item may have waited, or its process may have been suspended.
        wanted = max(BATCH_SECONDS * items / max(seconds, 1e-6), self._batch / 2)
        most = min(2 * self._batch, MAX_BATCH, MAX_BATCH_BYTES * items / max(size, 1))
        self._batch = max(1, int(min(wanted, most)))

    # -- a batch ------------------------------------------------------------------------------

    async def _run_batch(
        self, first: int, items: list[T], assignments: _Assignments, attempts: Attempts
    ) -> list[Result | MapItem[T]]:
        results: list[Result] = []
        failures: dict[int, SpearError] = {}
        calls, clock = self._calls, self._pool.clock
        begun = clock()
        try:
            while not results:
                try:
                    await self._call_batch(items, attempts, results, failures)
                except Overloaded as refusal:
                    delay = attempts.delay_after(refusal) if refusal.code == "queue_full" else None
                    if delay is None:
                        raise
                    await trio.sleep(delay)
        except SpearError as failure:
            lost = range(len(results), len(items))
            if isinstance(failure, NotFound) or failure.code == "not_in_batch":
                self._may_batch = False
                assignments.attempts, assignments.instance = 0, None  # no item was in a call
            elif assignments.attempts:
                calls.counters.ended(clock() - begun, failure, len(lost))
                self._batch = 1  # the next items may be of the kind that failed these
            failures.update((at, _of_item(failure)) for at in lost)
            results += [None] * len(lost)
        if calls.expected is not None:
            for at, result in enumerate(results):
                if at not in failures:
                    try:
                        results[at] = calls.convert(result)
                    except UnexpectedResult as failure:
                        results[at], failures[at] = None, failure
        outcomes: list[Result | MapItem[T]] = results  # type: ignore[assignment]  # no longer used as such
        for at in range(len(items)) if self._keeps_items else failures:
            outcomes[at] = self._outcome(
                first + at, items[at], results[at], failures.get(at), assignments
            )
        return outcomes

    async def _call_batch(
        self,
        items: list[T],
        attempts: Attempts,
        results: list[Result],
        failures: dict[int, SpearError],
    ) -> None:
        """Make one call for all items; append outcomes as they arrive, before any failure is raised.

        A failed item has None among the results, and its failure by its index.
        """
        calls, seconds = self._calls, self._calls.timeout
        arguments: list[object] = [*items]
        if self._unpack:
            arguments = [arguments_of_item(each, unpack=True) for each in items]
        payload, is_cbor = encode_call(BATCH, (calls.name, seconds, self._unpack, arguments), {})
        now = calls.pool.clock()
        async with AsyncExitStack() as stack:
            stream = await enter_stream(
                stack, calls.pool, calls.attributes, payload, is_cbor,
                now, now + (attempts.queue_seconds or 0.0), sends_items=False,
                run_seconds=seconds * len(items) + GRACE_SECONDS, execution=attempts, function=BATCH,
            )  # fmt: skip
            while len(results) < len(items):
                found: Result = None
                received, is_cbor, is_whole = b"", False, True
                with trio.move_on_after(seconds + GRACE_SECONDS) as scope:
                    with suppress(trio.EndOfChannel):
                        received, is_cbor = await stream.receive_item()
                        found, is_whole = _decode_untrusted(received, is_cbor)
                if scope.cancelled_caught:
                    raise DeadlineExceeded.of_call(calls.name, seconds, "maybe")
                before = len(results)
                took = _read_untrusted(found, len(items), results, failures)
                if not is_whole:
                    _restore_each(results, failures, before)
                done = len(results) - before
                self._adapt(took, done, max(len(payload) * done // len(items), len(received)))
                failed = [each for at, each in failures.items() if at >= before]
                calls.counters.ended(took / done, None, done - len(failed))
                for error in failed:
                    calls.counters.ended(took / done, error)


def _of_item(failure: SpearError) -> SpearError:
    """Return the failure of a batch as that of an item without an outcome, which may not have begun."""
    failure = copy(failure)  # one exception must not be raised twice
    if failure.delivered == "yes":
        failure.delivered = "maybe"
    return failure


def _decode_untrusted(payload: bytes, is_cbor: bool) -> tuple[Result, bool]:
    """Decode an item of a batch's stream; return it, and whether no codec has failed.

    If one has, all values with codecs stay encoded.
    """
    try:
        return decode_result_untrusted(payload, is_cbor), True
    except UnexpectedResult:
        return decode_result(payload, is_cbor, passes_on=True), False


def _restore_each(results: list[Result], failures: dict[int, SpearError], start: int) -> None:
    """Decode the values with codecs in each result; note the failures of those that have none."""
    for at in range(start, len(results)):
        try:
            results[at] = decode_result_untrusted(encode_alone(results[at]), True)
        except UnexpectedResult as failure:
            results[at], failures[at] = None, failure


def _read_untrusted(
    value: Result, items: int, results: list[Result], failures: dict[int, SpearError]
) -> float:
    """Append the outcomes in an item of a batch's stream; return the seconds that they took.

    Raises:
        RemoteProtocolError: the agent has sent something else, or nothing more.
    """
    if type(value) is list and len(value) == 3:
        micros, found, failed = value
        if type(micros) is int and type(found) is list and type(failed) is list:
            before = len(results)
            if micros >= 0 and 0 < len(found) <= items - before:
                for each in failed:
                    at, failure = _failure_untrusted(each, len(found))
                    failures[before + at] = failure
                results += found
                return micros / 1e6
    raise RemoteProtocolError("the agent has not sent an outcome of each call", delivered="maybe")


def _failure_untrusted(value: Result, most: int) -> tuple[int, SpearError]:
    match value:
        case [int() as at, int() as flags, int() as a, int() as b, dict() as head] if (
            0 <= at < most
        ):
            return at, decode_failure_untrusted(flags, a, b, head, MAX_MESSAGE_BYTES)
    raise RemoteProtocolError("the agent has sent a failure that is none", delivered="maybe")
