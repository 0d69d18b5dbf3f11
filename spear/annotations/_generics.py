"""The annotations of a class, with type variables replaced by the types in brackets: ``Page[Order]``."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from contextlib import suppress
from typing import TypeAlias

from ._as_written import annotations_of
from ._hints import resolve_hints

Types: TypeAlias = Mapping[object, object]
"""The types that replace type variables."""

_NO_CLASSES = (typing.Generic, typing.Protocol)


def hints_of_class(cls: type, arguments: tuple[object, ...]) -> dict[str, object]:
    """Return the resolved annotations of a class and its bases; variables without a type stay.

    Args:
        cls: the class.
        arguments: the types in brackets after the class; may be empty.
    """
    hints = resolve_hints(cls)
    if not hasattr(cls, "__orig_bases__"):
        return hints
    types = _types_by_name(cls, arguments)
    return {name: _replace(hint, types.get(name, {})) for name, hint in hints.items()}


def _types_by_name(cls: type, arguments: tuple[object, ...]) -> dict[str, Types]:
    """Return for each annotation the types of its variables, which are those of the class that has it."""
    own = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
    found: dict[str, Types] = {}
    inherited: dict[str, object] = {}
    for base in reversed(cls.__dict__.get("__orig_bases__", cls.__bases__)):
        origin = typing.get_origin(base) or base
        if isinstance(origin, type) and origin not in _NO_CLASSES:
            given = tuple(_replace(each, own) for each in typing.get_args(base))
            found.update(_types_by_name(origin, given))
            inherited.update(annotations_of(origin))
    is_typed_dict = typing.is_typeddict(cls)  # has the annotations of its bases, too
    for name, annotation in annotations_of(cls).items():
        if not (is_typed_dict and name in inherited and inherited[name] == annotation):
            found[name] = own
    return found


def _replace(hint: object, types: Types) -> object:
    if isinstance(hint, typing.TypeVar):
        return types.get(hint, hint)
    variables = () if isinstance(hint, type) else getattr(hint, "__parameters__", ())
    if types and variables:
        with suppress(Exception):  # such as a variable for several types
            given = tuple(types.get(each, each) for each in variables)
            replaced: object = hint[given]  # type: ignore[index]  # it has variables
            return replaced
    return hint
