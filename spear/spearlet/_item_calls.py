"""Calls of a function for items: one call for a long item, one batch for many short ones.

The size of a batch follows the measured duration of the items: a batch is about 5 ms of work, so that the
cost of a call is small beside it, and a lost instance costs few items.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from copy import copy
from math import inf
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar, final

import attrs
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
from spear.calls import R, decode_result_untrusted, enter_stream
from spear.channels import protected_class
from spear.wire import decode_failure_untrusted, encode_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear._ids import InstanceId
    from spear.calls import Result

    from ._call_maker import CallMaker

T = TypeVar("T")

BATCH_SECONDS: Final = 0.005
"""Work of one batch, in seconds of its items' functions."""

MAX_BATCH: Final = 1024
"""Most items of a batch."""

CROWDED_ITEMS: Final = 100
"""Items of a batch from which on the items are too short to wait for anything but the interpreter."""

MAX_BATCH_BYTES: Final = 256 * 1024
"""Most bytes of a batch's arguments, by the mean of earlier ones."""

LEAST_BATCH_TIMEOUT: Final = 1.0
"""Items with a shorter timeout travel alone, so that no item waits long for another one of its batch."""

GRACE_SECONDS: Final = 1.0
"""Seconds beyond an item's timeout after which its batch is given up: the agent should be faster."""

MAX_MESSAGE_BYTES: Final = 16 * 1024
"""Most bytes of the message of an item's failure."""

FULL_QUEUE_SECONDS: Final = 0.1
"""Delay before a call that found the queue full is made again, if the refusal names none."""


class MapItem(NamedTuple, Generic[T, R]):
    """The outcome of one item of a map.

    Attributes:
        index: the index of the item, from 0.
        argument: the item.
        result: the result of the function; None if it failed.
        error: the failure; None if there is none.
        attempts: the number of calls that were made for the item; 0 if its argument cannot be sent.
        instance: the instance that got the last of these calls, if any.
    """

    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    argument: T
    result: R
    error: SpearError | None
    attempts: int
    instance: InstanceId | None


@final
class _Assignments:
    """The instance of the last call for an item or a batch, and the number of calls."""

    __slots__ = ("_on_assigned", "attempts", "instance")

    is_accepted: Final = False

    def __init__(self, on_assigned: Callable[[], object]) -> None:
        self._on_assigned = on_assigned
        self.attempts = 0
        self.instance: InstanceId | None = None

    def assigned(self, instance: InstanceId) -> None:
        """Note the instance, and start further calls if there are further slots."""
        self.instance = instance
        self.attempts += 1
        self._on_assigned()


