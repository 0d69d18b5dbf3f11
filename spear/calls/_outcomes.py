"""Calls with a key: all calls with the same key share one execution, whose outcome is kept for a while.

The first caller of a key begins the execution. Every caller that comes while it runs waits for its end;
later callers get the kept outcome. The execution belongs to no caller: it goes on even if all callers
give up. Otherwise no caller could know whether the function had been executed.

Every outcome is kept, with two exceptions: a failure that certainly came before the function began, and
the loss of every process that had begun the function, if it may start again. After these, the next call
of the key executes the function again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias, final

import attrs
import trio

from spear._errors import (
    CallCancelled,
    DeadlineExceeded,
    Overloaded,
    Rejected,
    SpearError,
)
from spear._failures import size_of, without_traceback
from spear._segments import STEP_BYTES, Segment
from spear.channels import protected_class

from ._failures import as_failure
from ._payloads import expect_bytes, heap_bytes

if TYPE_CHECKING:
    from spear._host_limits import HostLimits
    from spear._ids import InstanceId
    from spear.channels import ExecutionResponse
    from spear.wire import Payload

    from ._assignment import AssignmentObserver
    from ._attempts import Reports
    from ._keyed import Shared

Name: TypeAlias = tuple[str, str, str]
"""The names of a deployment and of its function, and a key."""

Execute: TypeAlias = "Callable[[Shared], Awaitable[ExecutionResponse]]"


@final
@protected_class
@attrs.define(eq=False, kw_only=True)
class KeyedCall:
    """A call that waits for the outcome of a key.

    Attributes:
        name: the deployment, the function and the key.
        payload: the arguments.
        deadline: when the caller gives up, in Trio's time.
        execution: receives the instance where the function runs; None if the caller does not ask.
        reports: called with progress reports, in the caller's task.
    """

    name: Name
    payload: Payload
    deadline: float
    execution: AssignmentObserver | None
    reports: Reports | None
    _unread: list[tuple[bytes, bool]] = attrs.field(init=False, factory=list)
    _news: trio.Event = attrs.field(init=False, factory=trio.Event)

    def report(self, payload: bytes, is_cbor: bool) -> None:
        """Queue a report of progress for the caller's task, if the caller wants reports."""
        if self.reports is not None:
            self._unread.append((payload, is_cbor))
            self._news.set()

    def wake(self) -> None:
        """Wake the caller, because there is an outcome."""
        self._news.set()

    async def wait_news(self) -> None:
        """Wait for reports or an outcome, and pass the reports to the caller's callback."""
        await self._news.wait()
        self._news = trio.Event()
        unread, self._unread = self._unread, []
        for payload, is_cbor in unread:
            assert self.reports is not None
            self.reports(payload, is_cbor)


@final
@protected_class
@attrs.define(eq=False)
class _KeyedRun:
    """A running execution of a key, and the calls that wait for it."""

    digest: bytes
    argument_bytes: int  # bytes of arguments, which are held until the execution ends
    calls: set[KeyedCall] = attrs.field(factory=set)
    instance: InstanceId | None = None  # where the function runs now
    is_lost: bool = False  # each process that began the function is gone, so it may start again
    has_reported: bool = False
    outcome: _Outcome | None = None  # once the execution has ended

    @property
    def is_accepted(self) -> bool:
        """Whether a submitted call waits for the execution."""
        executions = (each.execution for each in self.calls)
        return any(each is not None and each.is_accepted for each in executions)

    def assigned(self, instance: InstanceId) -> None:
        """Note the instance where the function runs, and pass it on to the calls."""
        self.instance = instance
        for call in self.calls:
            if call.execution is not None:
                call.execution.assigned(instance)

    def report(self, payload: bytes, is_cbor: bool) -> None:
        """Hand a report of progress to all waiting calls."""
        self.has_reported = True
        for call in self.calls:
            call.report(payload, is_cbor)

    def end(self, outcome: _Outcome) -> None:
        """Note the outcome, and wake all waiting calls."""
        self.outcome = outcome
        for call in self.calls:
            call.wake()


@final
@attrs.frozen(eq=False)
class _Outcome:
    """An outcome of a key: a response or a failure."""

    digest: bytes
    result: ExecutionResponse | Exception
    size: int = 0  # bytes of memory that the outcome holds
    expires: float = 0.0

    def unwrap(self) -> ExecutionResponse:
        """Return the response, or raise the failure."""
        if isinstance(self.result, Exception):
            raise without_traceback(self.result)
        return self.result


