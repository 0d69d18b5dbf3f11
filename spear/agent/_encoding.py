"""What a function sends, as bytes; with errors that name the function, the place and the type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear._errors import FunctionRaised
from spear._sendable import CannotSend
from spear.wire import encode_sendable

from ._failures import about_call

if TYPE_CHECKING:
    from spear.wire import Payload


def encode_outcome(function: str, value: object, did: str) -> tuple[Payload, bool]:
    """(payload, whether it is CBOR) of a result or an item.

    Args:
        function: what gave it.
        value: the result or item.
        did: "returned" or "yielded".

    Raises:
        FunctionRaised: it cannot be sent; the message names it and its type.
    """
    if type(value) is bytes:
        return value, False  # as encode_sendable() would say
    try:
        return encode_sendable(value)
    except CannotSend as fault:
        where = f" at {fault.path}" if fault.path else ""
        what = f"{function}() {did} {fault.what}{where}, which cannot be sent"
        hint = f"{did.removesuffix('ed')} {fault.instead} instead"
        raise about_call(FunctionRaised(f"{what}: {hint}", type_name="TypeError")) from None


def encode_report(value: object) -> tuple[Payload, bool]:
    """The same of a progress report. Raises TypeError."""
    try:
        return encode_sendable(value)
    except CannotSend as fault:
        raise TypeError(str(fault)) from None
