"""Cancel an operation at every moment of its life, one run for each.

Most code that is correct when it is let alone loses a waiter, a slot or a descriptor when it is
cancelled at one particular step. There are not many steps, so all of them can be tried. Trio's
instruments tell when any task takes a step; the sweep counts those steps from the operation's start,
and cancels it in front of the first one, in another run in front of the second one, and so on until a
run ends without having been cancelled.

Steps of *all* tasks are counted, not only the operation's own: a task that waits takes none, and
whether its cancellation is clean depends on how far the others have come meanwhile.
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
"""A step that no operation reaches."""


@final
@attrs.frozen(kw_only=True)
class Sweep:
    """What a sweep has done.

    Attributes:
        runs: how often the operation was started; all but the first and the last were cancelled.
        survived: how many runs finished although they were cancelled, because it came too late.
    """

    runs: int
    survived: int


@final
@attrs.frozen
class Resources:
    """What a leak would show in."""

    tasks: tuple[str, ...]
    descriptors: int

    @classmethod
    def count(cls) -> Resources:
        """Those of this Trio run and of this process, now."""
        root = trio.lowlevel.current_root_task()
        assert root is not None  # a task asks
        names, found = [], [root]
        while found:
            task = found.pop()
            names.append(task.name)
            for nursery in task.child_nurseries:
                found.extend(nursery.child_tasks)
        return cls(tuple(sorted(names)), len(os.listdir("/proc/self/fd")))


@final
class _CancelAtStep(trio.abc.Instrument):
    """Cancels a scope in front of the n-th step that any task takes."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count()

    def after_io_wait(self, timeout: float) -> None:
        # What the kernel has done meanwhile is a step, too: bytes have come or gone.
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
    """Cancel ``operation(subject)`` at every step there is, each time with a subject of its own.

    After each run ``check(subject)`` is called, which should find nobody waiting and nothing held,
    and the subject still usable, or closed for a reason that it can tell. When the subject is closed,
    and what it left to threads has come to its end there, no task and no file descriptor may be left
    that was not there before.

    Args:
        open_subject: what the operation is performed on, opened and closed for every run. One subject
            for all runs, ``lambda: contextlib.nullcontext(subject)``, is quicker, but only for one that
            keeps no tasks or descriptors of its own between calls. A channel with handlers at this end
            does: it keeps the workers that it has needed so far.
        operation: what is cancelled. It may raise nothing but ``trio.Cancelled``.
        check: raises if something is wrong.
        max_runs: give up after so many.
        hang_seconds: neither operation nor check may take longer, on Trio's clock.

    Raises:
        AssertionError: something was left over, something took too long, or there were too many
            runs. A note says at which step the operation was cancelled.
        Exception: what operation and check raise, with the same note.
    """
    survived = 0
    # The first run is not cancelled: it makes what is made once and kept, like threads and caches.
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
    raise AssertionError(f"not at its end after {max_runs} steps")


async def _run(
    open_subject: Callable[[], AbstractAsyncContextManager[T]],
    operation: Callable[[T], Awaitable[object]],
    check: Callable[[T], Awaitable[object]] | None,
    step: int,
    hang_seconds: float,
) -> tuple[bool, bool]:
    """One run; returns whether it was cancelled, and whether the operation came to its end."""
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
    await within(hang_seconds, threads_end, busy_before, "a thread that was left behind")
    await trio.testing.wait_all_tasks_blocked()
    after = Resources.count()
    # Fewer descriptors are no leak: something older was collected meanwhile.
    if after.tasks != before.tasks or after.descriptors > before.descriptors:
        raise AssertionError(f"before: {before}, after: {after}")
    return scope.cancel_called, not scope.cancelled_caught


def busy_threads() -> int:
    """How many of Trio's worker threads are at work."""
    return trio.to_thread.current_default_thread_limiter().borrowed_tokens


async def threads_end(busy_before: int) -> None:
    """Wait until no more of Trio's worker threads are at work than were before.

    Trio cannot interrupt a name resolution. When its caller is cancelled it goes on in its thread, with
    a file or a socket open, and holds its token of the limiter until it is done.
    """
    limiter = trio.to_thread.current_default_thread_limiter()
    ours: list[object] = []
    try:
        while busy_threads() - len(ours) > busy_before:
            token = object()
            await limiter.acquire_on_behalf_of(token)  # when none is left, until one comes back
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
        raise AssertionError(f"{what} hangs")
