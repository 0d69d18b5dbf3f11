"""What a caller learns of a failure that leaves a function.

A failure of ours says whether a call was executed. One that leaves a function was raised by it, or came
from a call that it made: whatever it says there, this function did run. So it becomes FunctionRaised,
unless it is :func:`about_call`, found by the agent with the call itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Final, TypeVar
from weakref import WeakSet

import outcome
import trio

from spear._errors import CallFailed, DeadlineExceeded, FunctionRaised, Overloaded

F = TypeVar("F", bound=CallFailed)

_about_calls: Final[WeakSet[CallFailed]] = WeakSet()


def about_call(failure: F) -> F:
    """Mark a failure as one of the call that is being handled; returns it."""
    _about_calls.add(failure)
    return failure


def as_seen_by_caller(error: BaseException, *, debug: bool) -> CallFailed:
    """What to report when ``error`` leaves a function.

    Args:
        error: an exception, SystemExit, or a group of such.
        debug: show the traceback.
    """
    leaves = list(_leaves(error))
    alone = leaves[0] if len(leaves) == 1 else None
    if isinstance(alone, CallFailed) and alone in _about_calls:
        if isinstance(alone, DeadlineExceeded):  # of a call that had all the time that was left
            return DeadlineExceeded(str(alone), delivered="yes")
        return alone
    if isinstance(alone, Overloaded):
        return Overloaded(
            str(alone), retry_after_seconds=alone.retry_after_seconds, delivered="yes"
        )
    trace = _traceback(error) if debug else None
    if isinstance(alone, FunctionRaised):  # of a function that this one has called
        return FunctionRaised(
            alone.remote_message,
            type_name=alone.type_name,
            remote_traceback=alone.remote_traceback or trace,
        )
    if alone is not None:
        return FunctionRaised(text_of(alone), type_name=_name(alone), remote_traceback=trace)
    text = "; ".join(f"{_name(each)}: {text_of(each)}".removesuffix(": ") for each in leaves)
    return FunctionRaised(text, type_name=_name(error), remote_traceback=trace)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions of which a group tells nothing but the number; or the one that is no group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def text_of(error: BaseException) -> str:
    """What an exception says, even if its own ``__str__`` fails."""
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"  # as tracebacks have it


def _name(error: BaseException) -> str:
    return type(error).__qualname__


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


def _traceback(error: BaseException) -> str:
    """The traceback as text, from the function on: how we came to call it tells its author nothing."""
    from traceback import format_exception

    begin: TracebackType | None = error.__traceback__
    while begin is not None and is_machinery(begin.tb_frame.f_code.co_filename):
        begin = begin.tb_next
    # All of it if nothing else is there: then the mistake is ours.
    return "".join(format_exception(type(error), error, begin or error.__traceback__))
