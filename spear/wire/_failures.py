"""Failures of calls: exceptions at both ends, ERROR frames between them."""

from __future__ import annotations

from typing import Final

from spear._errors import (
    CallCancelled,
    CallFailed,
    DeadlineExceeded,
    Delivered,
    FunctionRaised,
    InvalidArguments,
    NotFound,
    Overloaded,
    Rejected,
    WorkerDied,
    is_case,
)
from spear._util import MOST_BASES

from ._frames import DELIVERED_MAYBE, DELIVERED_YES
from ._heads import Head, HeadValue

# Independent of the limits: message and traceback together must fit into one head.
MOST_MESSAGE_BYTES: Final = 16 * 1024
MOST_TRACEBACK_BYTES: Final = 32 * 1024
MOST_TYPE_BYTES: Final = 256
"""Maximum bytes of a type's name, and of each other short text."""

FAILURE_NUMBERS: Final[dict[type[CallFailed], int]] = {
    CallFailed: 1,
    FunctionRaised: 2,
    DeadlineExceeded: 3,
    CallCancelled: 4,
    Overloaded: 5,
    NotFound: 6,
    Rejected: 7,
    InvalidArguments: 8,
    WorkerDied: 9,
}
"""The failure number in ERROR frames of each exception class."""

_BY_NUMBER: Final = {number: cls for cls, number in FAILURE_NUMBERS.items()}

# Further attributes of InvalidArguments, with the same names in the head.
_FIT: Final = ("parameter", "expected", "got")

_FLAGS: Final[dict[Delivered, int]] = {"no": 0, "maybe": DELIVERED_MAYBE, "yes": DELIVERED_YES}


def overloaded(message: str, code: str) -> Overloaded:
    """Return the refusal of a call that exceeds a limit of its connection; a retry may succeed soon."""
    return Overloaded(message, retry_after_seconds=0.1, code=code)


def encode_failure(failure: CallFailed, max_message_bytes: int) -> tuple[int, int, int, Head]:
    """Return (flags, a, b, head) of the ERROR frame for this failure."""
    retry_after_ms = 0
    max_message_bytes = min(max_message_bytes, MOST_MESSAGE_BYTES)
    if isinstance(failure, FunctionRaised):
        head: dict[str, HeadValue] = {
            "type": clip(failure.type_name, MOST_TYPE_BYTES),
            "message": clip(failure.remote_message, max_message_bytes),
        }
        if failure.base_names:
            names = failure.base_names[:MOST_BASES]
            head["bases"] = [clip(each, MOST_TYPE_BYTES) for each in names]
        if failure.remote_code:
            head["raised"] = clip(failure.remote_code, MOST_TYPE_BYTES)
        if failure.remote_traceback:
            head["traceback"] = _clip_traceback(failure.remote_traceback, max_message_bytes)
    else:
        head = {"message": clip(str(failure), max_message_bytes)}
        if isinstance(failure, Overloaded) and failure.retry_after_seconds is not None:
            retry_after_ms = max(1, round(min(0xFFFF_FFFF, failure.retry_after_seconds * 1000)))
        if isinstance(failure, InvalidArguments):
            texts = ((name, getattr(failure, name)) for name in _FIT)
            head |= {name: clip(text, MOST_TYPE_BYTES) for name, text in texts if text}
        if failure.code != type(failure).code and is_case(failure.code, type(failure)):
            head["code"] = failure.code
    return _FLAGS[failure.delivered], _number_of(type(failure)), retry_after_ms, head


def _number_of(cls: type[CallFailed]) -> int:
    number = FAILURE_NUMBERS.get(cls)
    if number is None:  # a subclass defined elsewhere: use its nearest base class
        return next(FAILURE_NUMBERS[each] for each in cls.__mro__ if each in FAILURE_NUMBERS)
    return number


def decode_failure_untrusted(
    flags: int, a: int, b: int, head: Head | None, max_message_bytes: int
) -> CallFailed:
    """Return the exception for an ERROR frame, with texts cut to the lengths that a sender uses.

    Never raises: invalid fields of the head are replaced by defaults.
    """
    head = head or {}
    message = head.get("message")
    if isinstance(message, str):
        message = clip(message, max_message_bytes)
    text = message if isinstance(message, str) else "no reason given"
    delivered: Delivered = (
        "yes" if flags & DELIVERED_YES else "maybe" if flags & DELIVERED_MAYBE else "no"
    )
    cls = _BY_NUMBER.get(a, CallFailed)
    if cls is FunctionRaised:
        name, trace, raised = head.get("type"), head.get("traceback"), head.get("raised")
        return FunctionRaised(
            message if isinstance(message, str) else "",
            type_name=clip(name, MOST_TYPE_BYTES) if isinstance(name, str) else "Exception",
            base_names=_names_untrusted(head.get("bases")),
            remote_code=clip(raised, MOST_TYPE_BYTES) if isinstance(raised, str) else "",
            remote_traceback=(
                _clip_traceback(trace, max_message_bytes) if isinstance(trace, str) else None
            ),
            delivered=delivered,
        )
    said = head.get("code")
    code = said if isinstance(said, str) and is_case(said, cls) else None
    if cls is Overloaded:
        seconds = b / 1000 if b else None
        return Overloaded(text, retry_after_seconds=seconds, code=code, delivered=delivered)
    if cls is InvalidArguments:
        given = {name: head.get(name) for name in _FIT}
        fit = {n: clip(each, MOST_TYPE_BYTES) for n, each in given.items() if isinstance(each, str)}
        return InvalidArguments(text, **fit, code=code, delivered=delivered)
    return cls(text, code=code, delivered=delivered)


def _names_untrusted(value: object) -> tuple[str, ...]:
    names = value[:MOST_BASES] if isinstance(value, list) else ()
    return tuple(clip(each, MOST_TYPE_BYTES) for each in names if isinstance(each, str))


def _clip_traceback(text: str, max_message_bytes: int) -> str:
    """Cut a traceback at its beginning: its end names the exception and where it was raised."""
    return clip(text, min(8 * max_message_bytes, MOST_TRACEBACK_BYTES), keep_end=True)


def clip(text: str, max_bytes: int, *, keep_end: bool = False) -> str:
    """Cut a text to ``max_bytes`` of UTF-8, between characters, and mark the cut with ``...``."""
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= max_bytes:
        return encoded.decode()
    mark = "..."[:max_bytes]
    kept = max_bytes - len(mark)
    if keep_end:
        return mark + encoded[len(encoded) - kept :].decode("utf-8", "ignore")
    return encoded[:kept].decode("utf-8", "ignore") + mark
