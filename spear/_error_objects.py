"""Errors of Spear as JSON objects, as hosts and commands show them, and back. A leaf module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._errors import (
    CallCancelled,
    CallFailed,
    ChannelBroken,
    ChannelClosed,
    ConfigurationError,
    DeadlineExceeded,
    FunctionRaised,
    HostLost,
    InvalidArguments,
    NoHost,
    NotFound,
    Overloaded,
    Rejected,
    RemoteProtocolError,
    SpawnFailed,
    SpearError,
    UnexpectedResult,
    WorkerDied,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._errors import Delivered


def error_object(error: SpearError, *, tell_all: bool = False) -> dict[str, object]:
    """Return an error as a JSON object.

    Args:
        error: the error to report.
        tell_all: whether to include the last output of an instance.
    """
    told: dict[str, object] = {
        "kind": type(error).__name__,
        "code": error.code,
        "message": error.summary,
        "delivered": error.delivered,
    }
    if notes := getattr(error, "__notes__", None):
        told["notes"] = list(notes)
    return told | _details(error, tell_all=tell_all)


def _details(error: SpearError, *, tell_all: bool) -> dict[str, object]:
    """Return the fields that only some errors have."""
    if isinstance(error, FunctionRaised):
        more: dict[str, object] = {"message": error.remote_message, "type": error.type_name}
        if error.base_names:
            more["bases"] = list(error.base_names)
        if error.remote_code:
            more["remote_code"] = error.remote_code
        if error.remote_traceback:
            more["traceback"] = error.remote_traceback
        return more
    if isinstance(error, Overloaded):
        return {"retry_after_seconds": error.retry_after_seconds}
    if isinstance(error, InvalidArguments | UnexpectedResult):
        names = ("parameter", "path", "expected", "got", "usage")
        return {name: value for name in names if (value := getattr(error, name, ""))}
    if isinstance(error, ConfigurationError):
        more = {"message": str(error)}  # includes the key, for clients that show nothing else
        return more | ({"key": error.key} if error.key else {})
    if isinstance(error, WorkerDied | SpawnFailed):
        more = {} if isinstance(error, SpawnFailed) else {"exit_status": error.exit_status}
        if tell_all and error.stderr_tail:
            more["stderr_tail"] = error.stderr_tail
        return more
    return {}


# -- back -----------------------------------------------------------------------------------------

_PLAIN: Final[dict[object, type[SpearError]]] = {
    each.__name__: each
    for each in (
        CallCancelled, CallFailed, ChannelBroken, ChannelClosed, ConfigurationError, DeadlineExceeded,
        HostLost, NoHost, NotFound, Rejected, RemoteProtocolError,
    )
}  # fmt: skip

_DELIVERED: Final[dict[object, Delivered]] = {"no": "no", "maybe": "maybe", "yes": "yes"}


def error_from_object(told: Mapping[object, object]) -> SpearError:
    """Return the error that :func:`error_object` has described, with its attributes.

    Never raises: fields of other types than expected are replaced by defaults.
    """
    error = _error_from(told)
    if (code := _text(told, "code")) not in ("", error.code):
        error.code = code
    error.delivered = _DELIVERED.get(told.get("delivered"), "maybe")
    notes = told.get("notes")
    for note in notes if isinstance(notes, list) else ():
        error.add_note(str(note))
    return error


def _error_from(told: Mapping[object, object]) -> SpearError:
    kind, message = told.get("kind"), _text(told, "message")
    tail = _text(told, "stderr_tail")
    if kind == "FunctionRaised":
        bases = told.get("bases")
        return FunctionRaised(
            message,
            type_name=_text(told, "type") or "Exception",
            base_names=tuple(map(str, bases)) if isinstance(bases, list) else (),
            remote_code=_text(told, "remote_code"),
            remote_traceback=_text(told, "traceback") or None,
        )
    if kind == "InvalidArguments":
        return InvalidArguments(
            message,
            parameter=_text(told, "parameter"),
            expected=_text(told, "expected"),
            got=_text(told, "got"),
            usage=_text(told, "usage"),
        )
    if kind == "UnexpectedResult":
        return UnexpectedResult(
            message,
            path=_text(told, "path"),
            expected=_text(told, "expected"),
            got=_text(told, "got"),
        )
    if kind == "Overloaded":
        seconds = told.get("retry_after_seconds")
        is_known = type(seconds) in (int, float)
        return Overloaded(message, retry_after_seconds=seconds if is_known else None)  # type: ignore[arg-type]  # a number
    if kind == "WorkerDied":
        status = told.get("exit_status")
        return WorkerDied(
            message, exit_status=status if type(status) is int else None, stderr_tail=tail
        )
    if kind == "SpawnFailed":
        return SpawnFailed(message, stderr_tail=tail)
    if kind == "ConfigurationError":
        return ConfigurationError(message, key=_text(told, "key"))
    return _PLAIN.get(kind, CallFailed)(message or "the host reported a failure without a message")


def _text(told: Mapping[object, object], key: str) -> str:
    value = told.get(key)
    return value if isinstance(value, str) else ""
