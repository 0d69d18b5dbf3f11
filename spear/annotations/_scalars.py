"""Checks of numbers, text, bytes, enums and literals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, Flag
from typing import Final

from ._check import Build, Check, shown
from ._mismatch import Mismatch


def _scalar(text: str, exact: type, make: Callable[[object], object], *sources: type) -> Check:
    """Return a check that accepts the type ``exact``, and converts values of the types ``sources``."""
    check = Check(text, exact)

    def convert(value: object) -> object:
        if type(value) in sources:
            return make(value)
        raise check.mismatch(value)

    check.complete(convert)
    return check


def _to_float(value: int) -> float:
    with suppress(OverflowError):
        if (number := float(value)) == value:
            return number
    raise Mismatch("expected float, got an int that no float represents exactly")


SCALAR_CHECKS: Final[dict[type, Check]] = {
    str: Check("str", str),
    bool: Check("bool", bool),
    int: Check("int", int),
    bytes: _scalar("bytes", bytes, bytes, memoryview),  # type: ignore[arg-type]  # with views only
    float: _scalar("float", float, _to_float, int),  # type: ignore[arg-type]  # called with an int only
    bytearray: _scalar("bytes", bytearray, bytearray, bytes, memoryview),  # type: ignore[arg-type]  # likewise
    memoryview: _scalar("bytes", memoryview, memoryview, bytes),  # type: ignore[arg-type]  # likewise
}


def enum_check(cls: type, arguments: tuple[object, ...], build: Build) -> Check | None:
    """Return the check for an enum class, which accepts a member's value; None for another class."""
    if not issubclass(cls, Enum):
        return None
    values = [member.value for member in cls]
    check = Check(_one_of(values))

    def convert(value: object) -> object:
        for member in cls:
            # 1, 1.0 and True are equal, but of different types.
            if type(value) is type(member.value) and value == member.value:
                return member
        if issubclass(cls, Flag) and type(value) is int:
            with suppress(ValueError):
                return cls(value)  # several flags
        raise Mismatch(f"expected {check.text}, got {shown(value)}")

    check.complete(convert)
    return check


def literal_check(values: tuple[object, ...]) -> Check:
    """Return the check for ``Literal[...]``."""
    by_wire = [(each.value if isinstance(each, Enum) else each, each) for each in values]
    check = Check(_one_of([wire for wire, _ in by_wire]))

    def convert(value: object) -> object:
        for wire, literal in by_wire:
            if type(value) is type(wire) and value == wire:
                return literal
        raise Mismatch(f"expected {check.text}, got {shown(value)}")

    check.complete(convert)
    return check


def _one_of(values: Sequence[object]) -> str:
    shown = [repr(value) for value in values]
    if len(shown) > 12:
        shown[11:] = ["..."]
    return " or ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))
