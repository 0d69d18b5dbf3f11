"""Threads that run plain functions: :func:`function_threads`.

``trio.to_thread.run_sync`` costs about 100 µs for each of 64 calls at a time: it names the thread, wakes
Trio for each result, and a thread that has ended a call waits for Trio before the next one. Threads of a
:class:`FunctionThreads` take the next job from a queue, and wake Trio once for all results.

Invariants:

* A job is pending, running or done. It is cancelled only while pending; its task waits for a running one.
* A thread is idle only while no job is pending.
* Neither threads nor tracebacks refer to a job that is done.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, TypeVarTuple, cast, final

import trio
from outcome import Error, Outcome, Value
from trio.lowlevel import (
    Abort,
    checkpoint_if_cancelled,
    current_task,
    reschedule,
    start_thread_soon,
    wait_task_rescheduled,
)

from spear.channels import protected_class

from ._trio_threads import thread_link

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from ._trio_threads import CancelRegister, Message, TaskRegister, ThreadLink

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREAD_NAME: Final = "spear function"

IDLE_SECONDS: Final = 10.0
"""Seconds after which an idle thread ends, as Trio's threads do."""


class Threads(Protocol):
    """A limited number of threads that run functions."""

    @property
    def busy(self) -> int:
        """The number of functions that run."""

    async def run(self, function: Callable[[*Ts], T], *arguments: *Ts) -> Outcome[T]:
        """Run a function in a thread, and return its value or exception.

        If cancelled before the function begins, the function does not run. If cancelled later, the
        function still runs to its end, and its outcome is returned.

        Raises:
            RuntimeError: no thread could be started.
        """

    def close(self) -> None:
        """Let the idle threads end."""


def function_threads(most: int) -> Threads:
    """Return threads for the current Trio run, at most ``most``; they start when they are needed."""
    link = thread_link()
    return TrioThreads(most) if link is None else FunctionThreads(most, link)


def _captured(context: Context, function: Callable[[*Ts], T], arguments: tuple[*Ts]) -> Outcome[T]:
    # Not outcome.capture(): it accesses attributes of the exception, and an attribute of the program's
    # exception may raise. Not a method: a traceback with a frame that leads to the job would be a cycle.
    try:
        return Value(context.run(function, *arguments))
    except BaseException as error:
        return Error(error)


@final
class _ThreadJob:
    """A function that a thread runs once.

    Attributes:
        begin: runs the function, and returns its outcome; None once it has begun.
        outcome: the outcome, once the function has ended.
        task, cancel: see :class:`ThreadLink`.
    """

    __slots__ = ("begin", "cancel", "outcome", "task")

    def __init__(self, begin: Callable[[], Outcome[object]]) -> None:
        self.begin: Callable[[], Outcome[object]] | None = begin
        self.outcome: Outcome[object] | None = None
        self.task: TaskRegister = [current_task()]
        self.cancel: CancelRegister = [None]


@final
class _Worker:
    """The state of one thread: its next job, and the lock on which it waits.

    Attributes:
        go: a lock that is released when the thread has got a job, or is to end.
        job: the next job; None if the thread is to end.
    """

    __slots__ = ("go", "job")

    def __init__(self, job: _ThreadJob) -> None:
        self.go = threading.Lock()  # not locked: it has a job
        self.job: _ThreadJob | None = job


