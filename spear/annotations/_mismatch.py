"""The exception of a check: a value does not fit an annotation."""

from __future__ import annotations

from typing import final


@final
class Mismatch(Exception):
    """A value does not fit an annotation.

    Attributes:
        path: the place inside the argument, as in ``.items[2].sku``.
        expected: the annotated type; empty if the type is not at fault.
        got: the name of the value's type; empty if the type is not at fault.
        is_detailed: whether the message says more than both types.
    """

    def __init__(self, message: str, *, expected: str = "", got: str = "") -> None:
        super().__init__(message)
        self.path = ""
        self.expected = expected
        self.got = got
        self.is_detailed = True

    @classmethod
    def of_type(cls, expected: str, value: object, hint: str = "") -> Mismatch:
        """Return the mismatch of a value of another type, with a hint on what to send instead."""
        got = "None" if value is None else type(value).__name__
        told = f": {hint}" if hint else ""
        mismatch = cls(f"expected {expected}, got {got}{told}", expected=expected, got=got)
        mismatch.is_detailed = bool(hint)
        return mismatch

    def inside(self, step: str) -> Mismatch:
        """Return this mismatch with a path that begins one level further out."""
        self.path = step + self.path
        return self
