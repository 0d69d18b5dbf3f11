"""The type of results, for type checkers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ._payloads import Result

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    R = TypeVar("R", default=Result)
else:
    from typing import TypeVar

    R = TypeVar("R", **({"default": object} if sys.version_info >= (3, 13) else {}))
    """The type of a result: that of the option ``returns``, or else :data:`Result`."""
