"""Checks of classes: structures made from maps, and classes whose instances cannot be sent."""

from __future__ import annotations

import inspect
import typing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Final
from uuid import UUID

from spear._util import did_you_mean, text_of

from ._as_written import signature_of
from ._check import Build, Check, first_impossible
from ._hints import resolve_hints
from ._mismatch import Mismatch

_structures: Final[dict[type, Check]] = {}


def structure_check(cls: type, arguments: tuple[object, ...], build: Build) -> Check | None:
    """Return the check for an attrs class, a dataclass or a TypedDict; None for another class.

    The check passes a map to the constructor of the class as keyword arguments.
    """
    if not (
        hasattr(cls, "__attrs_attrs__")
        or hasattr(cls, "__dataclass_fields__")
        or typing.is_typeddict(cls)
    ):
        return None
    known = _structures.get(cls)
    if known is not None:
        return known
    check = _structures[cls] = Check(f"a map ({cls.__name__})")  # a class may contain itself
    try:
        fields, required, ignored = _fields_of(cls, build)
    except BaseException:
        del _structures[cls]
        raise

    def convert(value: object) -> object:
        if type(value) is not dict:
            raise check.mismatch(value)
        arguments = {}
        for name, item in value.items():
            if name in fields:
                inner = fields[name]
                arguments[name] = item if inner is None else inner.at(item, f".{name}")
            elif name not in ignored:
                hint = did_you_mean(str(name), fields)
                unknown = Mismatch(f"{cls.__name__} has no field {name!r}{hint}")
                raise unknown.inside(f".{name}")
        for name in required:
            if name not in arguments:
                raise Mismatch(f"{cls.__name__} requires the field {name!r}")
        try:
            return cls(**arguments)
        except Exception as error:
            raise Mismatch(f"not a valid {cls.__name__}: {text_of(error)}") from error

    check.impossible = first_impossible(fields[name] for name in required)
    check.complete(convert)
    return check


def _fields_of(
    cls: type, build: Build
) -> tuple[dict[str, Check | None], list[str], frozenset[str]]:
    """Return (arguments of the constructor, names of required ones, fields that are no arguments)."""
    hints = resolve_hints(cls)
    if typing.is_typeddict(cls):
        needed: frozenset[str] = getattr(cls, "__required_keys__", frozenset())
        fields = {name: build(hint) for name, hint in hints.items()}
        # The set ignores NotRequired in annotations that are text.
        optional = {n for n, hint in hints.items() if typing.get_origin(hint) is typing.NotRequired}
        return fields, [name for name in fields if name in needed - optional], frozenset()
    attributes = getattr(cls, "__attrs_attrs__", None)
    if attributes is not None:
        aliases = {field.alias or field.name: field.name for field in attributes}
    else:
        aliases = {name: name for name in getattr(cls, "__dataclass_fields__", ())}
    parameters = signature_of(cls).parameters
    fields = {
        name: build(hints.get(aliases.get(name, name)))
        for name, parameter in parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    required = [name for name in fields if parameters[name].default is inspect.Parameter.empty]
    return fields, required, frozenset(aliases) - fields.keys()


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
