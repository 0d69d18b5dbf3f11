"""Checks made from annotations, which validate a decoded value and convert it.

========================================  ====================================================
annotation                                accepted value → what the function gets
========================================  ====================================================
``str`` ``bool`` ``int`` ``None``         a value of exactly this type (a bool is not an int)
``float``                                 a float, or an int that a float holds exactly
``bytes`` ``bytearray`` ``memoryview``    bytes → as annotated
``list[T]``, ``Sequence[T]`` ...          a list, each item checked
``tuple[...]``                            a list → as annotated
``set[T]`` ``frozenset[T]`` ...           a set or a list → as annotated
``dict[K, V]``, ``Mapping[K, V]`` ...     a map, each key and value checked; text → an int key
``X | Y``, ``Optional[X]``                the first that fits, an exact type before a conversion
``Literal[...]``, enum classes            one of the values
attrs class, dataclass, ``TypedDict``     a map with its fields and no others
NamedTuple class                          a list or a map with its fields
pydantic model, msgspec struct            whatever the class accepts by its own rules
numpy scalar class                        a number in its range
``datetime`` ``date`` ``time``            such a value, or text of ISO 8601
``timedelta``                             a duration, text such as "PT1.5S", or seconds
``Decimal`` ``UUID``                      such a value, or text; an int for ``Decimal``
``complex``                               a complex or real number, or a list of two
``pathlib`` paths                         a path, or text
``spear.Array``                           an array
numpy's ``ndarray``, ``NDArray[...]``     an array, or lists of numbers → an ndarray
``Annotated[T, constraint]``              as for ``T``, and what the package's constraint allows
a class with a codec (``spear.codec``)    an instance of the class, or as without the codec
tables and data frames                    a table or data frame, or rows → as annotated
another class                             an instance of the class, which no decoded value can be:
                                          see ``spear.agent``
none, ``Any``, ``object``, an annotation  any value
that cannot be resolved
========================================  ====================================================

Checks are built at the first call of a function, and only if it has annotations. This module may
therefore import modules that the rest of the agent avoids at start-up.
"""

from __future__ import annotations

import operator
import types
import typing
from collections.abc import Callable
from typing import Final, TypeAlias

from ._arrays import array_check
from ._check import Build, Check
from ._coded import coded_check
from ._constraints import constrained
from ._containers import container_check, union_check
from ._models import model_check, numpy_scalar_check, struct_check
from ._scalars import SCALAR_CHECKS, enum_check, literal_check
from ._structures import instance_check, structure_check
from ._tagged import tagged_check

MakeCheck: TypeAlias = Callable[[type, tuple[object, ...], Build], Check | None]
"""A function that makes the checks of some classes: ``make(cls, arguments, build)`` gets the class, the
arguments in its brackets, and the function that makes the checks of these. Returns None for all other
classes."""

_MAKERS: Final[tuple[MakeCheck, ...]] = (
    container_check,
    enum_check,
    tagged_check,
    model_check,
    struct_check,
    numpy_scalar_check,
    array_check,
    structure_check,
    instance_check,  # last: it makes a check for almost every class
)

_WRAPPERS: Final = (
    typing.Annotated,
    typing.Required,
    typing.NotRequired,
    getattr(typing, "ReadOnly", typing.Annotated),  # since Python 3.13
)


def unwrapped(hint: object) -> object:
    """Return the annotation inside of a ``NewType``, a ``type`` statement, ``Annotated`` and similar."""
    while (inside := inside_of(hint)) is not hint:
        hint = inside
    return hint


def inside_of(hint: object) -> object:
    """Return the annotation one level inside of a wrapper; any other annotation as it is."""
    if isinstance(hint, typing.NewType):
        return hint.__supertype__
    if type(hint).__name__ == "TypeAliasType":  # the `type` statement of Python 3.12
        return getattr(hint, "__value__", None)
    if type(typing.get_origin(hint)).__name__ == "TypeAliasType":  # NDArray[float64] of numpy 2.5
        value = getattr(typing.get_origin(hint), "__value__", None)
        has_variables = bool(getattr(value, "__parameters__", ()))
        return operator.getitem(value, typing.get_args(hint)) if has_variables else value  # type: ignore[arg-type]  # a generic alias
    if type(hint).__name__ == "InitVar":
        return getattr(hint, "type", None)
    if typing.get_origin(hint) in _WRAPPERS:
        return typing.get_args(hint)[0]
    return hint


def build_check(hint: object) -> Check | None:
    """Return the check for an annotation; None if it allows every value."""
    while (inside := inside_of(hint)) is not hint:
        if typing.get_origin(hint) is typing.Annotated:
            return constrained(hint, build_check(inside))
        hint = inside
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is types.NoneType:
        return Check("None", types.NoneType)
    if origin in (typing.Union, types.UnionType):
        return union_check(arguments, build_check)
    if origin is typing.Literal:
        return literal_check(arguments)
    cls = origin or hint
    if not isinstance(cls, type) or cls in (typing.Any, object, type):
        return None
    if (scalar := SCALAR_CHECKS.get(cls)) is not None:
        return scalar
    found = (make(cls, arguments, build_check) for make in _MAKERS)
    return coded_check(cls, next((check for check in found if check is not None), None))
