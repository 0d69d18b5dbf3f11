"""Cancel an operation before each of its steps, one run per step.

Code that works uncancelled may lose a waiter, a slot or a file descriptor when it is cancelled at one
particular step. An operation has few steps, so a sweep can try all of them. A Trio instrument counts the
steps of tasks from the operation's start. The first run cancels the operation before the first step, the
next run before the second one, and so on until a run ends without having been cancelled.

The sweep counts the steps of *all* tasks: a waiting task takes no steps, and whether its cancellation is
clean depends on the progress of the other tasks.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeVar, final

import attrs
import trio
import trio.testing

T = TypeVar("T")

_NO_MORE: Final = 2**62
"""A step number that no operation reaches."""


@final
@attrs.frozen(kw_only=True)
class Sweep:
    """The result of a cancel sweep.

    Attributes:
        runs: runs of the operation; all but the first and the last were cancelled.
        survived: cancelled runs whose operation still finished, because the cancellation came too late.
    """

    runs: int
    survived: int


@final
@attrs.frozen
class Resources:
    """The resources that a leak would show in: names of the tasks, and open file descriptors."""

    tasks: tuple[str, ...]
    descriptors: int

    @classmethod
    def count(cls) -> Resources:
        """Count the tasks of this Trio run and the open file descriptors of this process."""
        root = trio.lowlevel.current_root_task()
        assert root is not None  # the caller is a task
        names, found = [], [root]
        while found:
            task = found.pop()
            names.append(task.name)
            for nursery in task.child_nurseries:
                found.extend(nursery.child_tasks)
        return cls(tuple(sorted(names)), len(os.listdir("/proc/self/fd")))


@final
class _CancelAtStep(trio.abc.Instrument):
    """An instrument that cancels a scope before the n-th step, counted over all tasks."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count()

    def after_io_wait(self, timeout: float) -> None:
        # Counts as a step, too: the kernel may have moved bytes meanwhile.
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def cancel_sweep(
    open_subject: Callable[[], AbstractAsyncContextManager[T]],
    operation: Callable[[T], Awaitable[object]],
    check: Callable[[T], Awaitable[object]] | None = None,
    *,
    max_runs: int = 10_000,
    hang_seconds: float = 10.0,
) -> Sweep:
    """Cancel ``operation(subject)`` at each of its steps, each time with a new subject.

    After each run the sweep calls ``check(subject)``. The check should verify that no task waits and no
    slot is held, and that the subject is usable, or closed for a reason that it reports. After the
    subject is closed and its work in threads has ended, the sweep verifies that no new task and no new
    file descriptor is left.

    Args:
        open_subject: opens the subject of the operation, for each run anew. One subject for all runs,
            ``lambda: contextlib.nullcontext(subject)``, is quicker, but works only if the subject keeps
            no tasks or descriptors of its own between calls. A channel with handlers at this end does
            keep tasks: the workers that it has needed so far.
        operation: the function to cancel. It may raise nothing but ``trio.Cancelled``.
        check: raises an exception if the subject is in a bad state.
        max_runs: number of runs after which the sweep fails.
        hang_seconds: most seconds for the operation, and for the check, on Trio's clock.

    Raises:
        AssertionError: a task or a descriptor was left over, the operation or the check took too long,
            or there were too many runs. A note has the step at which the operation was cancelled.
        Exception: an exception of the operation or of the check, with the same note.
    """
    survived = 0
    # The first run is not cancelled: it creates objects that are kept, such as threads and caches.
    await _run(open_subject, operation, check, _NO_MORE, hang_seconds)
    for step in range(1, max_runs):
        try:
            was_cancelled, has_ended = await _run(
                open_subject, operation, check, step, hang_seconds
            )
        except BaseException as error:
            error.add_note(f"cancelled at step {step}")
            raise
        if not was_cancelled:
            return Sweep(runs=step + 1, survived=survived)
        survived += has_ended
    raise AssertionError(
        f"the operation was still cancelled in run {max_runs}, the last (max_runs)"
    )


async def _run(
    open_subject: Callable[[], AbstractAsyncContextManager[T]],
    operation: Callable[[T], Awaitable[object]],
    check: Callable[[T], Awaitable[object]] | None,
    step: int,
    hang_seconds: float,
) -> tuple[bool, bool]:
    """Run the operation once; return whether it was cancelled, and whether it finished."""
    await trio.testing.wait_all_tasks_blocked()
    before, busy_before = Resources.count(), busy_threads()
    async with open_subject() as subject:
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            instrument = _CancelAtStep(scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await within(hang_seconds, operation, subject, "the operation")
            finally:
                trio.lowlevel.remove_instrument(instrument)
        if check is not None:
            await within(hang_seconds, check, subject, "the check")
    await within(hang_seconds, threads_end, busy_before, "work in a thread")
    await trio.testing.wait_all_tasks_blocked()
    after = Resources.count()
    # Fewer descriptors are no leak: the garbage collector may have closed older ones meanwhile.
    if after.tasks != before.tasks or after.descriptors > before.descriptors:
        raise AssertionError(
            f"tasks or descriptors are left over; before: {before}, after: {after}"
        )
    return scope.cancel_called, not scope.cancelled_caught


def busy_threads() -> int:
    """Return how many of Trio's worker threads are busy."""
    return trio.to_thread.current_default_thread_limiter().borrowed_tokens


async def threads_end(busy_before: int) -> None:
    """Wait until at most ``busy_before`` of Trio's worker threads are busy.

    Trio cannot interrupt a name resolution. After its caller is cancelled, the resolution goes on in its
    thread, with a file or a socket open, and holds a token of the limiter until it ends.
    """
    limiter = trio.to_thread.current_default_thread_limiter()
    ours: list[object] = []
    try:
        while busy_threads() - len(ours) > busy_before:
            token = object()
            await limiter.acquire_on_behalf_of(token)  # blocks while no token is free
            ours.append(token)
    finally:
        for token in ours:
            limiter.release_on_behalf_of(token)


async def within(
    seconds: float, function: Callable[[T], Awaitable[object]], subject: T, what: str
) -> None:
    """Await ``function(subject)``. Raises AssertionError if it takes longer."""
    with trio.move_on_after(seconds) as scope:
        await function(subject)
    if scope.cancelled_caught:
        raise AssertionError(f"{what} did not end within {seconds:g} s")
