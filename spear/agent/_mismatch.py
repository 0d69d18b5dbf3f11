"""The exception of a check: a value is not what an annotation asks for."""

from __future__ import annotations

from typing import final


@final
class Mismatch(Exception):
    """A value is not what an annotation asks for.

    Attributes:
        path: where inside the argument, as in ``.items[2].sku``.
        expected: the type that the annotation asks for; empty if the type is no fault.
        got: the name of the value's type; empty if that is no fault.
    """

    def __init__(self, message: str, *, expected: str = "", got: str = "") -> None:
        super().__init__(message)
        self.path = ""
        self.expected = expected
        self.got = got

    @classmethod
    def of_type(cls, expected: str, value: object) -> Mismatch:
        """Return the one of a value of another type."""
        got = "None" if value is None else type(value).__name__
        return cls(f"expected {expected}, got {got}", expected=expected, got=got)

    def inside(self, step: str) -> Mismatch:
        """Return this mismatch with a path that begins one level further out."""
        self.path = step + self.path
        return self
