"""Values as JSON; a value that JSON cannot express becomes a map with one key. A leaf module.

Bytes are ``{"$bytes": base64}``, a float that is not finite is ``{"$float": "nan"}``, an integer of more
digits than Python reads or writes (4300: conversion takes quadratic time) is ``{"$int": "0x1f"}``, a date
is ``{"$date": "2026-01-31"}``, and so on for all types in ``spear._tagged``. An array of numbers or text
is lists of these; of other elements, ``{"$array": [dtype, shape, order, base64]}``. A value with a codec
is ``{"$codec": [name, content]}``, a table or data frame a list of its rows. Such maps are read back, and
are refused if their text or list does not fit; a map with another kind of value stays one. The command
line and the gateway both write values in this way.
"""

from __future__ import annotations

import base64
import gc
import json
import math
import re
import sys
from math import inf, isfinite
from typing import TYPE_CHECKING, Final, NoReturn, final

from ._arrays import Array
from ._codecs import FRAMES, MAX_CODEC_NAME, AnyCodec, CodedValue, codec_of
from ._tagged import BY_NAME, CONTAINERS, MAP, TagBudget, TaggedType, tagged_type
from ._unfolding import unfold_of
from ._util import summary_of

if TYPE_CHECKING:
    from collections.abc import Callable


class _InvalidJson(ValueError):
    """A text that is JSON and cannot be used."""


_HEXADECIMAL: Final = re.compile(r"-?0x[0-9a-fA-F]+")


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)  # though Python accepts it


_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INFINITIES: Final = ("inf", "infinity")


def read_float(text: str, *, may_be_infinite: bool = False) -> float:
    """Return the number in a text.

    Args:
        text: a decimal number; not "nan", "1_0" or digits of other scripts, which ``float()`` accepts.
        may_be_infinite: whether "inf" is accepted, too.

    Raises:
        ValueError: the text is no number, or so large or small that ``float()`` makes it inf or zero.
    """
    if may_be_infinite and text.lower() in _INFINITIES:
        return inf
    if not _NUMBER.fullmatch(text):
        raise _InvalidJson(f"{text[:20]!r} is not a number")
    number = float(text)
    if number in (0.0, inf, -inf):
        digits = text.lower().partition("e")[0]
        if number or digits.strip("+-0."):
            raise _InvalidJson(f"{text[:20]} is out of the range of a float")
    return number


def _float(text: str) -> float:
    """Return the number in ``text``, whose syntax the JSON parser has checked."""
    number = float(text)
    if number and -inf < number < inf:  # takes half the time of looking at the text
        return number
    return read_float(text)


@final
class _Reader:
    """A reader of the maps of one JSON text, with a count of what their tagged values cost."""

    __slots__ = ("_budget",)

    def __init__(self) -> None:
        self._budget: TagBudget | None = None

    def map(self, pairs: list[tuple[str, object]]) -> object:
        """Return a map, or the value that :func:`dump_json` writes as this map."""
        result = dict(pairs)
        if len(result) < len(pairs):
            raise _InvalidJson("a map has the same key twice")
        if len(result) == 1:
            return self._from_json(*pairs[0])
        return result

    def _from_json(self, key: str, value: object) -> object:
        """Return the value that :func:`dump_json` writes as this map with one key; else the map."""
        if not isinstance(value, str | list) or not key.startswith("$"):
            return {key: value}
        if (row := BY_NAME.get(key)) is not None:
            return self._tagged(row, value)
        read = _OTHERS.get(key)
        return {key: value} if read is None else read(value)

    def _tagged(self, row: TaggedType, content: object) -> object:
        if self._budget is None:
            self._budget = TagBudget()
        try:
            self._budget.spend()
            return row.read(content, self._budget)
        except ValueError as error:
            raise _InvalidJson(f"${row.name}: {error}") from None


def _read_bytes(text: str | list[object]) -> bytes:
    if not isinstance(text, str):
        raise _InvalidJson("$bytes is not Base64")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _InvalidJson(f"$bytes is not Base64: {error}") from None


def _read_not_finite(text: str | list[object]) -> float:
    if not isinstance(text, str) or text not in ("nan", "inf", "-inf"):
        raise _InvalidJson('$float is not "nan", "inf" or "-inf": write other numbers as such')
    return float(text)


def _read_integer(text: str | list[object]) -> int:
    if not isinstance(text, str) or not _HEXADECIMAL.fullmatch(text):
        raise _InvalidJson('$int is not a hexadecimal number, such as "0x1f"')
    return int(text, 16)  # takes linear time


def _read_array(parts: str | list[object]) -> Array:
    match parts:
        case [str() | list() as dtype, list() as shape, str() as order, str() as data]:
            try:
                return Array(_read_bytes(data), dtype, shape, order)
            except ValueError as error:
                raise _InvalidJson(f"$array: {error}") from None
        case _:
            raise _InvalidJson("$array is not a data type, a shape, an order and Base64")


def _read_coded(parts: object) -> CodedValue:
    match parts:
        case [str() as name, content] if 0 < len(name) <= MAX_CODEC_NAME:
            return CodedValue(name, content)
        case _:
            raise _InvalidJson("$codec is not the name of a codec and a content")


_OTHERS: Final[dict[str, Callable[[str | list[object]], object]]] = {
    "$array": _read_array, "$bytes": _read_bytes, "$codec": _read_coded, "$float": _read_not_finite,
    "$int": _read_integer,
}  # fmt: skip
"""Functions that read the maps that no tag has, by key."""


