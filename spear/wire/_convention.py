"""The calling convention: how arguments and results become bytes.

* A call with exactly one argument, given by position and of type bytes, bytearray or memoryview, is
    **raw**: the payload is that argument. An empty raw payload is an empty argument, not a missing one.
* Every other call is **CBOR**: the payload is an array of two items, the positional arguments as an
  array and the keyword arguments as a map with text keys. ``f()`` is ``[[], {}]``.
* A result of type bytes, bytearray or memoryview is raw; every other result is one CBOR item. Items
  of streams and progress reports follow the rule of results.
* A segment (the memory of a user's ``SharedBuffer``) is raw as well.

When values are encoded, objects of data classes become maps (``spear._unfolding``), enums become their
values, and tuples, named ones too, become arrays. Dates, decimals, sets and the other types in
``spear._tagged`` become tags, and the payload is marked as :class:`TaggedBytes`. Receivers convert values
by ``spear.annotations``.

Raw payloads are not copied, so a buffer must not be changed after it was sent. Lists and maps may contain
bytes and bytearrays, but no memoryviews.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeGuard

from spear._errors import InvalidArguments
from spear._segments import Segment
from spear._sendable import (
    MAX_LEVELS,
    CannotSend,
    NotPlain,
    check_arguments,
    check_sendable,
    check_text,
    check_unicode,
)
from spear._unfolding import unfold_of

from ._bundles import Bundle
from ._frames import Payload, TaggedBytes
from ._tags import Lowering
from ._values import Value, decode_value_untrusted, encode_value

_RAW: Final = (bytes, bytearray, memoryview, Segment)

NO_ARGUMENTS: Final = encode_value([[], {}])
NONE: Final = encode_value(None)


def encode_arguments(
    positional: Sequence[object], keywords: Mapping[str, object]
) -> tuple[Payload, bool]:
    """Return (payload, whether it is CBOR) for a call with these arguments.

    Raises:
        TypeError: an argument cannot be sent; the message names its type.
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
    """Return (payload, whether it is CBOR) for a call, with errors that a user can understand.

    Raises:
        InvalidArguments: an argument cannot be sent; the message names it and its type.
    """
    if len(positional) == 1 and not keywords and _is_raw(positional[0]):
        return _as_payload(positional[0]), False  # raw bytes need no check
    try:
        check_arguments(positional, keywords)
        try:
            return encode_arguments(positional, keywords)
        except (TypeError, ValueError):
            check_arguments(positional, keywords, text=True)
            raise  # pragma: no cover  # check_arguments() has raised for the fault
    except NotPlain:
        return _encode_tagged_call(function, positional, keywords), True
    except CannotSend as fault:
        raise _not_sendable(function, fault) from None


def encode_call_alone(
    function: str, positional: Sequence[object], keywords: Mapping[str, object]
) -> bytes:
    """Return a call's arguments as one CBOR item, as the body of a request to a gateway has them.

    Positional arguments are an array, keyword arguments a map, and both together a map with ``$args``.

    Raises:
        InvalidArguments: an argument cannot be sent; the message names it and its type.
    """
    try:
        check_arguments(positional, keywords)
        value = {"$args": list(positional), **keywords} if keywords else list(positional)
        try:
            return encode_value(value, unfold)
        except (TypeError, ValueError):
            check_arguments(positional, keywords, text=True)
            raise  # pragma: no cover  # check_arguments() has raised for the fault
    except NotPlain:
        items, entries = _lower_call(function, positional, keywords, Lowering(is_alone=True))
        return encode_value({"$args": items, **entries} if entries else items)
    except CannotSend as fault:
        raise _not_sendable(function, fault) from None


def _not_sendable(function: str, fault: CannotSend) -> InvalidArguments:
    return InvalidArguments(
        f"{function}({fault.path}): {fault}",
        parameter=fault.path,
        code="argument_not_sendable",
    )


