"""Encoding the values that a function sends, with errors that name function, path and type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear._errors import FunctionRaised
from spear._sendable import CannotSend
from spear.wire import encode_sendable

from ._failures import about_call

if TYPE_CHECKING:
    from spear.wire import Payload


def encode_outcome(function: str, value: object, did: str) -> tuple[Payload, bool]:
    """Encode a result or an item, and return (payload, whether it is CBOR).

    Args:
        function: the name of the function.
        value: the result, or one yielded item of a stream.
        did: the verb for the error message: "returned" or "yielded".

    Raises:
        FunctionRaised: the value cannot be sent, as if the function had raised; the message names the
            part at fault, its place in the value, and its type.
    """
    if type(value) is bytes:
        return value, False  # the same result as of encode_sendable(), but faster
    try:
        return encode_sendable(value)
    except CannotSend as fault:
        where = f" at {fault.path}" if fault.path else ""
        what = f"{function}() {did} {fault.what}{where}, which cannot be sent"
        hint = f"{did.removesuffix('ed')} {fault.instead} instead"
        raise about_call(FunctionRaised(f"{what}: {hint}", type_name="TypeError")) from None


def encode_report(value: object) -> tuple[Payload, bool]:
    """Encode a progress report, and return (payload, whether it is CBOR). Raises TypeError."""
    try:
        return encode_sendable(value)
    except CannotSend as fault:
        raise TypeError(str(fault)) from None
