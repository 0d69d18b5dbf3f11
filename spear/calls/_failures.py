"""Failures of calls that run in a task of their own, which SystemExit must not leave."""

from __future__ import annotations

from spear._errors import CallFailed
from spear._util import summary_of


def as_failure(error: BaseException) -> Exception:
    """Return the failure of a call that runs in a task of the spearlet, as an ``Exception``.

    Other exceptions, such as ``SystemExit``, can only come from a handler of progress reports.
    """
    if isinstance(error, Exception):
        return error
    what = f"on_progress raised {summary_of(error)}"
    failure = CallFailed(what, delivered="yes")
    failure.__cause__ = error
    return failure
