"""Values as JSON, and what JSON has no word for as a map with one key. A leaf.

Bytes are ``{"$bytes": base64}``, what is no number is ``{"$float": "nan"}``, an integer of more digits
than Python reads or writes (4300: decimals take time by the square of their length) is
``{"$int": "0x1f"}``. All are understood on the way in, too. Results have what CBOR can say, and JSON says
less; the command line and the gateway write the rest in the same way.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from math import inf, isfinite
from typing import Final, NoReturn


class _Unusable(ValueError):
    """A text is JSON, and cannot be used."""


_HEXADECIMAL: Final = re.compile(r"-?0x[0-9a-fA-F]+")


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is no JSON", name, 0)  # though Python takes it


_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INFINITIES: Final = ("inf", "infinity")


def read_float(text: str, *, may_be_infinite: bool = False) -> float:
    """Return the number that a text says.

    Args:
        text: digits; not what else ``float()`` takes, such as "nan", "1_0" or digits of other scripts.
        may_be_infinite: whether "inf" is taken, too.

    Raises:
        ValueError: it says none, or one so large or so small that ``float()`` makes it inf or zero.
    """
    if may_be_infinite and text.lower() in _INFINITIES:
        return inf
    if not _NUMBER.fullmatch(text):
        raise _Unusable(f"{text[:20]!r} is not a number")
    number = float(text)
    if number in (0.0, inf, -inf):
        digits = text.lower().partition("e")[0]
        if number or digits.strip("+-0."):
            raise _Unusable(f"{text[:20]} is a number that no float holds")
    return number


def _float(text: str) -> float:
    """A number in JSON, which is one."""
    number = float(text)
    if number and -inf < number < inf:  # half the time of looking at the text
        return number
    return read_float(text)


def _map(pairs: list[tuple[str, object]]) -> object:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise _Unusable("a key stands there twice")
    if len(result) == 1:
        return _from_json(*pairs[0])
    return result


def _from_json(key: str, value: object) -> object:
    """A map with one key, or what :func:`dump_json` writes as such a map."""
    if isinstance(value, str):
        if key == "$bytes":
            if not value.isascii():
                raise _Unusable("$bytes is not Base64")
            return base64.b64decode(value, validate=True)  # binascii.Error is a ValueError
        if key == "$float" and value in ("nan", "inf", "-inf"):
            return float(value)
        if key == "$int" and _HEXADECIMAL.fullmatch(value):
            return int(value, 16)  # in no more time than it takes to read it
    return {key: value}


def load_json(text: str | bytes) -> object:
    """What a text says.

    Raises:
        json.JSONDecodeError: it is not JSON.
        ValueError: it is, and cannot be used: a key that stands there twice, too many digits, a number
            that no float holds.
        RecursionError: it is nested too deeply.
    """
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_float, object_pairs_hook=_map
        )
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        # Of int(): its own advice is for the author of this program, not for the author of the text.
        raise _Unusable(f'{too_many_digits()}: write it as {{"$int": "0x..."}}') from None


def too_many_digits() -> str:
    """Return why ``int()`` has refused a text whose form is that of a whole number."""
    return f"an integer has more than {sys.get_int_max_str_digits()} digits"


def _of_bytes(value: object) -> object:
    if isinstance(value, bytes | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(type(value).__qualname__)


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_of_bytes)


def dump_json(value: object) -> str:
    """Return the text of a value.

    Raises:
        TypeError: there is no JSON for something in it.
        ValueError: two keys of a map, bytes and text, would be the same.
    """
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError):
        # A key that is bytes; what is no number; an integer of too many digits.
        return _ENCODER.encode(_as_json(value))


def _as_json(value: object) -> object:
    if isinstance(value, float) and not isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, int):
        return _integer_as_json(value)
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    if isinstance(value, dict):
        # A key cannot be a map: bytes become the text of one.
        pairs = [
            (key if isinstance(key, str) else _ENCODER.encode(key), _as_json(each))
            for key, each in value.items()
        ]
        result = dict(pairs)
        if len(result) < len(pairs):
            raise ValueError("two keys of a map are the same in JSON")
        return result
    return value


def _integer_as_json(value: int) -> object:
    try:
        str(value)
    except ValueError:
        return {"$int": hex(value)}
    return value
