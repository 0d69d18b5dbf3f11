"""What an agent counts. Loaded on demand: attrs builds a class in a millisecond."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

if TYPE_CHECKING:
    from ._functions import FunctionKind


@final
@attrs.frozen(kw_only=True)
class RegisteredFunctionStatistics:
    """One function's counters since it was registered."""

    name: str
    kind: FunctionKind
    calls: int
    """Begun, however they ended."""
    failed: int
    """Ended with a failure, refused arguments among them. Cancelled calls are not failures."""
    late: int
    """Raised an exception after their caller had gone; the log has the exception."""
