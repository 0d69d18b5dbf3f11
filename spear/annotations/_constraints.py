"""Checks of constraints in ``Annotated[...]``: those of pydantic, annotated-types and msgspec.

Spear converts the value by its own rules first, and the package then checks the converted value. Spear
ignores any other metadata. Spear never imports the packages.
"""

from __future__ import annotations

import sys
from typing import Final

from ._check import Check, Convert, shown
from ._mismatch import Mismatch
from ._models import mismatch_of_model, mismatch_of_struct

_OF_PYDANTIC: Final = ("pydantic", "annotated_types")


def constrained(hint: object, base: Check | None) -> Check | None:
    """Return the check of an ``Annotated[...]`` with its constraints; ``base`` if it has none.

    Args:
        hint: the annotation.
        base: the check of the annotation without its metadata.
    """
    checks, unchecked = constraints_of(hint)
    if not checks and unchecked is None:
        return base
    check = Check(base.text if base else "Any", parts=[base])
    if unchecked is not None:
        check.impossible = type(unchecked)

    def convert(value: object) -> object:
        if unchecked is not None:
            raise Mismatch(f"nothing checks {shown(unchecked)}: import pydantic, or use a model")
        value = value if base is None else base(value)
        for each in checks:
            value = each(value)
        return value

    check.complete(convert)
    return check


def constraints_of(hint: object) -> tuple[list[Convert], object]:
    """Return the checks of an annotation's constraints, and a constraint that nothing checks."""
    packages = {
        type(each).__module__.partition(".")[0]: each for each in getattr(hint, "__metadata__", ())
    }
    checks: list[Convert] = []
    unchecked: object = None
    for name, metadata in packages.items():
        if name in _OF_PYDANTIC and "pydantic" not in sys.modules:
            unchecked = metadata
        elif name in _OF_PYDANTIC:
            checks.append(_by_pydantic(hint))
        elif name == "msgspec":
            checks.append(_by_msgspec(hint))
    return checks, unchecked


def _by_pydantic(hint: object) -> Convert:
    pydantic = sys.modules["pydantic"]
    try:
        adapter = pydantic.TypeAdapter(hint, config={"arbitrary_types_allowed": True})
    except pydantic.PydanticUserError:  # a model has a configuration of its own
        adapter = pydantic.TypeAdapter(hint)

    def convert(value: object) -> object:
        try:
            result: object = adapter.validate_python(value)
        except Exception as error:  # validators may raise any exception
            raise mismatch_of_model("value", error) from error
        return result

    return convert


def _by_msgspec(hint: object) -> Convert:
    msgspec = sys.modules["msgspec"]

    def convert(value: object) -> object:
        try:
            result: object = msgspec.convert(value, hint, dec_hook=lambda _, each: each)
        except msgspec.ValidationError as error:
            raise mismatch_of_struct(error) from error
        return result

    return convert
