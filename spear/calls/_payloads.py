"""Encode arguments and decode results at the caller's side, with errors that callers know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from spear._codecs import CodecFault
from spear._errors import InvalidArguments, Overloaded, Rejected, RemoteProtocolError
from spear._segments import Segment
from spear._sendable import CannotSend
from spear.wire import Bundle, TooManyItems, Value, decode_result, encode_sendable

if TYPE_CHECKING:
    from spear.wire import Payload

Result: TypeAlias = Value
"""A result of a function: a value that JSON can express, bytes, an integer of any size, a date, a set or
another value that can be sent; or a read-only view, if the function has returned a ``SharedBuffer``."""


RETRY_SECONDS: Final = 1.0
"""Seconds after which a caller may repeat a call that the spearlet had no memory for."""


def heap_bytes(payload: Payload) -> int:
    """Return the bytes of memory that a payload holds.

    A segment counts as 0: its memory is the caller's, or a peer's, whose segments have their own bounds.
    Arrays count, because nothing else bounds them.
    """
    return 0 if isinstance(payload, Segment) and type(payload) is not Bundle else len(payload)


def expect_bytes(whose: str, held: int, more: int, most: int) -> None:
    """Raise Overloaded if more bytes of arguments exceed a limit. A single larger call is allowed alone.

    Args:
        whose: the calls that hold them, for the message.
        held: bytes that these calls hold now.
        more: bytes that a further call would hold.
        most: the limit, ``HostLimits.submitted_bytes``.
    """
    if held and held + more > most:
        raise Overloaded(
            f"{whose} that have not ended hold {held} bytes of arguments, and {more} more would "
            f"exceed the limit (submitted_bytes: {most})",
            retry_after_seconds=RETRY_SECONDS,
            code="too_many_bytes",
        )


def encode_item(function: str, number: int, item: object) -> tuple[Payload, bool]:
    """Encode one item of a stream; return the payload, and whether it is CBOR.

    Raises:
        InvalidArguments: the item cannot be sent; the message names the item and its type.
    """
    try:
        return encode_sendable(item)
    except CannotSend as fault:
        parameter = f"items[{number}]{fault.path}"
        raise InvalidArguments(
            f"{function}({parameter}): {fault}",
            parameter=parameter,
            code="argument_not_sendable",
        ) from None


def decode_result_untrusted(payload: bytes | memoryview, is_cbor: bool) -> Result:
    """Decode the result of a function, or one item of its stream.

    Raises:
        Rejected: the value is made of too many items.
        UnexpectedResult: a codec is missing in this process, or has raised.
        RemoteProtocolError: the payload is not valid CBOR.
    """
    if not is_cbor:
        return payload
    try:
        return decode_result(payload, is_cbor)
    except TooManyItems as error:
        message = f"cannot decode the result: {error}"
        raise Rejected(message, code="result_too_large", delivered="yes") from error
    except CodecFault as fault:
        raise fault.of_result("cannot decode the result") from fault
    except ValueError as error:
        raise RemoteProtocolError(f"cannot decode the result: {error}", delivered="yes") from error
