"""The fields of attrs classes, dataclasses, TypedDicts and NamedTuples."""

from __future__ import annotations

import inspect
import typing
from typing import TypeGuard, final

from ._as_written import annotations_of, signature_of
from ._generics import hints_of_class

_MARKS = (typing.Required, typing.NotRequired, typing.Annotated, getattr(typing, "ReadOnly", None))
"""Marks around the type of a field; ``ReadOnly`` exists since Python 3.13."""


@final
class Structure:
    """The fields of a class, from the annotations of the class.

    Attributes:
        hints: for each argument of the constructor, its annotation; None if there is none.
        required: the arguments without a default.
        ignored: fields that are no arguments.
        attributes: for each attribute of an object, its annotation, as for ``hints``.
    """

    __slots__ = ("attributes", "hints", "ignored", "required")

    def __init__(
        self,
        hints: dict[str, object],
        required: list[str],
        ignored: frozenset[str] = frozenset(),
        attributes: dict[str, object] | None = None,
    ) -> None:
        self.hints = hints
        self.required = required
        self.ignored = ignored
        self.attributes = hints if attributes is None else attributes


def is_named_tuple(cls: type) -> TypeGuard[type[tuple[object, ...]]]:
    """Return whether a class is a NamedTuple."""
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def structure_of(cls: type, arguments: tuple[object, ...]) -> Structure | None:
    """Return the fields of a class; None for a class of another kind.

    Args:
        cls: the class.
        arguments: the types in brackets after a generic class.
    """
    if typing.is_typeddict(cls):
        return _of_typed_dict(cls, hints_of_class(cls, arguments))
    if is_named_tuple(cls):
        names: tuple[str, ...] = getattr(cls, "_fields", ())
        defaults: dict[str, object] = getattr(cls, "_field_defaults", {})
        found = hints_of_class(cls, arguments)
        hints = {name: found.get(name) for name in names}
        return Structure(hints, [name for name in names if name not in defaults])
    attributes = getattr(cls, "__attrs_attrs__", None)
    if attributes is not None:
        return _of_class(
            cls, arguments, {field.alias or field.name: field.name for field in attributes}
        )
    if hasattr(cls, "__dataclass_fields__"):
        return _of_class(cls, arguments, {name: name for name in cls.__dataclass_fields__})
    return None


def _of_typed_dict(cls: type, found: dict[str, object]) -> Structure:
    needed: frozenset[str] = getattr(cls, "__required_keys__", frozenset())
    hints = {name: found.get(name) for name in annotations_of(cls)}
    required: list[str] = []
    for name, hint in hints.items():
        # The set ignores marks in annotations that are text.
        marks = _marks_of(hint)
        if typing.Required in marks or (name in needed and typing.NotRequired not in marks):
            required.append(name)
    return Structure(hints, required)


def _marks_of(hint: object) -> list[object]:
    marks: list[object] = []
    while (origin := typing.get_origin(hint)) in _MARKS and origin is not None:
        marks.append(origin)
        hint = typing.get_args(hint)[0]
    return marks


def _of_class(cls: type, arguments: tuple[object, ...], aliases: dict[str, str]) -> Structure:
    """Return the fields of a class whose constructor takes them, by the names of its arguments."""
    found = hints_of_class(cls, arguments)
    parameters = {
        name: parameter
        for name, parameter in signature_of(cls).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    hints = {name: found.get(aliases.get(name, name)) for name in parameters}
    required = [
        name for name, each in parameters.items() if each.default is inspect.Parameter.empty
    ]
    attributes = {name: found.get(name) for name in aliases.values()}
    return Structure(hints, required, frozenset(aliases) - hints.keys(), attributes)
