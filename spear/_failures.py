"""Exceptions that are kept, to be raised later and perhaps several times."""

from __future__ import annotations

from copy import copy
from sys import getsizeof
from traceback import clear_frames

from spear._errors import SpearError


def first_line(failure: SpearError) -> str:
    """Return the first line of a failure's summary, for a log or a table: no traceback, no stderr."""
    return next(iter(failure.summary.splitlines()), "")


def without_traceback(failure: Exception) -> Exception:
    """Return the failure as one caller may raise it: several tasks must not raise the same exception.

    A SpearError is copied without its traceback, whose frames would keep a call's arguments alive. Any
    other exception is returned itself.
    """
    if isinstance(failure, SpearError):
        return copy(failure)
    return failure  # a bug in a callback or in Spear: its traceback is needed to find it


def annotate(failure: SpearError, note: str) -> None:
    """Add a note to a failure, which a traceback shows below the message.

    Unlike ``add_note``, leaves copies of the failure as they are: they have the same list of notes.
    """
    failure.__notes__ = [*getattr(failure, "__notes__", ()), note]


def forget_locals(failure: Exception) -> None:
    """Clear the local variables in the tracebacks of a failure that is about to be kept.

    :func:`size_of` does not count such variables. The tracebacks keep their lines, for debugging.
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
    """Return how many bytes a failure's texts and byte strings hold; most come from the function."""
    held = {id(each): each for each in (*failure.args, *vars(failure).values())}
    return sum(getsizeof(each) for each in held.values() if isinstance(each, str | bytes))
