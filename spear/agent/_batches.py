"""Many calls of one function in one call: the function ``spear.batch``, which no agent announces.

A host uses it for calls so short that the cost of a call would be larger. The arguments are the name of
the function, the seconds that each of its calls may take, whether an item is a list of arguments (or else
one argument), and the items. The result is a stream of ``[microseconds, results, failures]``: how long
the next calls took together, their results in order, and for each failed one, whose result is null, its
index among them and the fields of its ERROR frame: ``[index, flags, a, b, head]``. The calls run one
after the other, each with context variables of its own; those of a batched function are gathered by it.
Outcomes are sent at least every FLUSH_SECONDS, so that a host that loses this process has them.

A plain call that is late keeps its thread, because nothing can stop it. The calls behind it go on in
another thread, so that only the late one fails.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Coroutine, Mapping
from contextvars import copy_context
from math import inf
from types import MethodType
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import trio
from trio.lowlevel import cancel_shielded_checkpoint, current_task, disable_ki_protection

from spear._codecs import CodecFault
from spear._errors import (
    DeadlineExceeded,
    FunctionRaised,
    InvalidArguments,
    LocalProtocolError,
    NotFound,
    Rejected,
)
from spear._segments import Segment
from spear._sendable import CannotSend
from spear._signatures import BATCH
from spear._util import did_you_mean
from spear.channels import protected_class
from spear.wire import NONE, encode_failure, encode_sendable

from ._arguments import decode_arguments_untrusted
from ._context import current
from ._encoding import encode_outcome
from ._failures import about_call
from ._functions import COMMON_RESULTS, AsyncFunction, PlainFunction, RegisteredFunction

if TYPE_CHECKING:
    from spear._errors import CallFailed, Delivered
    from spear.channels import InboundCall
    from spear.wire import Payload

    from ._context import CurrentCall
    from ._dynamic_batches import BatchedFunction
    from ._service import AgentService

    Batchable: TypeAlias = AsyncFunction | PlainFunction | BatchedFunction

FLUSH_SECONDS: Final = 0.02
"""Seconds after which outcomes are sent although the batch has not ended."""

SLACK_SECONDS: Final = 0.01
"""Seconds that a call of a batch may have beyond its timeout."""

MAX_ITEM_BYTES: Final = 1 << 20
"""Bytes above which the outcomes of several calls are sent as several items."""

Failure: TypeAlias = list[object]
"""``[index, flags, a, b, head]``, or without the index."""


@final
@protected_class
class BatchFunction(RegisteredFunction):
    """The function ``spear.batch``.

    Args:
        by_name: all functions of the agent.
    """

    __slots__ = ("_by_name",)

    def __init__(self, by_name: Mapping[str, RegisteredFunction]) -> None:
        super().__init__(BATCH, MethodType(type(self).run, self))
        self._by_name = by_name

    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Run the calls of a batch, and send their outcomes."""
        function, seconds, calls = self._read_untrusted(call)
        function.calls += len(calls)
        await _BatchRun(function, seconds, call, service).run(calls)
        return NONE, True

    def _read_untrusted(self, call: InboundCall) -> tuple[Batchable, float, deque[list[object]]]:
        """Return the function, the seconds for each call, and the positional arguments of each."""
        try:
            arguments, _ = decode_arguments_untrusted(call.payload, call.is_cbor)
            match arguments:
                case [str() as name, int() | float() as seconds, True, list() as items]:
                    if not all(type(each) is list for each in items):
                        raise ValueError("an item is not a list of arguments")
                    calls = deque(items)
                case [str() as name, int() | float() as seconds, False, list() as items]:
                    calls = deque([each] for each in items)
                case _:
                    raise ValueError("not a name, seconds, whether to unpack, and a list of items")
        except CodecFault as fault:  # of one item: the others are not at fault
            message = f"{BATCH}(): {fault}: call each item alone"
            raise about_call(Rejected(message, code="not_in_batch")) from fault
        except ValueError as error:
            raise about_call(InvalidArguments(f"{BATCH}(): {error}")) from error
        found = self._by_name.get(name)
        if found is None:
            hint = did_you_mean(name, self._by_name)
            raise about_call(NotFound(f"there is no function {name[:100]!r} here{hint}"))
        if not found.takes_items:
            if isinstance(found, AsyncFunction) or type(found) is PlainFunction:
                return found, seconds, calls
            if found.is_batched:
                return cast("BatchedFunction", found), seconds, calls
        message = f"{name}() cannot run in a batch: call it alone"
        raise about_call(Rejected(message, code="not_in_batch"))


@final
class _Turn:
    """The calls of a plain function that one thread makes, until it is time to send outcomes.

    Attributes:
        lock: guards the attributes, and the calls and outcomes of the batch while the turn is not over.
        deadline: when its current call is late; infinite while there is none.
        is_over: whether the thread may make no further call, nor note an outcome.
        unfinished: the indexes of results that are coroutines, as a wrapper of an ``async def`` returns.
        failure: why there was no thread, if so.
        ended: set when the thread has ended.
    """

    __slots__ = ("deadline", "ended", "failure", "is_over", "lock", "unfinished")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.deadline = inf
        self.is_over = False
        self.unfinished: list[int] = []
        self.failure: Exception | None = None
        self.ended = trio.Event()

    def leave(self, now: float) -> bool:
        """End the turn if its current call is late; return whether it is."""
        with self.lock:
            self.is_over = now > self.deadline + SLACK_SECONDS
            return self.is_over


