"""Failures of submitted calls that the program never asked for, reported in few lines."""

from __future__ import annotations

import logging
from collections import Counter
from math import inf
from typing import Final, final

from spear.channels import protected_class

logger: Final = logging.getLogger("spear.spearlet")

REPORT_SECONDS: Final = 10.0
"""Seconds between two reports."""

MOST_FUNCTIONS: Final = 5
"""Functions that a report names, the ones with the most failures."""


@final
@protected_class
class ForgottenFailures:
    """A collector of failed executions that the program dropped without having asked for the failure.

    Executions add themselves when they are garbage-collected, in any thread; so :meth:`add` only appends.
    """

    def __init__(self) -> None:
        self._new: list[tuple[str, str]] = []
        self._last = -inf
        self._is_closed = False

    def add(self, function: str, text: str) -> None:
        """Add a failure of a function, as one line of text."""
        self._new.append((function, text))
        if self._is_closed:
            self._log()

    def report(self, now: float) -> None:
        """Log the failures that were added, unless the last report is recent."""
        if self._new and now - self._last >= REPORT_SECONDS:
            self._last = now
            self._log()

    def close(self) -> None:
        """Log the failures that were added, and from now on each further one at once."""
        self._is_closed = True
        if self._new:
            self._log()

    def _log(self) -> None:
        new, self._new = self._new, []
        if len(new) == 1:
            logger.warning("%s, and its result was never requested", new[0][1])
            return
        counts = Counter(function for function, _ in new)
        named = ", ".join(f"{name}: {count}" for name, count in counts.most_common(MOST_FUNCTIONS))
        more = ", ..." if len(counts) > MOST_FUNCTIONS else ""
        logger.warning(
            "%d executions failed, and their results were never requested (%s%s); the last "
            "one: %s",
            len(new), named, more, new[-1][1],
        )  # fmt: skip
