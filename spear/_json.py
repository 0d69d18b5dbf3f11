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
from math import isfinite
from typing import Final, NoReturn

_HEXADECIMAL: Final = re.compile(r"-?0x[0-9a-fA-F]+")


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is no JSON", name, 0)  # though Python takes it


def _map(pairs: list[tuple[str, object]]) -> object:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key stands there twice")
    if len(result) == 1:
        return _from_json(*pairs[0])
    return result


def _from_json(key: str, value: object) -> object:
    """A map with one key, or what :func:`dump_json` writes as such a map."""
    if isinstance(value, str):
        if key == "$bytes":
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
        ValueError: it is, and cannot be used: a key that stands there twice, too many digits.
        RecursionError: it is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_map)
    except ValueError as error:
        reason, _, advice = str(error).partition("; use sys.set_int_max_str_digits")
        if not advice:
            raise
        # Python's advice is for who writes this program, not for who writes the text.
        raise ValueError(f'{reason}: write it as {{"$int": "0x..."}}') from None


def _of_bytes(value: object) -> object:
    if isinstance(value, bytes | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(type(value).__qualname__)


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_of_bytes)


def dump_json(value: object) -> str:
    """The text of a value."""
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
        return {
            key if isinstance(key, str) else _ENCODER.encode(key): _as_json(each)
            for key, each in value.items()
        }
    return value


def _integer_as_json(value: int) -> object:
    try:
        str(value)
    except ValueError:
        return {"$int": hex(value)}
    return value
