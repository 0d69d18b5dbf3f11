"""The submitted calls (executions) of a spearlet: unfinished ones, and ones that have ended recently.

An ended execution is forgotten after ``execution_seconds``. If there are too many by number, or by the
size of results and failures, the oldest are forgotten first. A single one that exceeds the size is
forgotten at once, and earlier ones are kept. A program can still use a forgotten execution that it holds.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, final

import trio

from spear._errors import NotFound, Overloaded
from spear._limits import expect_whole
from spear.calls import RETRY_SECONDS, expect_bytes
from spear.channels import protected_class

from ._forgotten import ForgottenFailures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spear._host_limits import HostLimits
    from spear.calls import Execution, ExecutionStatus


@final
@protected_class
class Executions:
    """A table of submitted calls by id. Iteration yields the newest first.

    Attributes:
        argument_bytes: bytes of encoded arguments that unfinished executions hold.
        forgotten: collects failures that the program did not ask for.
    """

    def __init__(self, limits: HostLimits) -> None:
        self.argument_bytes = 0
        self.forgotten = ForgottenFailures()
        self._limits = limits
        self._by_id: dict[str, Execution] = {}  # in the order of their submission
        self._ended: deque[tuple[float, Execution]] = deque()  # (time of its end, execution)
        self._held_bytes = 0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Execution]:
        self._forget_old()
        return iter(list(reversed(self._by_id.values())))

    @property
    def unfinished(self) -> int:
        """Number of executions that have not ended."""
        return len(self._by_id) - len(self._ended)

    def get(self, execution_id: str) -> Execution:
        """Return an execution by its id.

        Raises:
            NotFound: no execution has this id, or it was forgotten.
        """
        self._forget_old()
        try:
            return self._by_id[execution_id]
        except KeyError:
            kept = self._limits.execution_seconds
            raise NotFound(
                f"there is no execution {execution_id[:100]!r}; executions are kept for {kept:g} s "
                "after their end"
            ) from None

    def find(self, execution_id: str) -> Execution | None:
        """Return an execution by its id; None if there is none, or it was forgotten."""
        self._forget_old()
        return self._by_id.get(execution_id)

    def list(
        self,
        *,
        function: str | None = None,
        status: ExecutionStatus | None = None,
        most: int = 100,
    ) -> tuple[Execution, ...]:
        """Return some executions, newest first.

        Args:
            function: only executions of this function, or of this ``deployment.function``.
            status: only executions with this status.
            most: the largest number of executions to return.

        Raises:
            ConfigurationError: ``most`` is no whole number, or is negative.
        """
        expect_whole("most", most, 0)
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

    def _expect_capacity(self, argument_bytes: int) -> None:
        """Raise Overloaded if one more execution, with so many bytes of arguments, exceeds a limit."""
        if self.unfinished >= self._limits.max_submitted:
            raise Overloaded(
                f"{self.unfinished} submitted calls have not ended; at most "
                f"{self._limits.max_submitted} are allowed (max_submitted)",
                retry_after_seconds=RETRY_SECONDS,
                code="too_many_calls",
            )
        most = self._limits.submitted_bytes
        expect_bytes("submitted calls", self.argument_bytes, argument_bytes, most)

    def _begin(self, execution: Execution) -> None:
        """Add a new execution."""
        self._by_id[execution.id] = execution
        self.argument_bytes += execution.argument_bytes

    def _end(self, execution: Execution) -> None:
        """Move an execution to the ended ones."""
        self.argument_bytes -= execution.argument_bytes
        if execution._held_bytes > self._limits.execution_bytes:
            del self._by_id[execution.id]  # it would not fit even if all others were forgotten
        else:
            self._ended.append((trio.current_time(), execution))
            self._held_bytes += execution._held_bytes
        self._forget_old()

    def _close(self) -> None:
        """Forget all ended executions, and later each other one when it ends: the spearlet has ended."""
        self._is_closed = True
        self._forget_old()
        self.forgotten.close()

    def _forget_old(self) -> None:
        limits, ended = self._limits, self._ended
        latest = trio.current_time() - limits.execution_seconds
        while ended and (
            self._is_closed
            or ended[0][0] <= latest
            or len(ended) > limits.max_executions
            or self._held_bytes > limits.execution_bytes
        ):
            execution = ended.popleft()[1]
            self._held_bytes -= execution._held_bytes
            del self._by_id[execution.id], execution
        self.forgotten.report(trio.current_time())
