"""Values as JSON, bytes as ``{"$bytes": base64}``, what is no number as ``{"$float": "nan"}``. A leaf.

Both are understood on the way in, too. Results have what CBOR can say, and JSON says less; the command
line and the gateway write the rest in the same way.
"""

from __future__ import annotations

import base64
import json
from math import isfinite
from typing import Final, NoReturn


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
    return {key: value}


def load_json(text: str | bytes) -> object:
    """What a text says.

    Raises:
        json.JSONDecodeError: it is not JSON.
        ValueError: it is, and cannot be used: a key that stands there twice, an integer that is too long.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_map)


def _of_bytes(value: object) -> object:
    if isinstance(value, bytes | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(type(value).__qualname__)


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_of_bytes)


def dump_json(value: object) -> str:
    """The text of a value.

    Raises:
        ValueError: an integer in it is longer than Python prints.
    """
    try:
        return _ENCODER.encode(value)
    except (
        TypeError,
        ValueError,
    ):  # a key that is bytes; what is no number; an integer that is too long
        return _ENCODER.encode(_as_json(value))


def _as_json(value: object) -> object:
    if isinstance(value, float) and not isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    if isinstance(value, dict):
        # A key cannot be a map: bytes become the text of one.
        return {
            key if isinstance(key, str) else _ENCODER.encode(key): _as_json(each)
            for key, each in value.items()
        }
    return value
