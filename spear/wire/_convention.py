"""The calling convention: how arguments and results become bytes.

* A call with exactly one argument, given by position and of type bytes, bytearray or memoryview, is
  **raw**: the payload is that argument. An empty raw payload is an empty argument, not "none".
* Every other call is **CBOR**: the payload is an array of two items, the positional arguments as an
  array and the keyword arguments as a map with text keys. ``f()`` is ``[[], {}]``.
* A result of type bytes, bytearray or memoryview is raw; every other result is one CBOR item. Items
  of streams and progress reports follow the rule of results.
* A segment, as users have it in a ``SharedBuffer``, is raw as well.

On the way out, attrs classes and dataclasses become maps, enums become their values, tuples become
arrays. What becomes of a decoded argument is the agent's affair.

Raw payloads are not copied: a buffer that was sent must not be changed any more. Inside of lists and maps
bytes and bytearrays may stand, views of memory not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

from spear._errors import InvalidArguments
from spear._segments import Segment
from spear._sendable import CannotSend, check_arguments, check_sendable, check_text

from ._frames import Payload
from ._values import Value, decode_value_untrusted, encode_value

_RAW: Final = (bytes, bytearray, memoryview, Segment)

NO_ARGUMENTS: Final = encode_value([[], {}])
NONE: Final = encode_value(None)


def encode_arguments(
    positional: Sequence[object], keywords: Mapping[str, object]
) -> tuple[Payload, bool]:
    """(payload, whether it is CBOR) of a call with these arguments.

    Raises:
        TypeError: one of them cannot be sent; the message names its type.
    """
    if not keywords:
        if not positional:
            return NO_ARGUMENTS, True
        if len(positional) == 1 and isinstance(positional[0], _RAW):
            return _as_payload(positional[0]), False
    return encode_value([list(positional), dict(keywords)], unfold), True


def encode_call(
    function: str, positional: Sequence[object], keywords: Mapping[str, object]
) -> tuple[Payload, bool]:
    """(payload, whether it is CBOR) of a call, as :func:`encode_arguments`, for callers that are users.

    Raises:
        InvalidArguments: an argument cannot be sent; the message names it and its type.
    """
    if len(positional) == 1 and not keywords and isinstance(positional[0], _RAW):
        return _as_payload(positional[0]), False  # there is nothing to be checked
    try:
        check_arguments(positional, keywords)
        try:
            return encode_arguments(positional, keywords)
        except (TypeError, ValueError):
            check_arguments(positional, keywords, text=True)
            raise  # pragma: no cover  # check_arguments() has found what is wrong
    except CannotSend as fault:
        raise InvalidArguments(
            f"{function}({fault.path}): {fault}",
            parameter=fault.path,
            code="argument_not_sendable",
        ) from None


def encode_result(result: object) -> tuple[Payload, bool]:
    """(payload, whether it is CBOR) of a result or an item.

    Raises:
        TypeError: it cannot be sent; the message names the type.
    """
    if type(result) is bytes:
        return result, False
    if result is None:
        return NONE, True
    if isinstance(result, _RAW):
        return _as_payload(result), False
    return encode_value(result, unfold), True


def encode_sendable(result: object) -> tuple[Payload, bool]:
    """The same, for results and items that users have made. Raises CannotSend, which tells the place."""
    try:
        if not isinstance(result, memoryview | Segment):  # sent by themselves, but in nothing else
            check_sendable(result)
        return encode_result(result)
    except (TypeError, ValueError):
        check_text(result)
        raise  # pragma: no cover  # check_text() has found what is wrong


def _as_payload(buffer: Payload) -> Payload:
    """The same bytes, as something whose length is their number."""
    if isinstance(buffer, memoryview) and (buffer.itemsize != 1 or not buffer.c_contiguous):
        return buffer.tobytes()
    return buffer


_unfolded: Final[dict[type, tuple[tuple[str, str], ...]]] = {}  # class -> (key, attribute) pairs


def unfold(value: object) -> object:
    """What stands for an object that CBOR has no item for. Raises TypeError if nothing does."""
    cls = type(value)
    names = _unfolded.get(cls)
    if names is None:
        if isinstance(value, Enum):
            return value.value
        names = _unfolded[cls] = _attributes_of(cls)
    return {key: getattr(value, attribute) for key, attribute in names}


def _attributes_of(cls: type) -> tuple[tuple[str, str], ...]:
    """The attributes of a data class, each under the name its constructor has for it."""
    fields = getattr(cls, "__attrs_attrs__", None)
    if fields is not None:
        return tuple((field.alias or field.name, field.name) for field in fields)
    if hasattr(cls, "__dataclass_fields__"):
        from dataclasses import fields as fields_of

        return tuple((field.name, field.name) for field in fields_of(cls))
    raise TypeError(f"cannot send a {cls.__qualname__}")


def decode_result(payload: bytes | memoryview, is_cbor: bool) -> Value:
    """The result, or the item of a stream, in a payload.

    Raises:
        ValueError: it is not a valid one.
    """
    if not is_cbor:
        return payload
    if payload == NONE:
        return None
    return decode_value_untrusted(payload if type(payload) is bytes else bytes(payload))
