"""A submitted call: its status, its result or failure, where it ran and how long."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from secrets import token_hex
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, cast, final

import trio

from spear._errors import CallCancelled, DeadlineExceeded
from spear._failures import forget_locals, size_of, without_traceback
from spear._util import NoPublicConstructor
from spear.channels import protected_class

from ._failures import as_failure
from ._returns import R

if TYPE_CHECKING:
    from types import TracebackType

    from spear._ids import InstanceId
    from spear.channels import ExecutionResponse

    from ._payloads import Result


ReadResult: TypeAlias = "Callable[[bytes | memoryview, bool], Result]"
"""Decodes a result, and converts it as the caller wants; the second argument is whether it is CBOR."""


class ExecutionStatus(enum.Enum):
    """The status of an execution."""

    PENDING = "pending"  # it waits for a replica
    RUNNING = "running"  # it was given to a replica
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


_S = ExecutionStatus

# Every status of an execution, each with the statuses that may follow it.
STATUS_MOVES: Final[dict[ExecutionStatus, frozenset[ExecutionStatus]]] = {
    _S.PENDING: frozenset({_S.RUNNING, _S.COMPLETED, _S.FAILED, _S.CANCELLED, _S.TIMEOUT}),
    _S.RUNNING: frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED, _S.TIMEOUT}),
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.TIMEOUT: frozenset(),
}


@final
@protected_class
class Execution(Generic[R], metaclass=NoPublicConstructor):
    """A submitted call. Made by :meth:`Function.submit`.

    An execution can be awaited, like a call. If it fails, and the program drops it without having asked
    for the failure, a warning is logged, one for all that were dropped lately.

    Attributes:
        id: a unique text that cannot be guessed.
        deployment: the name of the deployment.
        function: the name of the function.
        status: the present status.
        instance: the instance that runs or ran it; None while there is none.
        execution_seconds: seconds that the handler took, as the instance measured it; None before.
        submitted: the time of its submission, in Trio's time.
        argument_bytes: bytes that its encoded arguments hold until it ends; 0 for a ``SharedBuffer``.
        result_bytes: size of its result, which is kept encoded.
    """

    def __init__(
        self,
        deployment: str,
        function: str,
        read: ReadResult,
        argument_bytes: int,
        on_forgotten: Callable[[str, str], object],
    ) -> None:
        self.id = token_hex(12)
        self.deployment = deployment
        self.function = function
        self.status = ExecutionStatus.PENDING
        self.instance: InstanceId | None = None
        self.execution_seconds: float | None = None
        self._read = read
        self._failure: Exception | None = None
        self._traceback: TracebackType | None = None  # of a failure that is no SpearError
        self._on_forgotten = on_forgotten  # see ForgottenFailures.add
        self._watchers: list[Callable[[Execution[R]], object]] = []  # called at its end
        self._is_news = False  # it has failed, and the program has not asked for the failure
        self.submitted = trio.current_time()
        self._ended: float | None = None
        self.argument_bytes = argument_bytes
        # The result is kept encoded: an empty list takes 1 byte encoded, and 64 bytes decoded.
        self._payload: bytes | memoryview = b""
        self._is_cbor = False
        self.result_bytes = 0
        self._held_bytes = 0  # result_bytes, or the size of its failure
        self._on_turn: Callable[[], object] | None = None  # see _promise()
        self._done = trio.Event()
        self._scope = trio.CancelScope()  # around everything that this process does for it

    def __repr__(self) -> str:
        return f"<Execution {self.id} of {self.function}: {self.status.value}>"

    def __del__(self) -> None:
        if self._is_news:
            code = getattr(self._failure, "code", "no code")
            text = f"execution {self.id} of {self.function} failed: {self._failure} [{code}]"
            self._on_forgotten(self.function, text)

    def __await__(self) -> Generator[object, object, R]:
        """Wait as :meth:`result` does: ``await execution``."""
        return self.result().__await__()

    @property
    def failure(self) -> Exception | None:
        """The exception with which it failed, if it did. Once this was read, no warning is logged."""
        self._is_news = False
        return self._failure

    @property
    def duration_seconds(self) -> float:
        """Seconds from submission to the end, or to now."""
        end = trio.current_time() if self._ended is None else self._ended
        return end - self.submitted

    def abandon(self, reason: CallCancelled) -> None:
        """End it with a reason, although its function may go on elsewhere."""
        if not self._done.is_set():
            self._end(ExecutionStatus.CANCELLED, reason)

    def cancel(self) -> None:
        """Cancel it and, unless the call has a key, its function. Does nothing after the end."""
        self._scope.cancel()

    async def result(self) -> R:
        """Wait for the end, and return the function's result. A checkpoint.

        If cancelled, the execution goes on. Each caller gets the result decoded anew.

        Raises:
            SpearError: the execution has failed; this is its :attr:`failure`.
            CallCancelled: :meth:`cancel` was called, or its spearlet has ended.
        """
        await self._done.wait()
        if failure := self.failure:
            raise without_traceback(failure).with_traceback(
                self._traceback
            )  # without frames of earlier callers
        return cast("R", self._read(self._payload, self._is_cbor))

    def _take(self, response: ExecutionResponse) -> None:
        """Keep the result. Raises CallFailed if it cannot be decoded, or does not fit ``returns``."""
        self.execution_seconds = response.execution_seconds
        payload, is_cbor = response.payload, response.is_cbor
        self.result_bytes = len(payload)
        self._read(payload, is_cbor)
        self._payload, self._is_cbor = payload, is_cbor

    def _move(self, status: ExecutionStatus) -> None:
        """Change the status. Raises ValueError if the new one cannot follow the present one."""
        if status not in STATUS_MOVES[self.status]:
            raise ValueError(f"{status.value} cannot follow {self.status.value}")
        self.status = status

    def _end(self, status: ExecutionStatus, failure: Exception | None = None) -> None:
        self._move(status)
        if failure is not None:
            self._failure = without_traceback(failure)
            forget_locals(self._failure)
            self._traceback = self._failure.__traceback__
        self._held_bytes = self.result_bytes if failure is None else size_of(failure)
        self._is_news = status in (ExecutionStatus.FAILED, ExecutionStatus.TIMEOUT)
        self._ended = trio.current_time()
        self._done.set()
        for watcher in self._watchers:
            watcher(self)

    is_accepted: Final = (
        True  # it gets its turn even if its deployment drains; see AssignmentObserver
    )

    def _promise(self, on_turn: Callable[[], object]) -> None:
        """Promise it a turn; ``on_turn`` is called at :meth:`_release`."""
        self._on_turn = on_turn

    def _release(self) -> None:
        """End the promise: it has had its turn, or needs none any more."""
        if self._on_turn is not None:
            on_turn, self._on_turn = self._on_turn, None
            on_turn()

    def assigned(self, instance: InstanceId) -> None:
        """Note the instance that runs it. Called again if that instance is lost and another runs it."""
        self.instance = instance
        self._release()
        if self.status is ExecutionStatus.PENDING:
            self._move(ExecutionStatus.RUNNING)


Work: TypeAlias = "Callable[[Execution], Awaitable[ExecutionResponse]]"
"""The call that an execution makes. It reports the instance with :meth:`Execution.assigned`."""


async def run_execution(execution: Execution, work: Work) -> None:
    """Run an execution from its first status to its last. Raises only Cancelled and KeyboardInterrupt.

    If cancelled, the work is cancelled, too.
    """
    with execution._scope:
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            execution._take(await work(execution))
        except trio.Cancelled:
            begun = execution.status is ExecutionStatus.RUNNING
            reason = CallCancelled(
                f"execution {execution.id} of {execution.function} was cancelled",
                delivered="maybe" if begun else "no",
            )
            execution.abandon(reason)
            raise
        except DeadlineExceeded as failure:
            execution._end(ExecutionStatus.TIMEOUT, failure)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            execution._end(ExecutionStatus.FAILED, as_failure(error))
        else:
            execution._end(ExecutionStatus.COMPLETED)


@final
@protected_class
class CompletedExecutions(Generic[R]):
    """An asynchronous iterator over executions as they end. Made by :func:`as_completed`."""

    def __init__(self, executions: Iterable[Execution[R]]) -> None:
        self._ended: deque[Execution[R]] = deque()
        self._left = 0
        self._news = trio.Event()
        for each in executions:
            self._left += 1
            if each._done.is_set():
                self._ended.append(each)
            else:
                each._watchers.append(self._add)

    def _add(self, execution: Execution[R]) -> None:
        self._ended.append(execution)
        self._news.set()

    def __aiter__(self) -> CompletedExecutions[R]:
        return self

    async def __anext__(self) -> Execution[R]:
        """Wait for the next execution to end. A checkpoint. If cancelled, no execution is lost."""
        await trio.lowlevel.checkpoint()
        while not self._ended:
            if not self._left:
                raise StopAsyncIteration
            if self._news.is_set():  # several tasks may wait
                self._news = trio.Event()
            await self._news.wait()
        self._left -= 1
        if not self._left:
            self._news.set()
        return self._ended.popleft()


def as_completed(executions: Iterable[Execution[R]]) -> CompletedExecutions[R]:
    """Iterate over executions in the order in which they end.

    ::

        async for execution in spear.as_completed(executions):
            print(await execution)

    Executions that have failed are among them; awaiting them raises their failure. Leaving the loop
    cancels none.

    Args:
        executions: from :meth:`Function.submit`.
    """
    return CompletedExecutions(executions)
