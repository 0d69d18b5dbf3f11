"""Failures that are kept, to be raised later and perhaps several times."""

from __future__ import annotations

from copy import copy
from sys import getsizeof
from traceback import clear_frames

from spear._errors import SpearError


def first_line(failure: SpearError) -> str:
    """Return what a failure says, for a log or a table: one line, without a traceback or stderr."""
    return next(iter(failure.summary.splitlines()), "")


def without_traceback(failure: Exception) -> Exception:
    """The failure for one of those who get it: an exception must not be raised in several tasks.

    One of ours has no traceback, whose frames would hold the arguments for as long as it is kept.
    """
    if isinstance(failure, SpearError):
        return copy(failure)
    return failure  # a mistake in a callback, or of ours, which is looked for with its traceback


def forget_locals(failure: Exception) -> None:
    """Free the local variables in the traceback of a failure that will be kept, of which none is counted.

    The lines stay, to find the mistake by.
    """
    chain: list[BaseException | None] = [failure]
    seen: set[int] = set()
    while chain:
        each = chain.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        clear_frames(each.__traceback__)
        chain += (each.__cause__, each.__context__)
        if isinstance(each, BaseExceptionGroup):
            chain += each.exceptions


def size_of(failure: Exception) -> int:
    """Bytes that a failure holds: texts, most of which came from its function, and bytes."""
    held = {id(each): each for each in (*failure.args, *vars(failure).values())}
    return sum(getsizeof(each) for each in held.values() if isinstance(each, str | bytes))