@final
@protected_class
class _BatchRun:
    """The calls of one batch, and their outcomes."""

    def __init__(
        self,
        function: Batchable,
        seconds: float,
        call: InboundCall,
        service: AgentService,
    ) -> None:
        self._function = function
        self._seconds = seconds
        self._call = call
        self._service = service
        self._clock = service.clock.current_time
        self._results: list[object] = []  # not yet sent, as are the failures
        self._failures: list[Failure] = []
        self._since = self._clock()
        self._deadline = inf  # of the current call
        current.set(self._current)
        self._context = copy_context()  # in which each call begins

    def _current(self) -> CurrentCall:
        return self._call, self._function.name, self._deadline, self._service, None

    async def run(self, calls: deque[list[object]]) -> None:
        """Run the calls, and send their outcomes; then wait for threads with late calls."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            try:
                await self._run_all(calls, nursery)
            except Exception as error:
                failure = error  # not in a group
        if failure is not None:
            raise failure

    async def _run_all(self, calls: deque[list[object]], nursery: trio.Nursery) -> None:
        while calls:
            if isinstance(self._function, AsyncFunction):
                await self._run_async(self._function, calls)
            elif isinstance(self._function, PlainFunction):
                await self._run_plain(self._function, calls, nursery)
            else:
                await self._gather(self._function, calls)
            if not calls or self._clock() - self._since > FLUSH_SECONDS:
                micros = int((self._clock() - self._since) * 1e6)
                results, failures = self._results, self._failures
                self._results, self._failures = [], []
                await self._send(micros, results, failures)
                self._since = self._clock()  # the wait for the host's window does not count

    async def _restore_context(self) -> None:
        """Undo what the last call has changed in the context of this task."""
        current_task().context = self._context.copy()
        await cancel_shielded_checkpoint()  # Trio uses it from then on

    def _has_changed(self) -> bool:
        """Return whether the last call has changed the context of this task; few calls do."""
        # A new context for every call would cost as much as a short call. The comparison takes 50 ns, and
        # looks at values only if a call has set one.
        try:
            return copy_context() != self._context
        except BaseException:  # raised by the __eq__ of a value
            return True

    async def _run_async(self, function: AsyncFunction, calls: deque[list[object]]) -> None:
        """Run calls until it is time to send outcomes, or until one is late."""
        now = self._clock()
        end = now + FLUSH_SECONDS
        with trio.CancelScope() as scope:
            while calls:
                # Moving the deadline for every call would take as long as a short call.
                if now + self._seconds > scope.deadline or scope.deadline == inf:
                    scope.deadline = now + self._seconds + SLACK_SECONDS
                if self._has_changed():
                    await self._restore_context()
                self._deadline = now + self._seconds
                await self._run_one(function, calls.popleft())
                now = self._clock()
                if now >= end:  # not before the first call: the process may have been suspended
                    break
        if scope.cancelled_caught:
            late = DeadlineExceeded.of_call(function.name, self._seconds, "yes")
            self._fail(about_call(late), len(self._results))
            self._results.append(None)

    @disable_ki_protection  # it runs the user's code
    async def _run_one(self, function: AsyncFunction, arguments: list[object]) -> None:
        try:
            function.convert((arguments, {}))
            result: object = await function.function(*arguments)
            function.check_result(result, "returned")
        except BaseException as error:
            self._fail(error, len(self._results))
            result = None
        self._results.append(result)

    @disable_ki_protection  # likewise
    async def _within(self, awaitable: Awaitable[object]) -> object:
        with trio.move_on_after(self._seconds):
            return await awaitable
        raise about_call(DeadlineExceeded.of_call(self._function.name, self._seconds, "yes"))

    async def _run_plain(
        self, function: PlainFunction, calls: deque[list[object]], nursery: trio.Nursery
    ) -> None:
        """Make calls in a thread until it is time to send outcomes, or until one is late."""
        turn = _Turn()
        nursery.start_soon(self._take_thread, turn, function, calls)
        while not turn.ended.is_set():
            with trio.move_on_at(min(turn.deadline, self._clock() + self._seconds) + SLACK_SECONDS):
                await turn.ended.wait()
            if turn.leave(self._clock()):
                late = DeadlineExceeded.of_call(function.name, self._seconds, "yes")
                self._fail(about_call(late), len(self._results))
                self._results.append(None)
                break
        if turn.failure is not None:
            raise turn.failure
        for at in turn.unfinished:
            if self._has_changed():
                await self._restore_context()
            self._deadline = self._clock() + self._seconds
            try:
                self._results[at] = await self._within(cast("Awaitable[object]", self._results[at]))
            except BaseException as error:
                self._fail(error, at)
                self._results[at] = None

    async def _take_thread(
        self, turn: _Turn, function: PlainFunction, calls: deque[list[object]]
    ) -> None:
        try:
            await self._service.in_thread(self._call, self._run_turn, turn, function, calls)
        except Exception as error:
            turn.failure = error
        finally:
            turn.ended.set()

    def _run_turn(self, turn: _Turn, function: PlainFunction, calls: deque[list[object]]) -> None:
        """Make calls in a thread until it is time to send outcomes, or until the turn is over."""

        def current_call() -> CurrentCall:
            return self._call, function.name, turn.deadline, self._service, None

        context = self._context.copy()
        context.run(current.set, current_call)
        now = self._clock()
        end = now + FLUSH_SECONDS
        with turn.lock:
            arguments = calls.popleft()
            turn.deadline = now + self._seconds
        while True:
            failure: Failure | None = None
            result: object = None
            try:
                result = context.copy().run(_call_plain, function, arguments)
                if type(result) in COMMON_RESULTS or not isinstance(result, Coroutine):
                    function.check_result(result, "returned")
            except BaseException as error:
                failure, result = self._encoded(self._service.failure_of(error)), None
            now = self._clock()
            with turn.lock:
                if turn.is_over:
                    if isinstance(result, Coroutine):
                        result.close()
                    return
                if failure is not None:
                    self._note_failure(failure, len(self._results))
                elif type(result) not in COMMON_RESULTS and isinstance(result, Coroutine):
                    turn.unfinished.append(len(self._results))
                self._results.append(result)
                if not calls or now >= end or self._call.cancelled is not None:
                    turn.deadline = inf
                    return
                arguments = calls.popleft()
                turn.deadline = now + self._seconds

    async def _gather(self, function: BatchedFunction, calls: deque[list[object]]) -> None:
        """Let all calls join the batches of a batched function, and wait for them."""
        self._results = [None] * len(calls)
        async with trio.open_nursery() as nursery:
            for at, arguments in enumerate(calls):
                nursery.start_soon(self._join, function, arguments, at)
        calls.clear()

    @disable_ki_protection  # it makes objects of the user's classes
    async def _join(self, function: BatchedFunction, arguments: list[object], at: int) -> None:
        until = self._clock() + self._seconds
        delivered: Delivered = "yes"

        def leave() -> None:
            nonlocal delivered
            delivered = "no"

        current.set((self._call, function.name, until, self._service, None))
        with trio.move_on_after(self._seconds) as scope:
            try:
                function.convert((arguments, {}))
                (item,) = arguments
                result = await function.submit(item, self._call, self._service, leave)
                function.check_result(result, "returned")
                self._results[at] = result
            except BaseException as error:
                self._fail(error, at)
        if scope.cancelled_caught:
            late = DeadlineExceeded.of_call(function.name, self._seconds, delivered)
            self._note_failure(self._encoded(late), at)

    def _fail(self, error: BaseException, at: int) -> None:
        """Note the failure of a call, which has no result."""
        self._note_failure(self._encoded(self._service.failure_of(error)), at)

    def _encoded(self, failure: CallFailed) -> Failure:
        return list(encode_failure(failure, self._call.channel.limits.error_message_bytes))

    def _note_failure(self, failure: Failure, at: int) -> None:
        self._function.failed += 1
        self._failures.append([at, *failure])

    # -- sending --------------------------------------------------------------------------------------

    async def _send(self, micros: int, results: list[object], failures: list[Failure]) -> None:
        """Send outcomes as one item, or as several if they are large."""
        try:
            payload, _ = encode_sendable([micros, results, failures])
        except CannotSend:
            self._failures = failures
            results = [self._as_sendable(at, each) for at, each in enumerate(results)]
            self._failures = []
            payload, _ = encode_sendable([micros, results, failures])
        if len(payload) > MAX_ITEM_BYTES and len(results) > 1:
            half = len(results) // 2
            first = [each for each in failures if _index(each) < half]
            second = [[_index(each) - half, *each[1:]] for each in failures if _index(each) >= half]
            await self._send(micros, results[:half], first)
            await self._send(0, results[half:], second)
            return
        try:
            await self._call.send(payload, is_cbor=True)
        except LocalProtocolError as error:
            if error.code != "payload_too_large" or failures:
                raise
            self._fail(error, 0)
            failures, self._failures = self._failures, []
            await self._send(micros, [None], failures)

    def _as_sendable(self, at: int, result: object) -> object:
        """Return a result that can be sent; note the failure of a call whose result cannot."""
        if isinstance(result, Segment):
            return result.as_bytes()
        if isinstance(result, memoryview):
            return bytes(result)
        try:
            encode_outcome(self._function.name, result, "returned")
        except FunctionRaised as error:
            self._fail(error, at)
            return None
        return result


def _call_plain(function: PlainFunction, arguments: list[object]) -> object:
    function.convert((arguments, {}))
    return function.call(arguments, {})


def _index(failure: Failure) -> int:
    index = failure[0]
    assert isinstance(index, int)
    return index
