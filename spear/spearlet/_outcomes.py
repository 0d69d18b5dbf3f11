"""Calls with a key: one execution for all that have the same, and its outcome for as long as it is kept.

The first caller of a key executes; whoever comes meanwhile waits for it, and whoever comes later gets
what came of it. Only outcomes of executions are kept, results and what the function raised. When the
first caller fails otherwise, or gives up, the next one executes in its place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias, final

import attrs
import trio

from spear._errors import DeadlineExceeded, FunctionRaised, Rejected
from spear._segments import Segment

if TYPE_CHECKING:
    from spear._errors import CallFailed
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
    failure: CallFailed | None = None
    expires: float = 0.0
    size: int = 0


@final
class Outcomes:
    """The outcomes of a spearlet's calls with keys."""

    def __init__(self, limits: Limits) -> None:
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

        If the one who executes is cancelled, so is the function, and another one who waits executes.

        Raises:
            Rejected: the key was used with other arguments.
            DeadlineExceeded: the execution of another call did not end in time.
        """
        seen = payload.as_view() if isinstance(payload, Segment) else payload
        digest = blake2b(seen, digest_size=16).digest()
        while True:
            outcome = self._find(name)
            if outcome is None:
                return await self._execute(name, digest, keep_seconds, execute)
            if outcome.digest != digest:
                raise Rejected(
                    f"the key {name[2]!r} was used for a call of {name[1]} with other arguments"
                )
            await trio.lowlevel.checkpoint()
            with trio.move_on_at(deadline) as scope:
                await outcome.done.wait()
            if scope.cancelled_caught:
                raise DeadlineExceeded(
                    f"{name[1]} is still being executed for the key {name[2]!r}", delivered="maybe"
                )
            if outcome.response is not None:
                return outcome.response
            if outcome.failure is not None:
                raise _same(outcome.failure)

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
        digest: bytes,
        keep_seconds: float,
        execute: Callable[[], Awaitable[ExecutionResponse]],
    ) -> ExecutionResponse:
        outcome = self._running[name] = _Outcome(digest)
        try:
            outcome.response = await execute()
            return outcome.response
        except FunctionRaised as failure:
            outcome.failure = failure
            raise
        finally:
            del self._running[name]
            outcome.done.set()
            if outcome.response is not None or outcome.failure is not None:
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


def _same(failure: CallFailed) -> CallFailed:
    """An exception must not be raised in two tasks: this is a copy."""
    if isinstance(failure, FunctionRaised):
        return FunctionRaised(
            failure.remote_message,
            type_name=failure.type_name,
            remote_traceback=failure.remote_traceback,
            delivered=failure.delivered,
        )
    return type(failure)(str(failure), delivered=failure.delivered)
