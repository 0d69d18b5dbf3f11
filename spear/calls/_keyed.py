"""The execution that all calls with one key share: its instance, its restarts and its deadline.

The execution runs in a task of its own, under a deadline of its own, so that neither the deadline of a
caller nor a cancelled scope around one reaches it. The function is started again only when the process
that had it is gone: a live process may still be running the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from spear._errors import CallCancelled, ChannelBroken, ChannelClosed, SpearError

from ._assignment import AssignmentObserver
from ._attempts import MAX_ATTEMPTS, explain, may_try_again, wait_for_capacity

if TYPE_CHECKING:
    from spear.channels import ExecutionResponse
    from spear.wire import Payload

    from ._attributes import CallAttributes
    from ._options import CallOptions
    from ._target import Callee, CallTarget, Chooser


class Shared(AssignmentObserver, Protocol):
    """An execution that all callers of one key share.

    Attributes:
        is_lost: whether every process that had begun the function is gone, so that it may start again.
        has_reported: whether a report of progress has arrived.
    """

    is_lost: bool
    has_reported: bool

    def report(self, payload: bytes, is_cbor: bool) -> None:
        """Hand a report of progress to all callers that wait."""


async def execute_shared(
    chooser: Chooser,
    call: CallAttributes,
    payload: Payload,
    is_cbor: bool,
    options: CallOptions,
    shared: Shared,
) -> ExecutionResponse:
    """Execute a function for a key, within ``options.key_seconds`` or else the deployment's timeout.

    If cancelled, the function is cancelled.

    Raises:
        SpearError: as :meth:`Function.call`. ``delivered`` is "no" only if it is so for all attempts.
    """
    begun = chooser.clock()
    deadline = begun + (
        chooser.call_seconds if options.key_seconds is None else options.key_seconds
    )
    attempts, may_have_run = 0, False
    try:
        while True:
            choice = chooser.pick(call)
            if choice is None:
                choice = await wait_for_capacity(chooser, call, begun, deadline, shared)
            callee, target = choice
            shared.assigned(callee.id)
            try:
                return await target.request(
                    call.function,
                    payload,
                    timeout=deadline - chooser.clock(),
                    is_cbor=is_cbor,
                    metadata=call.metadata,
                    key=call.key,
                    on_progress=shared.report,
                )
            except SpearError as error:
                attempts += 1
                if error.delivered != "no":
                    may_have_run = True
                    shared.is_lost = options.key_restarts and await _is_gone(
                        error, *choice, deadline
                    )
                if not _goes_on(error, target, attempts, shared):
                    has_reported = shared.has_reported
                    await explain(
                        chooser, call.function, error, callee, begun, deadline, has_reported
                    )
                    raise
    except SpearError as failure:
        if may_have_run and failure.delivered == "no":
            failure.delivered = "maybe"  # not in this attempt, but perhaps in an earlier one
        raise


async def _is_gone(error: SpearError, callee: Callee, target: CallTarget, deadline: float) -> bool:
    """Return whether the instance of a lost call has ended; wait for its end if the channel has closed.

    An instance that was killed and still runs has not ended: the function may be running there.
    """
    if target.is_connected or not isinstance(error, ChannelBroken | ChannelClosed | CallCancelled):
        return False
    with trio.move_on_at(deadline):
        await callee.wait_exited()
    return callee.has_ended


def _goes_on(error: SpearError, target: CallTarget, attempts: int, shared: Shared) -> bool:
    """Return whether to try the function once more: it has not run, or its process is gone."""
    if may_try_again(error, target, attempts):
        return True
    is_gone = shared.is_lost and isinstance(error, ChannelBroken | ChannelClosed)
    return is_gone and attempts < MAX_ATTEMPTS
