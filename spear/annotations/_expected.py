"""Results of functions as the types that their callers expect: the option ``returns`` of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from spear._errors import InvalidArguments, UnexpectedResult

from ._mismatch import Mismatch

if TYPE_CHECKING:
    from ._check import Check


@final
class ExpectedType:
    """A type that a caller expects results to have. Made by :func:`build_expected_type`."""

    __slots__ = ("_check",)

    def __init__(self, check: Check) -> None:
        self._check = check

    def convert(self, function: str, result: object) -> object:
        """Return a decoded result of a function as the expected type. Raises UnexpectedResult."""
        try:
            return self._check(result)
        except Mismatch as mismatch:
            where = f" at {mismatch.path}" if mismatch.path else ""
            raise UnexpectedResult(
                f"{function}() returned a value that does not fit the option returns{where}: {mismatch}",
                path=mismatch.path,
                expected=mismatch.expected,
                got=mismatch.got,
            ) from None


def build_expected_type(returns: object) -> ExpectedType | None:
    """Return the type that the option ``returns`` names; None if it allows every value, or is not set.

    Raises:
        InvalidArguments: no result can have this type.
    """
    if returns is None:
        return None
    if isinstance(returns, str):
        raise InvalidArguments(f"returns must be a type, not the text {returns!r:.60}")
    from ._build import build_check  # takes long to load, and few functions need it

    check = build_check(returns)
    if check is None:
        return None
    if check.impossible is not None:
        name = check.impossible.__name__
        raise InvalidArguments(
            f"returns={name}: no result can be a {name}; use a data class, or a type of values that can "
            "be sent"
        )
    return ExpectedType(check)