def load_json(text: str | bytes) -> object:
    """Return the value of a JSON text.

    Raises:
        json.JSONDecodeError: the text is not JSON.
        ValueError: the text is JSON and cannot be used: a map has a key twice, a number has too many
            digits or fits no float, or ``$bytes``, ``$date`` and the like have text or a list that does
            not fit.
        RecursionError: the text is nested too deeply.
    """
    try:
        return json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_float,
            object_pairs_hook=_Reader().map,
        )
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        # From int(), whose message advises the author of this program, not the author of the text.
        raise _InvalidJson(f'{too_many_digits()}: write it as {{"$int": "0x..."}}') from None


def too_many_digits() -> str:
    """Return the reason why ``int()`` has refused a text that has the form of a whole number."""
    return f"an integer has more than {sys.get_int_max_str_digits()} digits"


def _of_other(value: object) -> object:
    if isinstance(value, bytes | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Array):
        return _array_as_json(value)
    row = tagged_type(type(value))
    if row is None:
        raise TypeError(type(value).__qualname__)
    return {f"${row.name}": row.write(value)}


def _coded_as_json(found: AnyCodec, value: object) -> object:
    """Return the form of a value with a codec. Raises ValueError."""
    try:
        name, content = found.split(value)
        if name in FRAMES:
            from ._arrow import rows_of

            return rows_of(name, content, MAX_ELEMENTS)
    except Exception as error:  # of the user's code, or of a library
        kind = value.name if isinstance(value, CodedValue) else type(value).__qualname__
        raise ValueError(f"a value of type {kind}: {summary_of(error)}") from error
    return {"$codec": [name, _with_whole_arrays(content)]}


def _with_whole_arrays(content: object) -> object:
    """Return a content in which each array has its data type: a codec must get it back as it was."""
    if isinstance(content, Array):
        return _whole_array(content)
    if type(content) is list or type(content) is tuple:
        return [_with_whole_arrays(each) for each in content]
    if type(content) is dict:
        return {key: _with_whole_arrays(each) for key, each in content.items()}
    return content


def _array_as_json(array: Array) -> object:
    is_text = array.dtype[1] == "U"
    if not is_text and not array.has_numbers:
        return _whole_array(array)
    _expect_short(array)
    try:
        return array.tolist()
    except UnicodeDecodeError:
        return _whole_array(array)


def _whole_array(array: Array) -> object:
    _expect_short(array)
    data = base64.b64encode(array.data).decode()
    return {"$array": [array.fields or array.dtype, array.shape, array.order, data]}


def _expect_short(array: Array) -> None:
    if math.prod(array.shape) > MAX_ELEMENTS:
        raise ValueError(
            f"an array of {math.prod(array.shape)} elements; at most {MAX_ELEMENTS} become JSON: "
            "ask for CBOR"
        )


MAX_ELEMENTS: Final = 1 << 20
"""Elements of the largest array that is written as JSON: lists of so many take 0.3 s to make."""

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_of_other)

_KEYS: Final = frozenset({str, bytes})
_PLAIN_TYPES: Final = CONTAINERS | {type(None), bool, int, float, str, bytes}


def dump_json(value: object) -> str:
    """Return the JSON text of a value.

    Raises:
        TypeError: a part of the value has a type that JSON cannot express.
        ValueError: two keys of a map, one bytes and one text, would become the same.
    """
    try:
        if not _would_mislead(value):
            return _ENCODER.encode(value)
    except (TypeError, ValueError):
        pass  # a key is bytes, a float is not finite, or an integer has too many digits
    return _ENCODER.encode(_as_json(value))


def _would_mislead(value: object) -> bool:
    """Return whether ``json`` would write a value as another one.

    It writes a number that is a key of a map as text, and knows no codecs.
    """
    level = [value]
    while level:
        others = set(map(type, level)) - _PLAIN_TYPES
        if any(codec_of(kind) is not None for kind in others):
            return True
        level = [each for each in level if type(each) in CONTAINERS]
        for each in level:
            if type(each) is dict and not _KEYS.issuperset(map(type, each)):
                return True
        level = gc.get_referents(*level)  # the contents of all of them, collected in C
    return False


def _as_json(value: object) -> object:
    found = codec_of(type(value))
    if found is not None:
        return _as_json(_coded_as_json(found, value))
    if isinstance(value, float) and not isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, int):
        return _integer_as_json(value)
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    if isinstance(value, dict):
        if not _KEYS.issuperset(map(type, value)):
            return {f"${MAP.name}": _as_json(MAP.write(value))}
        # A JSON key must be text: bytes become the text of their map.
        pairs = [
            (key if isinstance(key, str) else _ENCODER.encode(key), _as_json(each))
            for key, each in value.items()
        ]
        result = dict(pairs)
        if len(result) < len(pairs):
            raise ValueError("two keys of a map are the same in JSON")
        return result
    if isinstance(value, Array):
        return _as_json(_array_as_json(value))
    row = tagged_type(type(value))
    if row is not None:
        return {f"${row.name}": _as_json(row.write(value))}
    unfold = unfold_of(type(value))  # of an object that a codec has made
    return value if unfold is None else _as_json(unfold(value))


def _integer_as_json(value: int) -> object:
    try:
        str(value)
    except ValueError:
        return {"$int": hex(value)}
    return value
