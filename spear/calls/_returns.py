"""Results as the types that callers expect: the option ``returns`` of a call."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from spear._errors import InvalidArguments, UnexpectedResult
from spear.annotations import Mismatch

from ._payloads import Result

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from spear.annotations import Check

    R = TypeVar("R", default=Result)
else:
    from typing import TypeVar

    R = TypeVar("R", **({"default": object} if sys.version_info >= (3, 13) else {}))
    """The type of a result: that of the option ``returns``, or else :data:`Result`."""


def make_returns_check(returns: object) -> Check | None:
    """Return the check for results of a type; None if the type allows every value.

    Raises:
        InvalidArguments: no result can have this type.
    """
    if returns is None:
        return None
    from spear.annotations import build_check

    if isinstance(returns, str):
        raise InvalidArguments(f"returns must be a type, not the text {returns!r:.60}")
    check = build_check(returns)
    if check is not None and check.impossible is not None:
        name = check.impossible.__name__
        raise InvalidArguments(
            f"returns={name}: no result can be a {name}; use a data class, or a type of values that can "
            "be sent"
        )
    return check


def convert_result(function: str, check: Check, result: Result) -> Result:
    """Return a decoded result as the expected type. Raises UnexpectedResult."""
    try:
        return check(result)  # type: ignore[return-value]  # typed by the caller, who knows the type
    except Mismatch as mismatch:
        where = f" at {mismatch.path}" if mismatch.path else ""
        raise UnexpectedResult(
            f"{function}() returned a value that does not fit the option returns{where}: {mismatch}",
            path=mismatch.path,
            expected=mismatch.expected,
            got=mismatch.got,
        ) from None
