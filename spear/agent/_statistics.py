"""An agent's counters. Loaded on demand, because attrs takes a millisecond to build a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

if TYPE_CHECKING:
    from ._functions import FunctionKind


@final
@attrs.frozen(kw_only=True)
class RegisteredFunctionStatistics:
    """A function's counters since its registration."""

    name: str
    kind: FunctionKind
    calls: int
    """Calls that were begun, with any outcome."""
    failed: int
    """Calls that ended with an error, including refused arguments; cancelled calls are no failures."""
    late: int
    """Calls that raised an exception after they had been cancelled; the exception is in the log."""