@final
@protected_class
class ItemCalls(Generic[T]):
    """A maker of calls for items: alone, or in batches of a size that follows their duration.

    Attributes:
        on_assigned: called when a call or batch has got an instance.
    """

    def __init__(
        self, calls: CallMaker, limit: int | None, *, unpack: bool, keeps_items: bool
    ) -> None:
        self._calls = calls
        self._pool = calls.pool
        self._most = inf if limit is None else limit
        self._retry = calls.options.retry
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

    def limit(self) -> int:
        """Return how many batches may run at a time."""
        pool = self._pool
        # Threads with many short items would only take the interpreter of their process from each other.
        is_crowded = self._batch >= CROWDED_ITEMS
        wanted = 2 * len(pool.ready) if is_crowded else pool.load(is_full=True).in_flight
        # One call more than there are slots, so that the deployment sees a queue, and may grow.
        return int(min(self._most, wanted + 1))

    def batch_size(self) -> int:
        """Return how many items the next batch may have."""
        return self._batch if self._may_batch else 1

    async def run(self, first: int, items: list[T]) -> list[Result | MapItem[T]]:
        """Return the outcomes of a batch: results, and a :class:`MapItem` for each failure.

        With ``keeps_items``, each outcome is a :class:`MapItem`.
        """
        if len(items) == 1:
            return [await self._run_alone(first, items[0])]
        outcomes = await self._run_batch(first, items)
        has_paused = False
        for at, outcome in enumerate(outcomes):
            if (
                type(outcome) is MapItem
                and outcome.error is not None
                and self._is_to_be_repeated(outcome.error, outcome.attempts)
            ):
                if self._retry is not None and outcome.attempts and not has_paused:
                    if not self._pool.retries.spend():  # a batch was one call, and is one retry
                        break
                    await trio.sleep(self._retry.delay_seconds(outcome.attempts, self._pool.rng))
                    has_paused = True
                outcomes[at] = await self._run_alone(first + at, items[at], outcome.attempts)
        return outcomes

    def _is_to_be_repeated(self, error: SpearError, attempts: int) -> bool:
        if (
            isinstance(error, Rejected | NotFound)
            and not self._may_batch
            and error.delivered == "no"
        ):
            return True  # the batch was refused, not the function
        if isinstance(error, InvalidArguments) and attempts == 0:
            return True  # some item of the batch cannot be sent: find out which
        retry = self._retry
        return retry is not None and attempts < retry.max_attempts and retry.may_repeat(error)

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

    def _arguments(self, item: T) -> tuple[object, ...]:
        if not self._unpack:
            return (item,)
        if not isinstance(item, Iterable):
            raise InvalidArguments(
                f"starmap needs items that are lists of arguments, not {item!r:.60}"
            )
        return tuple(item)

    # -- one item -----------------------------------------------------------------------------

    async def _run_alone(self, index: int, item: T, attempts: int = 0) -> Result | MapItem[T]:
        calls, assignments = self._calls, _Assignments(self.on_assigned)
        assignments.attempts = attempts
        if attempts and self._retry is not None:
            left = max(1, self._retry.max_attempts - attempts)
            retry = attrs.evolve(self._retry, max_attempts=left)
            calls = calls.using(attrs.evolve(calls.options, retry=retry))
        result: Result = None
        error: SpearError | None = None
        while True:
            try:
                payload, is_cbor = calls.encode(self._arguments(item), {})
                response = await calls.request(payload, is_cbor, None, assignments)
                result = decode_result_untrusted(response.payload, response.is_cbor)
                if isinstance(result, memoryview):
                    self._may_batch = False  # shared memory cannot travel in a batch
                result = calls.convert(result)
            except SpearError as failure:
                if isinstance(failure, Overloaded) and failure.code == "queue_full":
                    await trio.sleep(failure.retry_after_seconds or FULL_QUEUE_SECONDS)
                    continue
                error = failure
            else:
                self._adapt(response.execution_seconds, 1, len(payload))
            return self._outcome(index, item, result, error, assignments)

    def _adapt(self, seconds: float, items: int, size: int) -> None:
        """Choose the size of further batches, after so many items have taken so many seconds."""
        # At least a half: one item may have waited, or its process may have been suspended.
        wanted = max(BATCH_SECONDS * items / max(seconds, 1e-6), self._batch / 2)
        most = min(2 * self._batch, MAX_BATCH, MAX_BATCH_BYTES * items / max(size, 1))
        self._batch = max(1, int(min(wanted, most)))

    # -- a batch ------------------------------------------------------------------------------

    async def _run_batch(self, first: int, items: list[T]) -> list[Result | MapItem[T]]:
        assignments = _Assignments(self.on_assigned)
        results: list[Result] = []
        failures: dict[int, SpearError] = {}
        calls, clock = self._calls, self._pool.clock
        begun = clock()
        try:
            await self._call_batch(items, assignments, results, failures)
        except SpearError as failure:
            lost = range(len(results), len(items))
            if isinstance(failure, NotFound) or failure.code == "not_in_batch":
                self._may_batch = False
            elif assignments.attempts:
                calls.counters.ended(clock() - begun, failure, len(lost))
            # Copies, because one exception must not be raised twice.
            failures.update((at, copy(failure)) for at in lost)
            results += [None] * len(lost)
        if calls.check is not None:
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
        assignments: _Assignments,
        results: list[Result],
        failures: dict[int, SpearError],
    ) -> None:
        """Make one call for all items; append outcomes as they arrive, before any failure is raised.

        A failed item has None among the results, and its failure by its index.
        """
        calls, seconds = self._calls, self._calls.timeout
        arguments: list[object] = [*items]
        if self._unpack:
            arguments = [self._arguments(each) for each in items]
        if self._retry is not None:
            self._pool.retries.earn()
        payload, is_cbor = encode_call(BATCH, (calls.name, seconds, self._unpack, arguments), {})
        async with AsyncExitStack() as stack:
            stream = await enter_stream(
                stack, calls.pool, calls.attributes, payload, is_cbor,
                calls.pool.clock(), inf, sends_items=False,
                run_seconds=seconds * len(items) + GRACE_SECONDS, execution=assignments, function=BATCH,
            )  # fmt: skip
            while len(results) < len(items):
                found: Result = None
                with trio.move_on_after(seconds + GRACE_SECONDS) as scope:
                    with suppress(StopAsyncIteration):
                        found = await anext(stream)
                if scope.cancelled_caught:
                    raise DeadlineExceeded.of_call(calls.name, seconds, "maybe")
                before = len(results)
                took = _read_untrusted(found, len(items), results, failures)
                done = len(results) - before
                self._adapt(took, done, len(payload) * done // len(items))
                failed = [each for at, each in failures.items() if at >= before]
                calls.counters.ended(took / done, None, done - len(failed))
                for error in failed:
                    calls.counters.ended(took / done, error)


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
