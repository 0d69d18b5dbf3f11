"""Press Ctrl-C at every moment of an operation, one run for each.

The counterpart of ``_cancel_sweep``. A cancellation arrives at a checkpoint; SIGINT arrives between any
two steps of the interpreter, in whatever task runs then. The moments that are tried here are the lines of
Spear that are executed while the operation runs, in all tasks, and the beginnings of all other functions.
(Inside those, CPython handles signals between some steps but not between others, for example not between
the end of ``__aenter__`` and the block; a trace function cannot tell them apart.)

Each run has a Trio run of its own, because an interrupt goes to the main task and may end it.
"""

from __future__ import annotations

import _weakrefset
import os
import signal
import sys
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, final

import attrs
import trio
import trio.testing

from ._cancel_sweep import Resources, busy_threads, threads_end, within

if TYPE_CHECKING:
    from types import FrameType

    TraceFunction: TypeAlias = Callable[[FrameType, str, object], object]

T = TypeVar("T")

_NO_MORE: Final = 2**62
"""A moment that no operation reaches."""

_HERE: Final = __file__.rpartition("/")[0] + "/"
_SPEAR: Final = _HERE.removesuffix("testing/")

_LEFT_OUT: Final = (trio.__file__.removesuffix("__init__.py"), _HERE)
"""Files that get no interrupt: Trio protects itself, and these tools must outlive the interrupt."""

_WEAK: Final = (weakref.__file__, _weakrefset.__file__)
"""Callbacks of weak references, from which Python lets no exception out."""

_HELPERS: Final = (os.__file__.removesuffix("os.py"), "<")
"""The standard library, and generated code: left out if the code that calls it is left out."""


@final
@attrs.frozen(kw_only=True)
class InterruptSweep:
    """The result of an interrupt sweep.

    Attributes:
        runs: how often the operation was interrupted.
        moments: how many moments the operation has when it is not interrupted.
    """

    runs: int
    moments: int


@final
class _InterruptAtMoment:
    """Sends SIGINT to this process at the n-th moment."""

    def __init__(self, moment: int) -> None:
        self.moments = 0
        self._moment = moment

    def __enter__(self) -> _InterruptAtMoment:
        self._before = sys.gettrace()
        sys.settrace(self._trace)  # type: ignore[arg-type]  # a method that returns itself
        frame: FrameType | None = sys._getframe()
        while frame is not None:  # also frames that were entered before
            if not _is_left_out(frame):
                frame.f_trace = self._trace
            frame = frame.f_back
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: object) -> TraceFunction | None:
        if _is_left_out(frame):
            return None
        if _is_moment(frame, event):
            self.moments += 1
            if self.moments == self._moment:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self._trace


def _is_moment(frame: FrameType, event: str) -> bool:
    if frame.f_code.co_filename.startswith(_SPEAR):
        return event == "line"
    # A coroutine's every step begins with such an event, but only the first one is its beginning: there
    # the argument of RESUME is 0, with flags above its two lowest bits.
    return event == "call" and frame.f_code.co_code[frame.f_lasti + 1] & 3 == 0


def _is_left_out(frame: FrameType) -> bool:
    if frame.f_code.co_filename in _WEAK:
        return True
    caller: FrameType | None = frame
    while caller is not None and caller.f_code.co_filename.startswith(_HELPERS):
        caller = caller.f_back
    return caller is None or caller.f_code.co_filename.startswith(_LEFT_OUT)


def interrupt_sweep(
    open_subject: Callable[[], AbstractAsyncContextManager[T]],
    operation: Callable[[T], Awaitable[object]],
    check: Callable[[T], Awaitable[object]] | None = None,
    *,
    first: int = 1,
    stride: int = 1,
    hang_seconds: float = 10.0,
) -> InterruptSweep:
    """Send SIGINT to this process at every moment of ``operation(subject)``, each time in a new Trio run.

    After each run ``check(subject)`` is called, which should find no waiter, nothing held, and
    the subject still usable. When the subject is closed, no task and no file descriptor may be left that
    was not there before. An interrupt in unprotected code of the subject may end the subject; then there
    is no check.

    Call this outside of Trio, in the main thread.

    Args:
        open_subject: what the operation is performed on, opened and closed for every run.
        operation: what is interrupted. It may raise nothing but KeyboardInterrupt, alone or in a group.
        check: raises if something is wrong.
        first: the first moment at which an interrupt arrives.
        stride: from each such moment to the next; 1 tries them all.
        hang_seconds: neither operation nor check may take longer, on Trio's clock.

    Raises:
        AssertionError: something was left over, took too long, or swallowed the interrupt. A note says at
            which moment of how many the interrupt arrived.
        Exception: what operation and check raise, with the same note.
    """
    # The first run makes what is made once and kept, like threads and caches; the second one counts.
    for _ in range(2):
        moments, _ = trio.run(_run, open_subject, operation, check, _NO_MORE, hang_seconds)
    runs = 0
    for moment in range(first, moments + 1, stride):
        try:
            reached, was_seen = trio.run(_run, open_subject, operation, check, moment, hang_seconds)
            if reached < moment:  # this run was shorter than the one that was counted
                break
            if not was_seen:
                raise AssertionError("SIGINT was sent, but no KeyboardInterrupt was raised")
        except BaseException as error:
            error.add_note(f"interrupted at moment {moment} of {moments}")
            raise
        runs += 1
    return InterruptSweep(runs=runs, moments=moments)


async def _run(
    open_subject: Callable[[], AbstractAsyncContextManager[T]],
    operation: Callable[[T], Awaitable[object]],
    check: Callable[[T], Awaitable[object]] | None,
    moment: int,
    hang_seconds: float,
) -> tuple[int, bool]:
    """Run once; returns how many moments there were, and whether KeyboardInterrupt was raised."""
    before, busy_before = Resources.count(), busy_threads()
    interruption, was_seen = _InterruptAtMoment(moment), False
    try:
        async with open_subject() as subject:
            await trio.testing.wait_all_tasks_blocked()
            try:
                with interruption:
                    await within(hang_seconds, operation, subject, "the operation")
                await trio.lowlevel.checkpoint()  # where an interrupt that came late is raised
            except* KeyboardInterrupt:
                was_seen = True
            if check is not None:
                await within(hang_seconds, check, subject, "the check")
    except* KeyboardInterrupt:
        was_seen = True
    await within(hang_seconds, threads_end, busy_before, "a thread that was left behind")
    await trio.testing.wait_all_tasks_blocked()
    after = Resources.count()
    if after.tasks != before.tasks or after.descriptors > before.descriptors:
        raise AssertionError(f"left over; before: {before}, after: {after}")
    return interruption.moments, was_seen
