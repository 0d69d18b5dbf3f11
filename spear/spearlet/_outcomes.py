"""Calls with a key: one execution for all that have the same, and its outcome for as long as it is kept.

The first caller of a key begins the execution, and waits for it as everybody does who comes meanwhile;
whoever comes later gets what came of it. The execution belongs to none of them: who gives up does not
end it, because nobody could say then whether it had happened. What is kept are outcomes of executions,
results and what the function raised; after any other failure, the next call of the key executes again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from copy import copy
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias, final

import attrs
import trio

from spear._errors import CallCancelled, DeadlineExceeded, FunctionRaised, Rejected
from spear._segments import Segment

from ._executions import as_failure

if TYPE_CHECKING:
    from spear._limits import Limits
    from spear.channels import ExecutionResponse

    from ._arguments import Payload

Name: TypeAlias = tuple[str, str, str]
"""A deployment, a function of it, and a key."""


@final
@attrs.define(eq=False)
class _Outcome:
    """What came of a key, or will."""

    digest: bytes
    done: trio.Event = attrs.field(factory=trio.Event)
    response: ExecutionResponse | None = None
    failure: Exception | None = None
    expires: float = 0.0
    size: int = 0


@final
class Outcomes:
    """The outcomes of a spearlet's calls with keys."""

    def __init__(self, limits: Limits, nursery: trio.Nursery) -> None:
        self._nursery = nursery  # of executions; ends with open_spearlet's block
        self._max_outcomes = limits.max_outcomes
        self._max_bytes = limits.outcome_bytes
        self._kept: OrderedDict[Name, _Outcome] = OrderedDict()  # in the order of their ends
        self._running: dict[Name, _Outcome] = {}
        self._bytes = 0

    async def once(
        self,
        name: Name,
        payload: Payload,
        deadline: float,
        keep_seconds: float,
        execute: Callable[[], Awaitable[ExecutionResponse]],
    ) -> ExecutionResponse:
        """Execute, or get what another call of that name has got, or is about to. A checkpoint.

        If cancelled, the execution goes on.

        Raises:
            Rejected: the key was used with other arguments.
            DeadlineExceeded: the execution did not end in time.
            And whatever the execution raised.
        """
        await trio.lowlevel.checkpoint()
        seen = payload.as_view() if isinstance(payload, Segment) else payload
        digest = blake2b(seen, digest_size=16).digest()
        outcome = self._find(name)
        if outcome is None:
            outcome = self._running[name] = _Outcome(digest)
            self._nursery.start_soon(self._execute, name, outcome, keep_seconds, execute)
        elif outcome.digest != digest:
            raise Rejected(
                f"the key {name[2]!r} was used for a call of {name[1]} with other arguments"
            )
        with trio.move_on_at(deadline):
            await outcome.done.wait()
        if outcome.response is not None:
            return outcome.response
        if outcome.failure is not None:
            raise _same(outcome.failure)
        raise DeadlineExceeded(
            f"{name[1]} is still being executed for the key {name[2]!r}", delivered="maybe"
        )

    def _find(self, name: Name) -> _Outcome | None:
        now = trio.current_time()
        while self._kept:
            oldest = next(iter(self._kept))
            if self._kept[oldest].expires > now:
                break
            self._forget(oldest)
        return self._running.get(name) or self._kept.get(name)

    async def _execute(
        self,
        name: Name,
        outcome: _Outcome,
        keep_seconds: float,
        execute: Callable[[], Awaitable[ExecutionResponse]],
    ) -> None:
        try:
            outcome.response = await execute()
        except trio.Cancelled:
            outcome.failure = CallCancelled("the spearlet has ended", delivered="maybe")
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            outcome.failure = as_failure(error)
        finally:
            del self._running[name]
            outcome.done.set()
            if outcome.response is not None or isinstance(outcome.failure, FunctionRaised):
                self._keep(name, outcome, trio.current_time() + keep_seconds)

    def _keep(self, name: Name, outcome: _Outcome, expires: float) -> None:
        kept = _Outcome(outcome.digest, outcome.done, outcome.response, outcome.failure, expires)
        if outcome.response is not None:
            kept.size = len(outcome.response.payload)
            if kept.size > self._max_bytes:
                kept.response, kept.size = None, 0
                kept.failure = Rejected(
                    f"{name[1]} was executed for the key {name[2]!r}, but its result of "
                    f"{len(outcome.response.payload)} bytes was too large to be kept",
                    delivered="yes",
                )
        # Another window than before may make them end in another order; then some stay too long.
        self._kept[name] = kept
        self._bytes += kept.size
        while self._bytes > self._max_bytes or len(self._kept) > self._max_outcomes:
            self._forget(next(iter(self._kept)))

    def _forget(self, name: Name) -> None:
        self._bytes -= self._kept.pop(name).size


def _same(failure: Exception) -> Exception:
    """The failure for one of those who wait: an exception must not be raised in several tasks."""
    if isinstance(failure, FunctionRaised):
        return FunctionRaised(
            failure.remote_message,
            type_name=failure.type_name,
            remote_traceback=failure.remote_traceback,
            delivered=failure.delivered,
        )
    same = copy(failure)
    same.__cause__ = failure
    return same
