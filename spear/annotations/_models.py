"""Checks of pydantic models, msgspec structs and numpy scalars, made by these packages themselves.

Spear never imports the packages: a program with such an annotation has imported them.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from spear._arrays import Array, as_numpy
from spear._tagged import names_of
from spear._util import text_of

from ._check import Build, Check, named_class
from ._mismatch import Mismatch


def model_check(cls: type, arguments: tuple[object, ...], build: Build) -> Check | None:
    """Return the check for a pydantic model, which validates by its own settings; None for others."""
    if "pydantic.BaseModel" not in names_of(cls):
        return None
    check = Check(f"a map ({cls.__name__})")
    validate = cls.model_validate  # type: ignore[attr-defined]  # a model
    options = {"by_alias": True, "by_name": True}
    if "by_name" not in inspect.signature(validate).parameters:  # pydantic before 2.11
        options = {}

    def convert(value: object) -> object:
        try:
            return validate(value, **options)
        except Exception as error:  # the model's own validators may raise any exception
            first = error
        try:
            if "numpy" in sys.modules and (made := _with_numpy(value)) is not value:
                return validate(made, **options)
        except Exception as error:  # likewise
            first = error
        raise mismatch_of_model(cls.__name__, first) from first

    check.complete(convert)
    return check


def _with_numpy(value: object) -> object:
    """Return a value with numpy's array for each ``spear.Array`` in it; the same value if it has none."""
    if type(value) is Array:
        return as_numpy(value)
    if type(value) is list:
        items = [_with_numpy(each) for each in value]
        is_same = all(one is other for one, other in zip(items, value, strict=True))
        return value if is_same else items
    if type(value) is dict:
        values = list(value.values())
        made = _with_numpy(values)
        return value if made is values else dict(zip(value, made, strict=True))  # type: ignore[call-overload]  # a list
    return value


MAX_FAULTS: Final = 5
"""Faults of one value that a message lists; it counts the others."""


def mismatch_of_model(name: str, error: Exception) -> Mismatch:
    """Return the mismatch for pydantic's ValidationError, which lists the faults with their places.

    Args:
        name: the name of the model, for the message of another exception.
        error: the exception that the validation has raised.
    """
    with suppress(Exception):
        faults = [(_place(each["loc"]), each["msg"]) for each in error.errors()]  # type: ignore[attr-defined]  # of a ValidationError only
        (path, message), *others = faults
        listed = [f"{place}: {text}" if place else text for place, text in others[: MAX_FAULTS - 1]]
        left = len(others) - len(listed)
        more = f" (and {left} more)" if left else ""
        return Mismatch(f"{'; '.join([message, *listed])}{more}").inside(path)
    return Mismatch(f"not a valid {name}: {text_of(error)}")


def _place(steps: Iterable[object]) -> str:
    """Return the place of a fault, such as ``.items[2].sku``."""
    return "".join(
        f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r}]"
        for step in steps
    )


def struct_check(cls: type, arguments: tuple[object, ...], build: Build) -> Check | None:
    """Return the check for a msgspec struct, made by ``msgspec.convert``; None for another class."""
    if "msgspec.Struct" not in names_of(cls):
        return None
    msgspec = sys.modules["msgspec"]
    hint = cls[arguments] if arguments else cls  # type: ignore[index]  # a generic class
    check = Check(f"a map ({named_class(cls, arguments)})")

    def convert_other(kind: object, value: object) -> object:
        """Convert a part of a type that msgspec does not know."""
        inner = build(kind)
        try:
            return value if inner is None else inner(value)
        except Mismatch as mismatch:
            where = f"{mismatch.path}: " if mismatch.path else ""
            raise ValueError(f"{where}{mismatch}") from None

    def convert(value: object) -> object:
        try:
            return msgspec.convert(value, hint, str_keys=True, dec_hook=convert_other)
        except msgspec.ValidationError as error:
            raise mismatch_of_struct(error) from error
        except Exception as error:  # from the struct's own code
            raise Mismatch(f"not a valid {cls.__name__}: {text_of(error)}") from error

    check.complete(convert)
    return check


def mismatch_of_struct(error: Exception) -> Mismatch:
    """Return the mismatch for msgspec's ValidationError, whose text alone has the place of the fault.

    The text is like "Expected `int`, got `str` - at `$.items[0]`".
    """
    message, _, path = text_of(error).partition(" - at `$")
    return Mismatch(message).inside(path.rstrip("`"))


_NUMPY_KINDS = {
    "b": (bool,),
    "i": (int,),
    "u": (int,),
    "f": (float, int),
    "c": (complex, float, int),
}
"""Types that a scalar of numpy is made from, by the kind of its dtype."""


def numpy_scalar_check(cls: type, arguments: tuple[object, ...], build: Build) -> Check | None:
    """Return the check for a class of numpy's numbers; None for another class."""
    if "numpy.generic" not in names_of(cls):
        return None
    try:
        numpy = sys.modules["numpy"]
        sources = _NUMPY_KINDS[cls().dtype.kind]
    except Exception:  # no number, or a class that stands for several, such as numpy.floating
        return None
    check = Check(f"{sources[0].__name__} ({cls.__name__})")

    def convert(value: object) -> object:
        if type(value) not in sources:
            raise check.mismatch(value)
        with suppress(OverflowError), numpy.errstate(all="ignore"):
            number = cls(value)
            # A float may be rounded; nothing may become infinite, or another whole number.
            is_exact = number.item() == value or value != value  # NaN
            if is_exact or (type(value) is not int and bool(numpy.isfinite(number))):
                return number
        raise Mismatch(f"{value!r:.40} does not fit {cls.__name__}")

    check.complete(convert)
    return check
