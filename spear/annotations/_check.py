"""The class of all checks: a check validates a value against one annotation, and converts it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias, final

from ._mismatch import Mismatch

Convert: TypeAlias = Callable[[object], object]


class NeverExact:
    """A stand-in for the exact type in a check that has to convert every value."""


@final
class Check:
    """A check of values against one annotation, with a conversion to the annotated type.

    Attributes:
        exact: the type whose values are accepted unchanged.
        text: the annotation as error messages show it.
        impossible: a class in the annotation that cannot be sent, so that only an empty list or map
            can fit; None if there is none.
    """

    __slots__ = ("_convert", "exact", "impossible", "text")

    def __init__(
        self,
        text: str,
        exact: type = NeverExact,
        convert: Convert | None = None,
        *,
        parts: Iterable[Check | None] = (),
    ) -> None:
        self.text = text
        self.exact = exact
        self.impossible: type | None = first_impossible(parts)
        self._convert = convert

    def complete(self, convert: Convert) -> None:
        """Set the conversion of a check that had to exist before its conversion."""
        self._convert = convert

    def __call__(self, value: object) -> object:
        """Return the value as the function gets it. Raises Mismatch."""
        if type(value) is self.exact:
            return value
        if self._convert is None:
            raise self.mismatch(value)
        return self._convert(value)

    def at(self, value: object, step: str) -> object:
        """Check an inner value; a Mismatch gets ``step`` added to its path."""
        try:
            return self(value)
        except Mismatch as mismatch:
            raise mismatch.inside(step) from None

    def mismatch(self, value: object, hint: str = "") -> Mismatch:
        """Return the error for a value that does not fit, with a hint on what to send instead."""
        return Mismatch.of_type(self.text, value, hint)


def first_impossible(parts: Iterable[Check | None]) -> type | None:
    """Return the first class of these checks that cannot be sent; None if there is none."""
    return next((part.impossible for part in parts if part and part.impossible), None)


Build: TypeAlias = Callable[[object], Check | None]
"""A function that makes the check for an annotation; None if the annotation allows every value."""


def named(text: str, checks: Iterable[Check | None]) -> str:
    """Return the text of a generic annotation: ``list[str]``."""
    inner = ", ".join(check.text if check else "Any" for check in checks)
    return f"{text}[{inner}]" if inner else text


def shown(value: object) -> str:
    """Return the repr of a value for an error message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def named_class(cls: type, arguments: Iterable[object]) -> str:
    """Return the name of a class with the types in brackets: ``Page[Order]``."""
    inner = ", ".join(getattr(each, "__name__", None) or str(each) for each in arguments)
    return f"{cls.__name__}[{inner}]" if inner else cls.__name__
