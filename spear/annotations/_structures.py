"""Checks of classes: structures made from maps, and classes whose instances cannot be sent."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Final
from uuid import UUID

from spear._util import did_you_mean, text_of

from ._check import Build, Check, first_impossible, named_class
from ._fields import is_named_tuple, structure_of
from ._mismatch import Mismatch

_structures: Final[dict[object, Check]] = {}
_unhashable: Final[dict[int, object]] = {}  # kept, so that their ids stay theirs


def structure_check(cls: type, arguments: tuple[object, ...], build: Build) -> Check | None:
    """Return the check for an attrs class, dataclass, TypedDict or NamedTuple; None for another class.

    The check passes a map to the constructor of the class as keyword arguments, and a list to that of a
    NamedTuple.
    """
    key = key_of(cls, arguments)
    if key in _structures:
        return _structures[key]
    structure = structure_of(cls, arguments)
    if structure is None:
        return None
    # A class may contain itself.
    name = named_class(cls, arguments)
    is_tuple = is_named_tuple(cls)
    check = _structures[key] = Check(f"{'a list' if is_tuple else 'a map'} ({name})")
    try:
        fields = {name: build(hint) for name, hint in structure.hints.items()}
    except BaseException:
        del _structures[key]
        raise
    required, ignored = structure.required, structure.ignored

    def convert(value: object) -> object:
        if is_tuple and (type(value) is list or type(value) is tuple):
            if len(value) > len(fields):
                raise Mismatch(f"{cls.__name__} has {len(fields)} fields, not {len(value)}")
            value = dict(zip(fields, value, strict=False))
        if type(value) is not dict:
            raise check.mismatch(value)
        given = {}
        for name, item in value.items():
            if name in fields:
                inner = fields[name]
                given[name] = item if inner is None else inner.at(item, f".{name}")
            elif name not in ignored:
                raise unknown_field(cls, name, fields)
        for name in required:
            if name not in given:
                raise missing_field(cls, name)
        try:
            return cls(**given)
        except Exception as error:
            raise Mismatch(f"not a valid {cls.__name__}: {text_of(error)}") from error

    check.impossible = first_impossible(fields[name] for name in required)
    check.complete(convert)
    return check


def key_of(cls: type, arguments: tuple[object, ...]) -> object:
    """Return a key for the check of a class with the types in its brackets."""
    key: list[object] = [cls]
    for each in arguments:
        try:
            hash(each)
        except TypeError:  # such as Annotated[int, []]
            _unhashable[id(each)] = each
            each = id(each)
        key.append(each)
    return tuple(key)


def unknown_field(cls: type, name: object, fields: dict[str, Check | None]) -> Mismatch:
    """Return the error for a map with a key that is no field."""
    hint = did_you_mean(str(name), fields)
    return Mismatch(f"{cls.__name__} has no field {name!r}{hint}").inside(f".{name}")


def missing_field(cls: type, name: str) -> Mismatch:
    """Return the error for a map without a field."""
    return Mismatch(f"{cls.__name__} requires the field {name!r}")


_SAMPLES: Final[tuple[object, ...]] = (
    None, True, 0, 0.0, "", b"", [], {}, set(), frozenset(), (), 0j, Decimal(0), UUID(int=0), PurePath(),
    datetime(1, 1, 1), date(1, 1, 1), time(), timedelta(),
)  # fmt: skip
"""Values of all types that a decoder makes."""


def instance_check(cls: type, arguments: tuple[object, ...], build: Build) -> Check | None:
    """Return the check for instances of a class; None if it allows all values or cannot be checked."""
    try:
        isinstance(None, cls)
    except TypeError:  # such as a protocol that does not support isinstance()
        return None
    check = Check(cls.__name__)
    if not any(isinstance(each, cls) for each in _SAMPLES):
        check.impossible = cls

    def convert(value: object) -> object:
        if not isinstance(value, cls):
            raise check.mismatch(value)
        return value

    check.complete(convert)
    return check
