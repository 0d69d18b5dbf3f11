"""Values and types: whether what somebody wrote is what a key is for, and what it then is.

Types are those of the schema: texts, numbers, truths, choices, lists and maps of texts, and tables, each
of which is a class of attrs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isnan
from types import NoneType, UnionType
from typing import Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs

from spear._errors import ConfigurationError
from spear._limits import MAX_WHOLE
from spear.spearlet import Scale

from ._faults import Faults, KeyPath
from ._toml import load_toml, show_toml_value

T = TypeVar("T")

_RANGE: Final = re.compile(r"(\d{1,9})\s*-\s*(\d{1,9})")

_KINDS: Final[dict[object, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text, in quotes",
}


class Unusable(Exception):
    """A value is not of the type that is wanted; what is, is the message."""


def fields(table: type) -> dict[str, object]:
    """The keys of a table of the schema, and the type of each."""
    hints = get_type_hints(table)
    known = [each for each in attrs.fields(table) if each.init and each.metadata.get("key", True)]
    return {each.name: hints[each.name] for each in known}


def table_in(kind: object) -> type | None:
    """The class of the table that a key may have, if it may have one."""
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and attrs.has(each):
            return each
    return None


def parse_text(kind: object, text: str) -> object:
    """What a text means that comes without TOML's quotes: from the environment, or a flag.

    Where text is wanted it is text. Else it is what TOML says, or, for a list of texts, texts between
    commas; if it is none of that, it stays as it is, for others to refuse.
    """
    if kind in (str, str | None) or get_origin(kind) is Literal:
        return text
    try:
        return load_toml(f"value = {text}")["value"]
    except ValueError:  # also if it is TOML, with a number that cannot be used
        pass
    if get_origin(kind) is tuple:
        return [each.strip() for each in text.split(",") if each.strip()]
    return text


def read_value(kind: object, value: object, path: KeyPath, faults: Faults) -> object:
    """What a key's value is.

    Tables tell their faults themselves, and leave out what cannot be used.

    Raises:
        Unusable: it is not of this type.
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        inner = [each for each in get_args(kind) if each is not NoneType]
        return read_value(inner[0], value, path, faults)
    if origin is Literal:
        if value not in get_args(kind):
            raise Unusable(f"one of {', '.join(get_args(kind))}, not {_show(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise Unusable(f"a list of texts, not {_show(value)}")
        return tuple(value)
    if origin is not None:
        return _read_texts(value)
    if kind is Scale and isinstance(value, int | str):
        value = _read_scale(value)
    if isinstance(kind, type) and attrs.has(kind):
        if not isinstance(value, Mapping):
            raise Unusable(f"a table, not {_show(value)}")
        return read_table(kind, value, path, faults)
    return _read_plain(kind, value)


def _read_plain(kind: object, value: object) -> object:
    if kind not in _KINDS:  # of a class of another distribution
        raise Unusable(f"a {getattr(kind, '__name__', kind)}, which no configuration can say")
    if kind is float and type(value) is int and abs(value) <= MAX_WHOLE:
        return float(value)
    if type(value) is not kind or (isinstance(value, float) and isnan(value)):
        raise Unusable(f"{_KINDS[kind]}, not {_show(value)}")
    return value


def _read_texts(value: object) -> object:
    if not isinstance(value, Mapping):
        raise Unusable("a table of texts")
    wrong = [name for name, each in value.items() if not isinstance(each, str)]
    if wrong:  # the value itself may be a secret
        raise Unusable(f"a table of texts, in quotes, and {wrong[0]} is none")
    return dict(value)


def _read_scale(value: int | str) -> object:
    if isinstance(value, str):
        found = _RANGE.fullmatch(value.strip())
        if not found:
            raise Unusable(f'a number, "MIN-MAX" or a table, not {_show(value)}')
        return {"min": int(found[1]), "max": int(found[2])}
    if type(value) is bool:
        raise Unusable(f'a number, "MIN-MAX" or a table, not {_show(value)}')
    return {"min": value, "max": value}


def _show(value: object) -> str:
    if isinstance(value, Mapping):
        return "a table"
    shown = show_toml_value(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def read_table(table: type[T], said: Mapping[str, object], path: KeyPath, faults: Faults) -> T:
    """A table as an object of its class; what cannot be used is told, and left at its default."""
    return build(table, read_keys(table, said, path, faults), path, faults)


def read_keys(
    table: type, said: Mapping[str, object], path: KeyPath, faults: Faults
) -> dict[str, object]:
    """The values that a table says, as far as they can be used."""
    known = fields(table)
    faults.expect_known(path, said, known, _keys_below(known))
    values: dict[str, object] = {}
    for name, kind in known.items():
        if name in said:
            try:
                values[name] = read_value(kind, said[name], (*path, name), faults)
            except Unusable as error:
                faults.add((*path, name), f"must be {error}")
    return values


def _keys_below(known: Mapping[str, object]) -> dict[str, str]:
    """Return where a key belongs that stands in an inner table: ``max_calls``, ``wire.max_calls``."""
    inner = ((name, table_in(kind)) for name, kind in known.items())
    return {key: f"{name}.{key}" for name, table in inner if table for key in fields(table)}


def build(make: type[T], values: Mapping[str, object], path: KeyPath, faults: Faults) -> T:
    """What ``make`` makes of values; those that it refuses are told, and left at their defaults.

    ``make`` raises ConfigurationError for one value at a time, whose ``key`` names the value. Without
    any values ``make`` raises nothing.
    """
    left = dict(values)
    while left:
        try:
            return make(**left)
        except ConfigurationError as error:
            # A class may name its place in another one, too, as in `replicas.min`.
            wrong = next((each for each in reversed(error.key.split(".")) if each in left), None)
            faults.add(path if wrong is None else (*path, wrong), error.summary)
            left = {} if wrong is None else {key: left[key] for key in left if key != wrong}
    return make()
