"""Arguments and results at the host's side: the calling convention, with errors that callers know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from spear._errors import InvalidArguments, RemoteProtocolError
from spear.channels import Value, decode_result
from spear.channels import encode_arguments as encode
from spear.channels import encode_result as encode_any

Result: TypeAlias = Value
"""What a function can return: what JSON can say, bytes, and integers of any size."""

Payload: TypeAlias = bytes | bytearray | memoryview


def encode_arguments(
    function: str, positional: tuple[object, ...], keywords: Mapping[str, object]
) -> tuple[Payload, bool]:
    """(payload, whether it is CBOR).

    Raises:
        InvalidArguments: an argument has no representation; the message names it and its type.
    """
    try:
        return encode(positional, keywords)
    except (TypeError, ValueError) as error:  # ValueError: text that is no Unicode
        where = _find_fault(positional, keywords)
        raise InvalidArguments(f"{function}({where}): {error}") from error


def _find_fault(positional: tuple[object, ...], keywords: Mapping[str, object]) -> str:
    """Which argument it is that has no representation."""
    named = [(f"argument {number}", each) for number, each in enumerate(positional, 1)]
    named += [(f"{name}=...", each) for name, each in keywords.items()]
    for name, value in named:
        try:
            encode_any(value)
        except (TypeError, ValueError):
            return name
    return "..."


def encode_item(item: object) -> tuple[Payload, bool]:
    """(payload, whether it is CBOR) of one item of a stream. Raises InvalidArguments."""
    try:
        return encode_any(item)
    except (TypeError, ValueError) as error:
        raise InvalidArguments(f"item: {error}") from error


def decode_result_untrusted(payload: bytes, is_cbor: bool) -> Result:
    """What a function returned, or one item of its stream.

    Raises:
        RemoteProtocolError: it is not valid CBOR.
    """
    if not is_cbor:
        return payload
    try:
        return decode_result(payload, is_cbor)
    except ValueError as error:
        raise RemoteProtocolError(
            f"a result that cannot be decoded: {error}", delivered="yes"
        ) from error
