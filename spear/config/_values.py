"""Values and types: check that a value has the type of its key, and convert it.

The schema uses these types: ``str``, ``int``, ``float``, ``bool``, ``Literal``, ``tuple[str, ...]``,
``list[str]``, ``Mapping[str, str]``, attrs classes for tables, and any of these with ``| None``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import isnan
from types import NoneType, UnionType
from typing import Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs

from spear._errors import ConfigurationError
from spear._limits import MAX_WHOLE
from spear._util import summary_of
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
    """A value does not have the type of its key.

    Attributes:
        wanted: description of the type, for people.
        got: the value, for people; empty if it must not be shown.
    """

    def __init__(self, wanted: str, got: str = "") -> None:
        super().__init__(wanted, got)
        self.wanted, self.got = wanted, got

    def fault(self, *, is_secret: bool) -> str:
        """Return the fault as the end of a sentence about the key."""
        return f"must be {self.wanted}" + (
            f", not {self.got}" if self.got and not is_secret else ""
        )


def fields(table: type) -> dict[str, object]:
    """Return the keys of a table, with their types; fields that begin with ``_`` are no keys.

    Raises:
        ConfigurationError: the table is a class of another distribution whose types cannot be resolved.
    """
    try:
        hints = get_type_hints(table)
    except Exception as error:
        raise ConfigurationError(
            f"the types of the fields of {table.__name__} cannot be resolved: {summary_of(error)}"
        ) from error
    known = [each for each in attrs.fields(table) if each.init and each.metadata.get("key", True)]
    return {each.name: hints[each.name] for each in known if not each.name.startswith("_")}


def secrets_of(table: type) -> frozenset[str]:
    """Return the keys of a table whose values must not be shown."""
    return frozenset(each.name for each in attrs.fields(table) if each.metadata.get("secret"))


def _without_none(kind: object) -> object:
    """Return the type without ``| None``: ``str`` for ``str | None``."""
    if get_origin(kind) in (Union, UnionType):
        inner = [each for each in get_args(kind) if each is not NoneType]
        return inner[0] if len(inner) == 1 else kind
    return kind


def _is_list(kind: object) -> bool:
    return (get_origin(kind), get_args(kind)) in ((tuple, (str, ...)), (list, (str,)))


def is_texts(kind: object) -> bool:
    """Return whether a key is a table of strings with names chosen by the user, as ``environment``."""
    return get_origin(kind) in (Mapping, dict) and get_args(kind) == (str, str)


def _is_choice(kind: object) -> bool:
    return get_origin(kind) is Literal and all(isinstance(each, str) for each in get_args(kind))


def table_in(kind: object) -> type | None:
    """Return the attrs class in a type, which makes the key a table; None if there is none."""
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and attrs.has(each):
            return each
    return None


def parse_text(kind: object, text: str) -> object:
    """Parse a value that comes without TOML's quotes: from the environment, or from a flag.

    If the key is a string, the text is the value. Otherwise it is parsed as TOML. If it is not TOML, it
    is split at commas for a list of strings, or else returned as it is, for :func:`read_value` to refuse.
    """
    kind = _without_none(kind)
    if kind is str or _is_choice(kind):
        return text
    try:
        return load_toml(f"value = {text}")["value"]
    except ValueError:  # not TOML, or a number that Python cannot represent
        pass
    if _is_list(kind):
        return [each.strip() for each in text.split(",") if each.strip()]
    return text


def read_value(kind: object, value: object, path: KeyPath, faults: Faults) -> object:
    """Check and convert the value of a key.

    The faults of a table's own keys are added to ``faults``, and those keys keep their defaults.

    Raises:
        Unusable: the value does not have this type.
    """
    kind = _without_none(kind)
    if _is_choice(kind):
        if value not in get_args(kind):
            raise Unusable(f"one of {', '.join(get_args(kind))}", _show(value))
        return value
    if _is_list(kind):
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise Unusable("a list of texts", _show(value))
        return value if get_origin(kind) is list else tuple(value)
    if is_texts(kind):
        return _read_texts(value)
    if kind is Scale and isinstance(value, int | str):
        value = _read_scale(value)
    if isinstance(kind, type) and attrs.has(kind):
        if not isinstance(value, Mapping):
            raise Unusable("a table", _show(value))
        try:
            return read_table(kind, value, path, faults)
        except Exception as error:  # the class may belong to another distribution
            raise Unusable(f"valid settings for {kind.__name__}: {summary_of(error)}") from error
    return _read_plain(kind, value)


def _read_plain(kind: object, value: object) -> object:
    if not isinstance(kind, type) or kind not in _KINDS:  # a type in another distribution's class
        raise Unusable(of_no_type(kind))
    if kind is float and type(value) is int and abs(value) <= MAX_WHOLE:
        return float(value)
    if type(value) is not kind or (isinstance(value, float) and isnan(value)):
        raise Unusable(_KINDS[kind], _show(value))
    return value


def of_no_type(kind: object) -> str:
    """Return the fault of a key whose type cannot be written in a configuration."""
    shown = kind.__name__ if isinstance(kind, type) and not get_args(kind) else kind
    return f"of the type {shown}, which a configuration cannot express"


def can_be_said(kind: object) -> bool:
    """Return whether a value of this type can be written in a configuration."""
    kind = _without_none(kind)
    if isinstance(kind, type) and (kind in _KINDS or attrs.has(kind)):
        return True
    return _is_choice(kind) or _is_list(kind) or is_texts(kind)


def _read_texts(value: object) -> object:
    if not isinstance(value, Mapping):
        raise Unusable("a table of texts")
    wrong = [name for name, each in value.items() if not isinstance(each, str)]
    if wrong:  # the value itself may be a secret
        raise Unusable(f"a table of texts, but {wrong[0]} is not in quotes")
    return dict(value)


def _read_scale(value: int | str) -> object:
    if isinstance(value, str):
        found = _RANGE.fullmatch(value.strip())
        if not found:
            raise Unusable('a number, "MIN-MAX" or a table', _show(value))
        return {"min": int(found[1]), "max": int(found[2])}
    if type(value) is bool:
        raise Unusable('a number, "MIN-MAX" or a table', _show(value))
    return {"min": value, "max": value}


def _show(value: object) -> str:
    if isinstance(value, Mapping):
        return "a table"
    shown = show_toml_value(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def read_table(table: type[T], said: Mapping[str, object], path: KeyPath, faults: Faults) -> T:
    """Build an object of a table's class; unusable values become faults and keep their defaults."""
    return build(table, read_keys(table, said, path, faults), path, faults)


