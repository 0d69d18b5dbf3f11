"""Errors of Spear as JSON objects: in responses of a host and in output of commands. A leaf module."""

from __future__ import annotations

from ._errors import (
    ConfigurationError,
    FunctionRaised,
    InvalidArguments,
    Overloaded,
    SpawnFailed,
    SpearError,
    WorkerDied,
)


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
        if error.remote_code:
            more["remote_code"] = error.remote_code
        if error.remote_traceback:
            more["traceback"] = error.remote_traceback
        return more
    if isinstance(error, Overloaded):
        return {"retry_after_seconds": error.retry_after_seconds}
    if isinstance(error, InvalidArguments):
        names = ("parameter", "expected", "got")
        return {name: getattr(error, name) for name in names if getattr(error, name)}
    if isinstance(error, ConfigurationError):
        more = {"message": str(error)}  # includes the key, for clients that show nothing else
        return more | ({"key": error.key} if error.key else {})
    if isinstance(error, WorkerDied | SpawnFailed):
        more = {} if isinstance(error, SpawnFailed) else {"exit_status": error.exit_status}
        if tell_all and error.stderr_tail:
            more["stderr_tail"] = error.stderr_tail
        return more
    return {}