@final
@protected_class
class Outcomes:
    """A store of the outcomes of a spearlet's calls with keys.

    Attributes:
        argument_bytes: bytes of encoded arguments that the running executions hold.
    """

    def __init__(self, limits: HostLimits, nursery: trio.Nursery) -> None:
        self._nursery = nursery  # of executions; ends with open_spearlet's block
        self._max_outcomes = limits.max_outcomes
        self._max_bytes = limits.outcome_bytes
        self._kept: OrderedDict[Name, _Outcome] = OrderedDict()  # the earliest end first
        self._running: dict[Name, _KeyedRun] = {}
        self._bytes = 0
        self._max_argument_bytes = limits.submitted_bytes
        self.argument_bytes = 0

    async def once(
        self, call: KeyedCall, keep_seconds: float, execute: Execute
    ) -> ExecutionResponse:
        """Return the outcome of a key, and begin its execution if no other call has. A checkpoint.

        If cancelled, the execution goes on.

        Raises:
            Rejected: the key was used with other arguments.
            Overloaded: the executions of keys hold ``HostLimits.submitted_bytes`` of arguments.
            DeadlineExceeded: the execution did not end by the deadline of this call.
            BaseException: the execution raised it.
        """
        await trio.lowlevel.checkpoint()
        name = call.name
        digest = await _digest_of(call.payload)
        found = self._find(name)
        if found is not None and found.digest != digest:
            raise Rejected(
                f"the key {name[2]!r} was used for a call of {name[1]} with other arguments",
                code="key_reused",
            )
        if isinstance(found, _Outcome):
            return found.unwrap()
        if found is None:
            if call.deadline <= trio.current_time():
                raise DeadlineExceeded.of_call(name[1], 0, "no")
            found = self._begin(name, digest, heap_bytes(call.payload))
            self._nursery.start_soon(self._execute, name, found, keep_seconds, execute)
        return (await _wait(found, call)).unwrap()

    def _begin(self, name: Name, digest: bytes, argument_bytes: int) -> _KeyedRun:
        # Executions hold their arguments even if their callers have given up.
        expect_bytes(
            "calls with keys", self.argument_bytes, argument_bytes, self._max_argument_bytes
        )
        execution = self._running[name] = _KeyedRun(digest, argument_bytes)
        self.argument_bytes += argument_bytes
        return execution

    def _find(self, name: Name) -> _KeyedRun | _Outcome | None:
        now = trio.current_time()
        while self._kept:
            oldest = next(iter(self._kept))
            if self._kept[oldest].expires > now:
                break
            self._forget(oldest)
        return self._running.get(name) or self._kept.get(name)

    async def _execute(
        self, name: Name, execution: _KeyedRun, keep_seconds: float, execute: Execute
    ) -> None:
        result: ExecutionResponse | Exception
        result = CallCancelled("the spearlet has ended", delivered="maybe")
        try:
            result = await execute(execution)
            if result.is_segment:
                await result.settle()
            size = len(result.payload)  # maps shared memory, which may fail
        except (trio.Cancelled, KeyboardInterrupt):
            raise
        except BaseException as error:
            # Not kept in a variable of its own, which its traceback would hold, with the arguments.
            result = without_traceback(as_failure(error))
            size = size_of(result)
        finally:
            del self._running[name]
            self.argument_bytes -= execution.argument_bytes
            execution.end(_Outcome(execution.digest, result))
        if _is_final(result, execution):
            self._keep(name, result, size, execution.digest, trio.current_time() + keep_seconds)

    def _keep(
        self,
        name: Name,
        result: ExecutionResponse | Exception,
        size: int,
        digest: bytes,
        expires: float,
    ) -> None:
        if size > self._max_bytes:
            result = Rejected(
                f"{name[1]} was executed for the key {name[2]!r}, but its outcome of "
                f"{size} bytes was too large to be kept (outcome_bytes: {self._max_bytes})",
                code="outcome_not_kept",
                delivered="yes",
            )
            size = 0
        # If ``keep_seconds`` has changed, outcomes may expire out of order; some then stay too long.
        self._kept[name] = _Outcome(digest, result, size, expires)
        self._bytes += size
        while self._bytes > self._max_bytes or len(self._kept) > self._max_outcomes:
            self._forget(next(iter(self._kept)))

    def _forget(self, name: Name) -> None:
        self._bytes -= self._kept.pop(name).size


async def _digest_of(payload: Payload) -> bytes:
    """Return a digest of arguments. Other tasks run while a large payload is read. Raises Overloaded."""
    digest = blake2b(digest_size=16)
    try:
        for piece in payload.pieces() if isinstance(payload, Segment) else (payload,):
            with memoryview(piece) as view:
                for start in range(0, len(view), STEP_BYTES):
                    digest.update(view[start : start + STEP_BYTES])
                    if len(view) >= STEP_BYTES:
                        await trio.lowlevel.checkpoint()
    except OSError as error:
        message = f"cannot read the arguments in shared memory: {error.strerror}"
        raise Overloaded(message) from error
    return digest.digest()


async def _wait(execution: _KeyedRun, call: KeyedCall) -> _Outcome:
    """Wait for the end of an execution, until the call's deadline."""
    execution.calls.add(call)
    if execution.instance is not None and call.execution is not None:
        call.execution.assigned(execution.instance)
    try:
        with trio.move_on_at(call.deadline):
            while execution.outcome is None:
                await call.wait_news()
    finally:
        execution.calls.remove(call)
    if execution.outcome is not None:
        return execution.outcome
    raise DeadlineExceeded(
        f"the deadline of this call has passed; {call.name[1]} is still being executed for the "
        f"key {call.name[2]!r}",
        delivered="yes" if execution.has_reported else "maybe",
    )


def _is_final(result: ExecutionResponse | Exception, execution: _KeyedRun) -> bool:
    """Return whether to keep an outcome, because executing again could have the effect twice."""
    if isinstance(result, SpearError):
        return result.delivered != "no" and not execution.is_lost
    return True
