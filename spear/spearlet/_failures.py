"""Failures that are kept, to be raised later and perhaps several times."""

from __future__ import annotations

from copy import copy
from sys import getsizeof

from spear._errors import FunctionRaised, SpearError


def without_traceback(failure: Exception) -> Exception:
    """The failure for one of those who get it: an exception must not be raised in several tasks.

    One of ours has no traceback, whose frames would hold the arguments for as long as it is kept.
    """
    if isinstance(failure, FunctionRaised):
        return FunctionRaised(
            failure.remote_message,
            type_name=failure.type_name,
            remote_traceback=failure.remote_traceback,
            delivered=failure.delivered,
        )
    if isinstance(failure, SpearError):
        return copy(failure)
    return failure  # a mistake in a callback, or of ours, which is looked for with its traceback


def size_of(failure: Exception) -> int:
    """Bytes that a failure holds: text, most of which came from its function."""
    texts = (*failure.args, *vars(failure).values())
    return sum(getsizeof(each) for each in texts if isinstance(each, str))
