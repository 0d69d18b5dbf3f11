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
    """

    def __init__(self, message: str, *, expected: str = "", got: str = "") -> None:
        super().__init__(message)
        self.path = ""
        self.expected = expected
        self.got = got

    @classmethod
    def of_type(cls, expected: str, value: object) -> Mismatch:
        """Return the mismatch of a value of another type."""
        got = "None" if value is None else type(value).__name__
        return cls(f"expected {expected}, got {got}", expected=expected, got=got)

    def inside(self, step: str) -> Mismatch:
        """Return this mismatch with a path that begins one level further out."""
        self.path = step + self.path
        return self
