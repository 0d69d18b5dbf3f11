"""The executions of a spearlet: those that have not ended, and those that ended lately.

What was kept for ``execution_seconds``, or is too much by number or by the size of its results, is
forgotten, the oldest first. Whoever holds an execution that was forgotten still has it.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from secrets import token_hex
from typing import TYPE_CHECKING, final

import trio

from spear._errors import NotFound, Overloaded
from spear.channels import protected_class

from ._executions import Execution, ExecutionStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spear._limits import Limits

RETRY_SECONDS = 1.0
"""What is said to those who submit too much."""


@final
@protected_class
class Executions:
    """Submitted calls, by their ids. Iterating gives them newest first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_id: dict[str, Execution] = {}  # in the order of their submission
        self._ended: deque[tuple[float, Execution]] = deque()  # (when, which)
        self._result_bytes = 0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Execution]:
        self._forget_old()
        return iter(list(reversed(self._by_id.values())))

    @property
    def unfinished(self) -> int:
        """How many have not ended."""
        return len(self._by_id) - len(self._ended)

    def get(self, execution_id: str) -> Execution:
        """One of them.

        Raises:
            NotFound: there is none of that id, or not any more.
        """
        self._forget_old()
        try:
            return self._by_id[execution_id]
        except KeyError:
            kept = self._limits.execution_seconds
            raise NotFound(
                f"there is no execution {execution_id[:100]!r}: one that has ended is kept for "
                f"{kept:g} s"
            ) from None

    def list(
        self,
        *,
        function: str | None = None,
        status: ExecutionStatus | None = None,
        most: int = 100,
    ) -> tuple[Execution, ...]:
        """Some of them, newest first.

        Args:
            function: only those of this function, or of this ``deployment.function``.
            status: only those that stand there.
            most: not more than these.
        """
        found = (
            each
            for each in self
            if (
                function is None
                or function in (each.function, f"{each.deployment}.{each.function}")
            )
            and (status is None or each.status is status)
        )
        return tuple(islice(found, most))

    def _begin(self, deployment: str, function: str) -> Execution:
        """A new one. Raises Overloaded if too many have not ended."""
        if self.unfinished >= self._limits.max_submitted:
            raise Overloaded(
                f"{self.unfinished} submitted calls have not ended, which is the limit "
                "(max_submitted)",
                retry_after_seconds=RETRY_SECONDS,
            )
        execution: Execution = Execution._create(token_hex(12), deployment, function)
        self._by_id[execution.id] = execution
        return execution

    def _end(self, execution: Execution) -> None:
        """It has ended."""
        self._ended.append((trio.current_time(), execution))
        self._result_bytes += execution.result_bytes
        self._forget_old()

    def _close(self) -> None:
        """The spearlet has ended: keep none that has, nor any that will."""
        self._is_closed = True
        self._forget_old()

    def _forget_old(self) -> None:
        limits, ended = self._limits, self._ended
        latest = trio.current_time() - limits.execution_seconds
        while ended and (
            self._is_closed
            or ended[0][0] <= latest
            or len(ended) > limits.max_executions
            or self._result_bytes > limits.execution_bytes
        ):
            execution = ended.popleft()[1]
            self._result_bytes -= execution.result_bytes
            del self._by_id[execution.id]
