"""Send SIGINT at every moment of an operation, one run per moment.

The counterpart of ``_cancel_sweep``. A cancellation arrives at a checkpoint; SIGINT arrives between any
two bytecode instructions, in whichever task runs then. The sweep tries these moments: each line of Spear
that any task executes while the operation runs, and the beginning of each other function. (Inside other
functions CPython handles signals only between some instructions, for example not between the end of
``__aenter__`` and the block, and a trace function cannot tell which.)

Each run is a new Trio run, because an interrupt goes to the main task and may end it.
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
"""A moment number that no operation reaches."""

_HERE: Final = __file__.rpartition("/")[0] + "/"
_SPEAR: Final = _HERE.removesuffix("testing/")

_LEFT_OUT: Final = (trio.__file__.removesuffix("__init__.py"), _HERE)
"""Code that is never interrupted: Trio protects itself, and these tools must survive the interrupt."""

_WEAK: Final = (weakref.__file__, _weakrefset.__file__)
"""Modules with callbacks of weak references; Python discards exceptions raised there."""

_HELPERS: Final = (os.__file__.removesuffix("os.py"), "<")
"""Path prefixes of the standard library and of generated code, excluded only if their caller is."""


@final
@attrs.frozen(kw_only=True)
class InterruptSweep:
    """The result of an interrupt sweep.

    Attributes:
        runs: interrupted runs of the operation.
        moments: number of moments of the operation when it is not interrupted.
    """

    runs: int
    moments: int


@final
class _InterruptAtMoment:
    """A context manager that sends SIGINT to this process at the n-th moment of its block."""

    def __init__(self, moment: int) -> None:
        self.moments = 0
        self._moment = moment

    def __enter__(self) -> _InterruptAtMoment:
        self._before = sys.gettrace()
        sys.settrace(self._trace)  # type: ignore[arg-type]  # a method that returns itself
        frame: FrameType | None = sys._getframe()
        while frame is not None:  # also trace the frames that were entered before
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
    # Each step of a coroutine begins with a "call" event. Only at the coroutine's beginning are the two
    # lowest bits of the argument of RESUME 0; the bits above are flags.
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

    After each run the sweep calls ``check(subject)``. The check should verify that no task waits, no slot
    is held, and the subject is usable. After the subject is closed, the sweep verifies that no new task
    and no new file descriptor is left. An interrupt in unprotected code of the subject may end the
    subject; the check is then skipped.

    Call this outside of Trio, in the main thread.

    Args:
        open_subject: opens the subject of the operation, for each run anew.
        operation: the function to interrupt. It may raise only KeyboardInterrupt, alone or in a group.
        check: raises an exception if the subject is in a bad state.
        first: the first moment at which an interrupt is sent.
        stride: moments from one interrupted moment to the next; 1 tries all of them.
        hang_seconds: most seconds for the operation, and for the check, on Trio's clock.

    Raises:
        AssertionError: a task or a descriptor was left over, the operation or the check took too long, or
            the interrupt was swallowed. A note has the moment of the interrupt and the number of moments.
        Exception: an exception of the operation or of the check, with the same note.
    """
    # The first run creates objects that are kept, such as threads and caches; the second counts moments.
    for _ in range(2):
        moments, _ = trio.run(_run, open_subject, operation, check, _NO_MORE, hang_seconds)
    runs = 0
    for moment in range(first, moments + 1, stride):
        try:
            reached, was_seen = trio.run(_run, open_subject, operation, check, moment, hang_seconds)
            if reached < moment:  # this run was shorter than the counting run
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
    """Run once; return the number of moments, and whether KeyboardInterrupt was raised."""
    before, busy_before = Resources.count(), busy_threads()
    interruption, was_seen = _InterruptAtMoment(moment), False
    try:
        async with open_subject() as subject:
            await trio.testing.wait_all_tasks_blocked()
            try:
                with interruption:
                    await within(hang_seconds, operation, subject, "the operation")
                await trio.lowlevel.checkpoint()  # raises an interrupt that came late
            except* KeyboardInterrupt:
                was_seen = True
            if check is not None:
                await within(hang_seconds, check, subject, "the check")
    except* KeyboardInterrupt:
        was_seen = True
    await within(hang_seconds, threads_end, busy_before, "work in a thread")
    await trio.testing.wait_all_tasks_blocked()
    after = Resources.count()
    if after.tasks != before.tasks or after.descriptors > before.descriptors:
        raise AssertionError(
            f"tasks or descriptors are left over; before: {before}, after: {after}"
        )
    return interruption.moments, was_seen
