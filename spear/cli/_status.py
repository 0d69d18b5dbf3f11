"""Exit statuses: one for each kind of failure, so that scripts can tell them apart."""

from __future__ import annotations

import errno
from typing import Final

from spear._errors import (
    CallFailed,
    ConfigurationError,
    DeadlineExceeded,
    FunctionRaised,
    HostLost,
    InvalidArguments,
    NoHost,
    NotFound,
    Overloaded,
    SpawnFailed,
    WorkerDied,
)

# The first class that matches decides.
EXIT_STATUSES: Final[tuple[tuple[type[BaseException], int, str], ...]] = (
    (FunctionRaised, 1, "the function raised"),
    (ConfigurationError, 2, "the command line or a setting is wrong"),
    (InvalidArguments, 3, "the arguments do not fit the function"),
    (NotFound, 4, "there is no such function"),
    (DeadlineExceeded, 5, "the deadline was exceeded"),
    (SpawnFailed, 6, "the instance did not start: its code could not be loaded, or not in time"),
    (WorkerDied, 7, "the instance died"),
    (Overloaded, 8, "no capacity"),
    (NoHost, 10, "no host is running, or it does not respond"),
    (HostLost, 11, "the host was lost: the request may have been carried out"),
    (CallFailed, 9, "the call failed for another reason"),
)

ITEMS_FAILED: Final = 12
"""The status of a run over many items that has ended, and in which items failed."""

CHECKS_FAILED: Final = 13
"""The status of ``spear doctor`` if a check has failed."""

SIGNALLED: Final = 128
"""Exit statuses above this are those of signals: 128 and the signal's number."""

SOFTWARE: Final = 70
"""EX_SOFTWARE of ``sysexits.h``: the status of errors without one of their own."""

REFUSED: Final = 71
"""EX_OSERR of ``sysexits.h``: the operating system refuses something that is needed."""

_REFUSALS: Final = {
    errno.EACCES, errno.EAGAIN, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOBUFS,
    errno.ENOMEM, errno.ENOSPC, errno.ENOSYS, errno.EPERM, errno.EROFS,
}  # fmt: skip

INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
"""Statuses that a shell uses for an end by SIGINT and by SIGPIPE: 128 and the signal's number."""


def is_refusal(error: BaseException) -> bool:
    """Return whether an error is a refusal of the operating system, and not a bug."""
    if isinstance(error, OSError):
        return error.errno in _REFUSALS
    return isinstance(error, MemoryError)


def exit_status(error: BaseException) -> int:
    """Return the exit status for an error."""
    for kind, status, _ in EXIT_STATUSES:
        if isinstance(error, kind):
            return status
    return REFUSED if is_refusal(error) else SOFTWARE


def describe_statuses() -> str:
    """Return the list of exit statuses for ``--help``."""
    rows = [(0, "the result was printed")]
    rows += [
        (status, meaning) for _, status, meaning in sorted(EXIT_STATUSES, key=lambda row: row[1])
    ]
    rows += [(ITEMS_FAILED, "items of spear map failed; their failures are in its output")]
    rows += [(CHECKS_FAILED, "a check of spear doctor has failed")]
    rows += [(SOFTWARE, "any other error")]
    rows += [(REFUSED, "an error of the operating system"), (INTERRUPTED, "interrupted")]
    lines = "\n".join(f"  {status:<5}{meaning}" for status, meaning in rows)
    return f"exit status:\n{lines}"
