"""The sendable form of objects, by their classes: data classes, enums, numpy scalars.

A leaf module. Data classes are those of attrs, dataclasses, pydantic and msgspec. An object is unfolded
by one level: its fields may be objects of such classes again. Spear never imports pydantic, msgspec or
numpy: their classes are recognized by the names of their bases.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Final, TypeAlias, final

from ._tagged import names_of

Unfold: TypeAlias = Callable[[object], object]
"""A function that returns the sendable form of an object, unfolded by one level."""


@final
class Fields:
    """A function that unfolds the objects of a class into a map of their fields.

    Attributes:
        pairs: for each field, the key in the map and the name of the object's attribute. The key is the
            name that the constructor takes.
    """

    __slots__ = ("pairs",)

    def __init__(self, pairs: tuple[tuple[str, str], ...]) -> None:
        self.pairs = pairs

    def __call__(self, value: object) -> object:
        """Return the map of an object's fields."""
        return {key: getattr(value, attribute) for key, attribute in self.pairs}


MAX_KNOWN: Final = 1000
"""Classes that are remembered; a program may make classes without end."""

_known: Final[dict[type, Unfold | None]] = {}


def unfold_of(cls: type) -> Unfold | None:
    """Return the function that unfolds the objects of a class; None if the class has no such form."""
    if cls in _known:
        return _known[cls]
    found = _find(cls)
    if len(_known) < MAX_KNOWN:
        _known[cls] = found
    return found


def _find(cls: type) -> Unfold | None:
    if Enum in cls.__mro__:
        return _value
    fields = getattr(cls, "__attrs_attrs__", None)
    if fields is not None:
        return Fields(tuple((field.alias or field.name, field.name) for field in fields))
    if hasattr(cls, "__dataclass_fields__"):
        from dataclasses import fields as fields_of

        return Fields(tuple((field.name, field.name) for field in fields_of(cls)))
    for name in names_of(cls):
        if name in _BY_BASE:
            return _BY_BASE[name](cls)
    return None


def _value(member: object) -> object:
    value: object = member.value  # type: ignore[attr-defined]  # of enums only
    return value


def _of_model(cls: type) -> Unfold:
    """Return the function for a pydantic model, whose own settings and serializers are used."""

    def dump(value: object) -> object:
        # For a round trip, because computed fields are no arguments of the model.
        return value.model_dump(round_trip=True, warnings=False)  # type: ignore[attr-defined]  # a model

    return dump


def _of_struct(cls: type) -> Unfold:
    """Return the function for a msgspec struct: a map, or a list if the struct is ``array_like``."""
    names: tuple[str, ...] = getattr(cls, "__struct_fields__", ())
    keys: tuple[str, ...] = getattr(cls, "__struct_encode_fields__", ())
    config: object = getattr(cls, "__struct_config__", None)
    tag, tag_field = getattr(config, "tag", None), getattr(config, "tag_field", None)
    if getattr(config, "array_like", False):
        first = [] if tag is None else [tag]
        return lambda value: [*first, *(getattr(value, name) for name in names)]
    head = {} if tag is None else {tag_field: tag}

    def unfold(value: object) -> object:
        fields = ((key, getattr(value, name)) for key, name in zip(keys, names, strict=True))
        return head | {key: item for key, item in fields if type(item).__name__ != "UnsetType"}

    return unfold


def _of_numpy_scalar(cls: type) -> Unfold | None:
    """Return the function for a class of numpy's scalars, if Python has an exact equal of each value."""
    with suppress(Exception):  # some classes have no zero
        if type(_item(cls())) in (bool, int, float, complex, str, bytes):
            return _item
    return None


def _item(value: object) -> object:
    item: object = value.item()  # type: ignore[attr-defined]  # of numpy's scalars only
    return item


def _refused(cls: type) -> None:
    return None


_BY_BASE: Final[dict[str, Callable[[type], Unfold | None]]] = {
    "pydantic.BaseModel": _of_model,
    "pydantic._BaseUrl": lambda _: str,
    "pydantic._BaseMultiHostUrl": lambda _: str,
    "pydantic_core.Url": lambda _: str,
    "pydantic_core.MultiHostUrl": lambda _: str,
    "msgspec.Struct": _of_struct,
    "numpy.datetime64": _refused,  # an int of unstated units, for some units
    "numpy.timedelta64": _refused,  # likewise
    "numpy.generic": _of_numpy_scalar,
}
"""Functions that return the :data:`Unfold` of a class, by the name of the class or of a base."""
