"""Errors in HTTP: status codes and JSON."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Final, final

from spear._error_objects import error_object
from spear._errors import (
    CallCancelled,
    CallFailed,
    ChannelBroken,
    ChannelClosed,
    ConfigurationError,
    DeadlineExceeded,
    FunctionRaised,
    InvalidArguments,
    NotFound,
    Overloaded,
    Rejected,
    RemoteProtocolError,
    SpawnFailed,
    SpearError,
    WorkerDied,
)
from spear._json import dump_json

if TYPE_CHECKING:
    from spear._errors import Delivered

RETRY_SECONDS: Final = 1.0
"""Seconds in ``Retry-After`` if no better value is known."""


PROBLEM_CODES: Final = {
    "BadRequest": "bad_request",
    "Busy": "busy",
    "ExpectationFailed": "expectation_failed",
    "Forbidden": "forbidden",
    "GoingAway": "going_away",
    "HeadTooLarge": "request_head_too_large",
    "InvalidArguments": InvalidArguments.code,
    "MethodNotAllowed": "method_not_allowed",
    "NoSuchPath": "no_such_path",
    "NotInstalled": "not_installed",
    "RemoteProtocolError": RemoteProtocolError.code,
    "SlowRequest": "slow_request",
    "TooLarge": "body_too_large",
    "Unauthorized": "unauthorized",
    "UnsupportedMediaType": "unsupported_media_type",
    "UpgradeRequired": "upgrade_required",
}
"""The kinds of problems, and the code of each."""

INTERNAL_ERROR: Final = "internal_error"


@final
class Problem(Exception):
    """A request that gets an error response although no call has failed. Never leaves this package.

    Attributes:
        status: HTTP status of the response.
        kind: kind of the problem, in place of an exception's name; one of :data:`PROBLEM_CODES`.
        code: a stable name of the failure.
        aws_kind: type of the error for clients of AWS Lambda; empty if the status determines it.
        headers: headers for the response.
        delivered: whether the function has run.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        retry_seconds: float | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        delivered: Delivered = "no",
        code: str | None = None,
        aws_kind: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = PROBLEM_CODES[kind] if code is None else code
        self.aws_kind = aws_kind
        self.headers = headers
        self.delivered = delivered
        self.retry_seconds = retry_seconds

    def body(self) -> bytes:
        """Return the body of the response, without details of a request."""
        return dump_json({"error": describe(self)}).encode()


_STATUSES: Final[dict[type[SpearError], int]] = {
    InvalidArguments: 400,
    NotFound: 404,
    Rejected: 409,
    Overloaded: 429,
    FunctionRaised: 500,
    DeadlineExceeded: 504,
    CallCancelled: 503,
    SpawnFailed: 503,
    WorkerDied: 502,
    RemoteProtocolError: 502,
    ChannelBroken: 502,
    ChannelClosed: 502,
    ConfigurationError: 400,
    CallFailed: 502,
}


def status_of(error: Exception, *, is_draining: bool = False) -> int:
    """Return the HTTP status of an error.

    Args:
        error: the error to report.
        is_draining: whether the host refuses new calls.
    """
    if isinstance(error, Problem):
        return error.status
    status = next((_STATUSES[each] for each in type(error).__mro__ if each in _STATUSES), 500)
    if isinstance(error, WorkerDied) and error.delivered == "no":
        return 503
    if status == 409:
        if error.delivered == "yes":  # type: ignore[attr-defined]  # the error is Rejected
            return 502
        return 503 if is_draining else 409
    return status


def retry_after(error: Exception, status: int) -> float | None:
    """Return seconds after which to retry; None if a retry makes no sense."""
    seconds: float | None = None
    if isinstance(error, Overloaded):
        seconds = error.retry_after_seconds
    elif isinstance(error, Problem):
        seconds = error.retry_seconds
    return RETRY_SECONDS if seconds is None and status in (429, 503) else seconds


def retry_header(seconds: float | None) -> tuple[tuple[bytes, bytes], ...]:
    """Return the ``Retry-After`` header, if there is one."""
    return () if seconds is None else ((b"retry-after", b"%d" % max(1, ceil(seconds))),)


def describe(
    error: Exception,
    *,
    request_id: str = "",
    tell_all: bool = False,
    known: Delivered = "no",
) -> dict[str, object]:
    """Return an error as a JSON object.

    Args:
        error: the error to report.
        request_id: id of the failed request.
        tell_all: whether to include the last output of an instance.
        known: whether the function has run, for a Problem during a call; other errors say it themselves.
    """
    if isinstance(error, Problem):
        told: dict[str, object] = {"kind": error.kind, "code": error.code, "message": str(error)}
        told["delivered"] = known if error.delivered == "no" or known == "yes" else error.delivered
    elif isinstance(error, SpearError):
        told = error_object(error, tell_all=tell_all)
    else:
        told = {"kind": "InternalError", "code": INTERNAL_ERROR}
        told |= {"message": "the gateway has failed", "delivered": "maybe"}
    if request_id:
        told["request_id"] = request_id
    return told
