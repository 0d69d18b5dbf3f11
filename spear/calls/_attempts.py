"""The attempts of one call: the choice of an instance, the deadline, and retries where they are safe.

A call is repeated only if it certainly was not executed (``delivered`` is "no") and its target takes no
more calls. Each attempt chooses an instance anew, under the same deadline. The error that the caller gets
names functions and instances, not channels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, cast, final

from trio.lowlevel import checkpoint, enable_ki_protection, wait_task_rescheduled

from spear._errors import (
    ChannelBroken,
    ChannelClosed,
    DeadlineExceeded,
    LocalProtocolError,
    Rejected,
    SpearError,
)
from spear.channels import call_unprotected, protected_class

from ._options import cannot_be_sent
from ._payloads import Result, decode_result_untrusted
from ._scopes import effective_deadline, leave_it_to_scope
from ._streams import FunctionStream, explain_loss

if TYPE_CHECKING:
    from spear._errors import Delivered
    from spear.channels import ExecutionResponse
    from spear.wire import Payload

    from ._assignment import AssignmentObserver, CallTally
    from ._attributes import CallAttributes
    from ._target import Callee, CallTarget, Choice, Chooser

MAX_ATTEMPTS: Final = 3
"""The most attempts of one call, the first one included; each is at another instance if there is one."""


def may_try_again(
    error: SpearError, target: CallTarget, attempts: int, budget: int = MAX_ATTEMPTS
) -> bool:
    """Return whether a failed call may go to another instance, because it certainly was not executed.

    Args:
        error: the failure of the last attempt.
        target: the target of the last attempt.
        attempts: the attempts so far, the last one included.
        budget: the most attempts that a call may have.
    """
    if target.is_connected or attempts >= budget or error.delivered != "no":
        return False
    # Rejected: the call and the target's CLOSE have crossed.
    return isinstance(error, ChannelBroken | ChannelClosed | Rejected)


@enable_ki_protection
async def perform(
    chooser: Chooser, call: CallAttributes, payload: Payload, is_cbor: bool, begun: float,
    deadline: float, tally: CallTally, reports: Reports | None = None,
    execution: AssignmentObserver | None = None, run_seconds: float | None = None,
) -> ExecutionResponse:  # fmt: skip
    """Make a call without a key; try the next instance if the call certainly was not executed.

    If cancelled, the function is cancelled. Raises as :meth:`spear.spearlet.Function.call`. A response
    whose payload is needed has to be settled; see :class:`ExecutionResponse`.

    Args:
        chooser: gives each attempt an instance.
        call: the name of the function, and the attributes that policies may use.
        payload, is_cbor: the encoded arguments, and whether they are CBOR; otherwise raw bytes.
        begun, deadline: when the call began, and when it expires, in Trio's time.
        tally: is notified of the end of the call, with or without a failure.
        reports, execution: are handed reports of progress, and the instance that gets the call; or None.
        run_seconds: seconds for the call once it has a slot; ``deadline`` then limits the wait for it.
    """
    attempts, now, since = 0, begun, begun  # the run counts without a wait that has its own time
    try:
        if deadline <= begun:  # a `move_on_after` around must move on: no DeadlineExceeded
            await checkpoint()
        while True:
            if (choice := chooser.pick(call)) is None:
                choice = await wait_for_capacity(chooser, call, begun, deadline, execution)
                now = chooser.clock()
            callee, target = choice
            if run_seconds is not None:
                since, deadline = now, min(now + run_seconds, effective_deadline())
                run_seconds = None
            if execution is not None:
                execution.assigned(callee.id)
            try:
                started = None
                if reports is None and call.metadata is None:
                    started = target.start_request(
                        call.function, payload, now, deadline, is_cbor=is_cbor
                    )
                response: ExecutionResponse
                if started is not None:
                    response = await wait_task_rescheduled(started.abort)
                else:
                    response = await target.request(
                        call.function, payload, timeout=deadline - now, is_cbor=is_cbor,
                        metadata=call.metadata, on_progress=reports,
                    )  # fmt: skip
                break
            except SpearError as error:
                attempts += 1
                if not may_try_again(error, target, attempts):
                    arrived = reports is not None and reports.arrived
                    await explain(chooser, call.function, error, callee, since, deadline, arrived)
                    raise
            now = chooser.clock()
    except BaseException as error:
        tally.ended(chooser.clock() - begun, error)
        raise
    tally.ended(chooser.clock() - begun, None)
    return response


async def enter_stream(
    stack: AsyncExitStack,
    chooser: Chooser,
    call: CallAttributes,
    payload: Payload,
    is_cbor: bool,
    begun: float,
    deadline: float,
    *,
    sends_items: bool,
    run_seconds: float | None = None,
    execution: AssignmentObserver | None = None,
    function: str | None = None,
    convert: Callable[[Result], Result] | None = None,
    reports: Reports | None = None,
) -> FunctionStream:
    """Begin a stream; try the next instance if the stream certainly did not begin.

    Args:
        stack: ends the stream when the stack is closed.
        chooser: gives each attempt an instance.
        call: the name of the function, and the attributes that policies may use.
        payload, is_cbor: the encoded arguments, and whether they are CBOR; otherwise raw bytes.
        begun: when the call began, in Trio's time.
        deadline: when the whole stream expires, in Trio's time.
        sends_items, run_seconds: whether the caller will send items; as for :func:`perform`.
        execution: is notified of the instance that gets the stream; may be None.
        function: the name of the function at the instance, if it is not that of ``call``.
        convert: converts each decoded item or result.
        reports: is handed reports of progress; or None.
    """
    attempts = 0
    while True:
        choice = chooser.pick(call)
        if choice is None:
            choice = await wait_for_capacity(chooser, call, begun, deadline, execution)
        callee, target = choice
        if run_seconds is not None:
            begun = chooser.clock()  # of the run
            deadline, run_seconds = min(begun + run_seconds, effective_deadline()), None
        if execution is not None:
            execution.assigned(callee.id)
        opening = target.open_stream(
            function or call.function, payload, timeout=deadline - chooser.clock(), is_cbor=is_cbor,
            metadata=call.metadata, sends_items=sends_items, on_progress=reports,
        )  # fmt: skip
        try:
            stream = await stack.enter_async_context(opening)
            break
        except SpearError as error:
            attempts += 1
            if not may_try_again(error, target, attempts):
                await explain(chooser, call.function, error, callee, begun, deadline)
                raise
    late = partial(chooser.late, call.function, begun, deadline)
    opened = FunctionStream._create(
        stream, call.function, late, deadline, callee.id,
        sends_items=sends_items, convert=convert, reports=reports, callee=callee,
    )  # fmt: skip
    return cast("FunctionStream", opened)


async def wait_for_capacity(
    chooser: Chooser,
    call: CallAttributes,
    begun: float,
    deadline: float,
    execution: AssignmentObserver | None = None,
) -> Choice:
    """Wait as :meth:`Chooser.wait_for_capacity` does, but raise errors that name the function."""
    is_accepted = execution is not None and execution.is_accepted
    try:
        return await chooser.wait_for_capacity(call, deadline, is_accepted=is_accepted)
    except DeadlineExceeded as error:
        await leave_it_to_scope(deadline)
        late = chooser.late(call.function, begun, deadline, "no")
        raise DeadlineExceeded(f"{late}: {error}", code=late.code, delivered="no") from None


async def explain(
    chooser: Chooser,
    function: str,
    error: SpearError,
    callee: Callee,
    begun: float,
    deadline: float,
    has_reported: bool = False,
) -> None:
    """Raise ``error`` as a failure that does not mention channels; return if it mentions none.

    Args:
        chooser: the chooser that gave the call its instance.
        function: the function's name.
        error: the failure of the last attempt.
        callee: the instance of the last attempt.
        begun: when the call began, in Trio's time.
        deadline: when the call expires, in Trio's time.
        has_reported: whether a report of progress has arrived, so that the function has certainly begun.
    """
    if isinstance(error, LocalProtocolError):
        raise cannot_be_sent(function, error) from error
    delivered: Delivered = "yes" if has_reported else error.delivered
    if isinstance(error, DeadlineExceeded):
        await leave_it_to_scope(deadline)
        raise chooser.late(function, begun, deadline, delivered) from error
    if isinstance(error, ChannelBroken | ChannelClosed):
        raise await explain_loss(callee, error, delivered) from error


@final
@protected_class
class Reports:
    """A relay of progress reports to the caller's callback.

    Attributes:
        arrived: whether a report has arrived.
    """

    def __init__(self, on_progress: Callable[[Result], None]) -> None:
        self._on_progress = on_progress
        self.arrived = False

    def __call__(self, payload: bytes, is_cbor: bool) -> None:
        """Decode one report, and pass it to the callback."""
        self.arrived = True
        call_unprotected(self._on_progress, decode_result_untrusted(payload, is_cbor))
