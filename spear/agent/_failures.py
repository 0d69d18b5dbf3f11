"""The conversion of an exception that leaves a function into the error that the caller receives.

A CallFailed says whether its call was executed. A CallFailed that leaves a function may come from another
call that the function made, and says nothing about the execution of this function. The CallFailed is
therefore converted to FunctionRaised, unless it is Overloaded, or the agent has marked it with
:func:`about_call` as an error of the call that the function handles.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from copy import copy
from math import isfinite
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar
from weakref import WeakSet

import outcome
import trio

from spear._errors import CallFailed, DeadlineExceeded, FunctionRaised, Overloaded, SpearError
from spear._util import bases_of, leaves_of, name_of, summary_of, text_of

if TYPE_CHECKING:
    from spear.channels import InboundCall

F = TypeVar("F", bound=CallFailed)

_about_calls: Final[WeakSet[CallFailed]] = WeakSet()


def about_call(failure: F) -> F:
    """Mark an error as an error of the call that is being handled, and return it."""
    _about_calls.add(failure)
    return failure


def note_not_begun(call: InboundCall) -> None:
    """Note that a cancelled call ends before its function has begun, so that its caller may repeat it."""
    if call.cancelled is not None:  # otherwise the whole connection is being cancelled
        call.cancelled.delivered = "no"


def _is_about_call(error: BaseException) -> bool:
    try:
        return issubclass(type(error), CallFailed) and error in _about_calls
    except BaseException:  # raised by the error's own __hash__
        return False


@trio.lowlevel.enable_ki_protection  # so that errors in here come from the exception, not from Ctrl-C
def as_seen_by_caller(error: BaseException, *, debug: bool) -> CallFailed:
    """Return the error for the caller when ``error`` leaves a function.

    Never raises, even if the attributes or methods of the exception do.

    Args:
        error: an exception, SystemExit, or a group of these.
        debug: whether to include the traceback.
    """
    try:
        return _as_seen(error, debug=debug)
    except BaseException:
        return FunctionRaised(text_of(error), type_name=name_of(error))


def as_raisable(stop: StopIteration) -> FunctionRaised:
    """Return the failure for a StopIteration of a function, which Python replaces in a coroutine."""
    return FunctionRaised(text_of(stop), type_name=name_of(stop))


def _as_seen(error: BaseException, *, debug: bool) -> CallFailed:
    leaves = list(leaves_of(error))
    alone = leaves[0] if len(leaves) == 1 else None
    if isinstance(alone, CallFailed) and _is_about_call(alone):
        if isinstance(alone, DeadlineExceeded):  # a call that had all the remaining time
            late = copy(alone)
            late.delivered = "yes"
            return late
        return alone
    if isinstance(alone, Overloaded):
        seconds = alone.retry_after_seconds  # set by the function, so of any type
        seconds = seconds if isinstance(seconds, int | float) and isfinite(seconds) else None
        code = text_of(alone.code)
        return Overloaded(text_of(alone), retry_after_seconds=seconds, code=code, delivered="yes")
    trace = traceback_of(error) if debug else None
    if isinstance(alone, FunctionRaised):  # raised by a function that this one has called
        return FunctionRaised(
            text_of(alone.remote_message),
            type_name=text_of(alone.type_name),
            base_names=tuple(map(text_of, alone.base_names)),
            remote_code=text_of(alone.remote_code),
            remote_traceback=text_of(alone.remote_traceback) if alone.remote_traceback else trace,
        )
    if alone is not None:
        return FunctionRaised(
            text_of(alone),
            type_name=name_of(alone),
            base_names=bases_of(alone),
            remote_code=text_of(alone.code) if isinstance(alone, SpearError) else "",
            remote_traceback=trace,
        )
    text = "; ".join(map(summary_of, leaves))
    return FunctionRaised(text, type_name=name_of(error), remote_traceback=trace)


MOST_CHARACTERS: Final = 500
"""Most characters of exceptions in one log line."""


@trio.lowlevel.enable_ki_protection  # see text_of
def in_one_line(errors: Iterable[BaseException]) -> str:
    """Return exceptions as one line, without errors of the call itself; empty if none is left."""
    texts = (summary_of(each) for each in errors if not _is_about_call(each))
    text = " ".join("; ".join(dict.fromkeys(texts)).split())
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


# -- tracebacks ---------------------------------------------------------------------------------------

_MACHINERY: Final = (
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
    os.path.dirname(trio.__file__) + os.sep,
    os.path.dirname(outcome.__file__) + os.sep,
    os.path.join(os.path.dirname(os.__file__), "asyncio", ""),
    os.path.join(os.path.dirname(os.__file__), "contextlib.py"),
    "<frozen importlib",
)


def is_machinery(filename: str) -> bool:
    """Return whether a file belongs to Spear, Trio, outcome, asyncio, contextlib or importlib."""
    return filename.startswith(_MACHINERY)


def traceback_of(error: BaseException) -> str:
    """Return the traceback as text without the outer frames of Spear, Trio and the standard library."""
    from traceback import format_exception

    begin: TracebackType | None = error.__traceback__
    while begin is not None and is_machinery(begin.tb_frame.f_code.co_filename):
        begin = begin.tb_next
    # The whole traceback if it has no other frames: the error is then in Spear.
    return "".join(format_exception(type(error), error, begin or error.__traceback__))
