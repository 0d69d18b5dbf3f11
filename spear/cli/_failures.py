"""Error responses of a host as exceptions, so that they give the same exit statuses as local errors."""

from __future__ import annotations

import json

from spear._errors import (
    CallCancelled,
    CallFailed,
    ConfigurationError,
    DeadlineExceeded,
    FunctionRaised,
    InvalidArguments,
    NotFound,
    Overloaded,
    Rejected,
    SpawnFailed,
    SpearError,
    WorkerDied,
)


class NoSuchPath(SpearError):
    """The host does not know the path of the request."""

    code = "no_such_path"


SYSTEM_REFUSES: Final = "system_refuses"
"""The code for a refusal of the operating system, such as a lack of memory."""


class HostSaid(Exception):
    """A host's description of an error; the cause of the exception built from it.

    Attributes:
        error: the JSON object as received.
    """

    def __init__(self, error: Mapping[str, object]) -> None:
        super().__init__(str(error.get("kind")))
        self.error = error


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from spear._errors import Delivered

_PLAIN: Final[dict[str, type[SpearError]]] = {
    each.__name__: each
    for each in (
        CallCancelled, CallFailed, ConfigurationError, DeadlineExceeded, NotFound, Rejected,
    )
}  # fmt: skip

# Codes of errors whose messages already say when to retry.
_SAYS_WHEN: Final = ("queue_full", "busy")

_DELIVERED: Final[dict[object, Delivered]] = {"no": "no", "maybe": "maybe", "yes": "yes"}


def failure_of(status: int, kind: str, body: bytes, headers: Mapping[str, str]) -> SpearError:
    """Return the exception for an error response.

    Args:
        status: the HTTP status.
        kind: content type of the body.
        body: the received body.
        headers: headers by lower-case name.
    """
    try:
        content = json.loads(body) if kind.endswith("json") else None
    except ValueError:
        content = None
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict):
        return SpearError(f"the host responded with {status} and no reason", delivered="maybe")
    return failure_from(error, status, headers)


def failure_from(
    error: Mapping[str, object], status: int = 500, headers: Mapping[str, str] | None = None
) -> SpearError:
    """Return the exception for a host's error object; see :func:`failure_of`."""
    failure = _failure(error, status, headers)
    failure.code = _text(error, "code") or failure.code
    failure.__cause__ = HostSaid(error)
    return failure


def describe(error: BaseException) -> dict[str, object]:
    """Return the JSON object for an error; the host's own object if the error came from one."""
    code = error.code if isinstance(error, SpearError) else SYSTEM_REFUSES
    told: dict[str, object] = {"kind": type(error).__name__, "code": code, "message": str(error)}
    if isinstance(error, SpearError):
        told["delivered"] = error.delivered
    return told | (dict(error.__cause__.error) if isinstance(error.__cause__, HostSaid) else {})


def _failure(
    error: Mapping[str, object], status: int, headers: Mapping[str, str] | None
) -> SpearError:
    kind = str(error.get("kind"))
    message = str(error.get("message") or f"the host responded with {status} {kind}")
    delivered = _DELIVERED.get(error.get("delivered"), "maybe")
    tail = _text(error, "stderr_tail")
    match kind:
        case "FunctionRaised":
            return FunctionRaised(
                _text(error, "message"),
                type_name=_text(error, "type") or "Exception",
                remote_code=_text(error, "remote_code"),
                remote_traceback=_text(error, "traceback") or None,
            )
        case "InvalidArguments":
            fit = {name: _text(error, name) for name in ("parameter", "expected", "got", "usage")}
            return InvalidArguments(message, **fit, delivered=delivered)
        case "WorkerDied":
            return WorkerDied(message, stderr_tail=tail, delivered=delivered)
        case "SpawnFailed":
            return SpawnFailed(message, stderr_tail=tail)
        case "Overloaded" | "Busy":
            after = (headers or {}).get("retry-after")
            says_when = error.get("code") in _SAYS_WHEN
            later = f"; try again in {after} s" if after and not says_when else ""
            return Overloaded(f"{message}{later}", delivered="no")
        case "Unauthorized":
            return ConfigurationError(
                f"{message}; pass the host's token with --token-file FILE or SPEAR_TOKEN"
            )
        case "Forbidden" | "BadRequest" | "TooLarge":
            return ConfigurationError(message)
        case "NoSuchPath":
            return NoSuchPath(f"{message}; the host may have another version than this command")
    return _PLAIN.get(kind, SpearError)(message, delivered=delivered)


def _text(error: Mapping[str, object], key: str) -> str:
    return str(error.get(key) or "")