@final
@protected_class
class FunctionThreads:
    """Threads that take the next job from a queue.

    Args:
        most: most threads.
        link: the link of threads to Trio's tasks.
    """

    def __init__(self, most: int, link: ThreadLink) -> None:
        self._most = most
        self._link = link
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        # Guarded by the lock, as is the job of an idle thread:
        self._threads = 0
        self._idle: list[_Worker] = []
        self._pending: OrderedDict[_ThreadJob, None] = OrderedDict()
        self._done: list[_ThreadJob] = []
        self._is_waking = False  # whether Trio will look for jobs that are done

    @property
    def busy(self) -> int:
        """The number of functions that run."""
        return self._threads - len(self._idle)

    async def run(self, function: Callable[[*Ts], T], *arguments: *Ts) -> Outcome[T]:
        """Run a function in a thread; see :class:`Threads`."""
        await checkpoint_if_cancelled()
        job = _ThreadJob(partial(_captured, copy_context(), function, arguments))
        self._begin(job)

        def abort(raise_cancel: Callable[[], NoReturn]) -> Abort:
            with self._lock:
                if job in self._pending:
                    del self._pending[job]
                    return Abort.SUCCEEDED
            job.cancel[0] = raise_cancel
            return Abort.FAILED

        while True:
            message: Message | None = await wait_task_rescheduled(abort)
            if message is None:
                outcome, job.outcome = job.outcome, None  # its thread may still refer to the job
                return cast("Outcome[T]", outcome)
            await self._link.answer(message)
            del message

    def _begin(self, job: _ThreadJob) -> None:
        """Give a job to an idle thread or a new one, or queue it. Raises RuntimeError."""
        with self._lock:
            if self._idle:
                worker = self._idle.pop()
                worker.job = job
                worker.go.release()
                return
            if self._threads == self._most:
                self._pending[job] = None
                return
            self._threads += 1
        try:
            start_thread_soon(partial(self._work, _Worker(job)), _nothing, THREAD_NAME)
        except BaseException:
            with self._lock:
                self._threads -= 1
            raise

    def close(self) -> None:
        """Let the idle threads end."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._threads -= len(idle)
        for worker in idle:
            worker.job = None
            worker.go.release()

    def _deliver(self) -> None:
        """Wake the tasks of all jobs that are done."""
        with self._lock:
            done, self._done = self._done, []
            self._is_waking = False
        for job in done:
            task = job.task[0]
            assert task is not None  # it waits for the thread
            job.task[0] = job.cancel[0] = None
            reschedule(task)

    # -- called in the threads ------------------------------------------------------------------------

    def _work(self, worker: _Worker) -> None:
        """Run jobs until none has come for a while."""
        self._link.attach(self._token)
        try:
            job = self._wait(worker)
            while job is not None:
                job = self._run_job(worker, job) or self._wait(worker)
        finally:
            self._link.detach()

    def _run_job(self, worker: _Worker, job: _ThreadJob) -> _ThreadJob | None:
        """Run a job, and return the next one; if there is none, make the worker idle."""
        self._link.link(job.task, job.cancel)
        begin, job.begin = job.begin, None
        assert begin is not None
        job.outcome = begin()
        del begin  # the thread may be suspended below
        following: _ThreadJob | None = None
        with self._lock:
            self._done.append(job)
            wakes, self._is_waking = not self._is_waking, True
            if self._pending:
                following, _ = self._pending.popitem(last=False)
            else:
                self._idle.append(worker)
        if wakes:
            # RunFinishedError: Trio has crashed. OSError: the program has closed Trio's descriptors.
            with suppress(trio.RunFinishedError, OSError):
                self._token.run_sync_soon(self._deliver)
        return following

    def _wait(self, worker: _Worker) -> _ThreadJob | None:
        """Wait for a job; return None if the thread is to end, or if no job has come for a while."""
        while not worker.go.acquire(timeout=IDLE_SECONDS):
            with self._lock:
                if worker in self._idle:  # otherwise it is about to get a job
                    self._idle.remove(worker)
                    self._threads -= 1
                    return None
        job, worker.job = worker.job, None
        return job


def _nothing(_: object) -> None:
    pass


@final
@protected_class
class TrioThreads:
    """Trio's own threads, for releases of Trio in which other threads cannot be linked to tasks.

    Args:
        most: most threads.
    """

    def __init__(self, most: int) -> None:
        self._limiter = trio.CapacityLimiter(most)

    @property
    def busy(self) -> int:
        """The number of functions that run."""
        return self._limiter.borrowed_tokens

    async def run(self, function: Callable[[*Ts], T], *arguments: *Ts) -> Outcome[T]:
        """Run a function in a thread; see :class:`Threads`."""
        return await trio.to_thread.run_sync(
            partial(_captured, copy_context(), function, arguments), limiter=self._limiter
        )

    def close(self) -> None:
        """Leave the threads to Trio."""