def _encode_tagged_call(
    function: str, positional: Sequence[object], keywords: Mapping[str, object]
) -> Payload:
    """Encode arguments that are not plain. Raises InvalidArguments."""
    lowering = Lowering()
    return _encode_lowered(list(_lower_call(function, positional, keywords, lowering)), lowering)


def _lower_call(
    function: str,
    positional: Sequence[object],
    keywords: Mapping[str, object],
    lowering: Lowering,
) -> tuple[list[object], dict[str, object]]:
    """Return arguments that are not plain as CBOR has them. Raises InvalidArguments."""
    levels = MAX_LEVELS - 2  # arguments travel as a list in a list
    try:
        items: list[object] = []
        for index, value in enumerate(positional):
            try:
                items.append(lowering.lower(value, levels))
            except CannotSend as fault:
                raise fault.inside(f"argument {index + 1}") from None
        entries: dict[str, object] = {}
        for name, value in keywords.items():
            check_unicode(name)
            try:
                entries[name] = lowering.lower(value, levels)
            except CannotSend as fault:
                raise fault.inside(name if fault.path else f"{name}=...") from None
    except CannotSend as fault:
        raise _not_sendable(function, fault) from None
    return items, entries


def _encode_lowered(lowered: object, lowering: Lowering) -> TaggedBytes | Bundle:
    encoded = encode_value(lowered)
    return Bundle(encoded, lowering.memory) if lowering.memory.views else TaggedBytes(encoded)


def encode_result(result: object) -> tuple[Payload, bool]:
    """Return (payload, whether it is CBOR) for a result or an item.

    Raises:
        TypeError: the value cannot be sent; the message names its type.
    """
    if type(result) is bytes:
        return result, False
    if result is None:
        return NONE, True
    if isinstance(result, _RAW):
        return _as_payload(result), False
    return encode_value(result, unfold), True


def encode_sendable(result: object) -> tuple[Payload, bool]:
    """Encode a result or item that a user made. Raises CannotSend, which names the faulty part."""
    try:
        if not _is_raw(result):  # views and segments can only be sent alone
            check_sendable(result)
        return encode_result(result)
    except NotPlain:
        lowering = Lowering()
        return _encode_lowered(lowering.lower(result, MAX_LEVELS), lowering), True
    except (TypeError, ValueError):
        check_text(result)
        raise  # pragma: no cover  # check_text() has raised for the fault


def encode_alone(value: object) -> bytes:
    """Encode a value as one CBOR item, bytes and the memory of arrays included. Raises CannotSend."""
    payload, is_cbor = encode_sendable([value])
    assert is_cbor
    if isinstance(payload, Bundle):
        payload = encode_value(Lowering(is_alone=True).lower([value], MAX_LEVELS))
    assert isinstance(payload, bytes)
    return payload[1:]  # without the head of a list of one item


def _is_raw(value: object) -> TypeGuard[Payload]:
    """Return whether a value that is alone is sent as bytes; a view of larger items is an array."""
    return isinstance(value, _RAW) and (not isinstance(value, memoryview) or value.itemsize == 1)


def _as_payload(buffer: Payload) -> Payload:
    """Return the buffer with ``len()`` equal to its size in bytes; copied only if necessary."""
    if isinstance(buffer, memoryview) and (buffer.itemsize != 1 or not buffer.c_contiguous):
        return buffer.tobytes()
    return buffer


def unfold(value: object) -> object:
    """Return the CBOR-encodable form of an object. Raises TypeError if its class has none."""
    found = unfold_of(type(value))
    if found is None:
        raise TypeError(f"cannot send a {type(value).__qualname__}")
    return found(value)


def decode_result(payload: bytes | memoryview, is_cbor: bool, *, passes_on: bool = False) -> Value:
    """Decode the result, or the stream item, in a payload.

    Args:
        payload: the payload.
        is_cbor: whether it is CBOR.
        passes_on: see :func:`decode_value_untrusted`.

    Raises:
        CodecFault: a codec is missing, or has raised.
        ValueError: the payload is not valid.
    """
    if not is_cbor:
        return payload
    if payload == NONE:
        return None
    return decode_value_untrusted(payload, passes_on=passes_on)
