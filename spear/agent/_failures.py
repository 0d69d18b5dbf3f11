"""What a caller learns of a failure that leaves a function.

A failure of ours says whether a call was executed. One that leaves a function was raised by it, or came
from a call that it made: whatever it says there, this function did run. So it becomes FunctionRaised,
unless it is :func:`about_call`, found by the agent with the call itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from copy import copy
from math import isfinite
from types import TracebackType
from typing import Final, TypeVar
from weakref import WeakSet

import outcome
import trio

from spear._errors import CallFailed, DeadlineExceeded, FunctionRaised, Overloaded, SpearError
from spear._util import leaves_of, name_of, summary_of, text_of

F = TypeVar("F", bound=CallFailed)

_about_calls: Final[WeakSet[CallFailed]] = WeakSet()


def about_call(failure: F) -> F:
    """Mark a failure as one of the call that is being handled; returns it."""
    _about_calls.add(failure)
    return failure


def _is_about_call(error: BaseException) -> bool:
    try:
        return issubclass(type(error), CallFailed) and error in _about_calls
    except BaseException:  # of its own __hash__
        return False


@trio.lowlevel.enable_ki_protection  # so what is raised in here is the exception's, never Ctrl-C
def as_seen_by_caller(error: BaseException, *, debug: bool) -> CallFailed:
    """Return what to report when ``error`` leaves a function.

    Never raises, whatever the exception does when it is looked at.

    Args:
        error: an exception, SystemExit, or a group of such.
        debug: show the traceback.
    """
    try:
        return _as_seen(error, debug=debug)
    except BaseException:
        return FunctionRaised(text_of(error), type_name=name_of(error))


def _as_seen(error: BaseException, *, debug: bool) -> CallFailed:
    leaves = list(leaves_of(error))
    alone = leaves[0] if len(leaves) == 1 else None
    if isinstance(alone, CallFailed) and _is_about_call(alone):
        if isinstance(alone, DeadlineExceeded):  # of a call that had all the time that was left
            late = copy(alone)
            late.delivered = "yes"
            return late
        return alone
    if isinstance(alone, Overloaded):
        seconds = alone.retry_after_seconds  # whatever a function has put there
        seconds = seconds if isinstance(seconds, int | float) and isfinite(seconds) else None
        code = text_of(alone.code)
        return Overloaded(text_of(alone), retry_after_seconds=seconds, code=code, delivered="yes")
    trace = traceback_of(error) if debug else None
    if isinstance(alone, FunctionRaised):  # of a function that this one has called
        return FunctionRaised(
            text_of(alone.remote_message),
            type_name=text_of(alone.type_name),
            remote_code=text_of(alone.remote_code),
            remote_traceback=text_of(alone.remote_traceback) if alone.remote_traceback else trace,
        )
    if alone is not None:
        return FunctionRaised(
            text_of(alone),
            type_name=name_of(alone),
            remote_code=text_of(alone.code) if isinstance(alone, SpearError) else "",
            remote_traceback=trace,
        )
    text = "; ".join(map(summary_of, leaves))
    return FunctionRaised(text, type_name=name_of(error), remote_traceback=trace)


MOST_CHARACTERS: Final = 500
"""Of what is logged in one line."""


@trio.lowlevel.enable_ki_protection  # see text_of
def in_one_line(errors: Iterable[BaseException]) -> str:
    """Return exceptions as one line, without those about the call itself; empty if none is left."""
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
    """Whether a frame of this file runs a function, and is not part of one."""
    return filename.startswith(_MACHINERY)


def traceback_of(error: BaseException) -> str:
    """Return the traceback as text, from the function on: our own frames tell its author nothing."""
    from traceback import format_exception

    begin: TracebackType | None = error.__traceback__
    while begin is not None and is_machinery(begin.tb_frame.f_code.co_filename):
        begin = begin.tb_next
    # All of it if nothing else is there: then the mistake is ours.
    return "".join(format_exception(type(error), error, begin or error.__traceback__))