def read_keys(
    table: type, said: Mapping[str, object], path: KeyPath, faults: Faults
) -> dict[str, object]:
    """Return the valid values of a table; unknown keys and invalid values become faults."""
    known = fields(table)
    faults.expect_known(path, said, known, _keys_below(known))
    return read_values(known, secrets_of(table), said, path, faults)


def read_values(
    kinds: Mapping[str, object],
    secrets: Collection[str],
    said: Mapping[str, object],
    path: KeyPath,
    faults: Faults,
) -> dict[str, object]:
    """Return the valid values of the keys in ``kinds``; invalid values become faults."""
    values: dict[str, object] = {}
    for name, kind in kinds.items():
        if name in said:
            try:
                values[name] = read_value(kind, said[name], (*path, name), faults)
            except Unusable as error:
                faults.add((*path, name), error.fault(is_secret=name in secrets))
    return values


def _keys_below(known: Mapping[str, object]) -> dict[str, str]:
    """Return where the keys of inner tables belong: ``wire.max_calls`` for ``max_calls``."""
    inner = ((name, table_in(kind)) for name, kind in known.items())
    return {key: f"{name}.{key}" for name, table in inner if table for key in fields(table)}


def build(make: type[T], values: Mapping[str, object], path: KeyPath, faults: Faults) -> T:
    """Return ``make(**values)``, without the values that ``make`` refuses; add those to ``faults``.

    ``make`` must raise ConfigurationError for one value at a time, with the value's name as the error's
    ``key``. ``make()``, called without arguments, must not raise.
    """
    left = dict(values)
    while left:
        try:
            return make(**left)
        except ConfigurationError as error:
            # ``key`` may be a path that begins in another class, as in `replicas.min`.
            wrong = next((each for each in reversed(error.key.split(".")) if each in left), None)
            faults.add(path if wrong is None else (*path, wrong), error.summary)
            left = {} if wrong is None else {key: left[key] for key in left if key != wrong}
    return make()
