"""What a function may know and do while it handles a call.

The call in progress is a context variable, set by whoever runs the function, so that it is found in
threads and asyncio tasks that the function starts, and never in another call. A :class:`CallContext` is
made when somebody asks for it: most calls never do.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from contextvars import ContextVar
from math import ceil, inf
from threading import get_ident
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from spear._errors import (
    CallFailed,
    DeadlineExceeded,
    LocalProtocolError,
    NotInCall,
)
from spear._limits import expect_timeout
from spear._stalls import because_of
from spear.channels import protected_block, protected_class
from spear.wire import decode_result, encode_call

from ._encoding import encode_report
from ._failures import about_call
from ._items import Items

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.channels import ExecutionResponse, InboundCall, Metadata
    from spear.wire import Payload, Value

    from ._asyncio_bridge import BridgedCall
    from ._own_calls import Waiting
    from ._service import AgentService


CurrentCall: TypeAlias = "tuple[InboundCall, str, float, AgentService, BridgedCall | None]"
"""(call, the function's name, deadline, who serves, how to reach Trio from asyncio)."""

current: Final[ContextVar[CurrentCall]] = ContextVar("spear call")


def context() -> CallContext:
    """The call that the function is handling.

    Works in async functions, in threads of plain functions, and in asyncio coroutines.

    Raises:
        NotInCall: no call is being handled here.
    """
    try:
        return CallContext(current.get())
    except LookupError:
        raise NotInCall("there is no call here: functions have one while they run") from None


async def call(
    function: str, /, *arguments: object, timeout: float | None = None, **keywords: object
) -> Value:
    """Call another function of the host; see :meth:`CallContext.call`."""
    return await context().call(function, *arguments, timeout=timeout, **keywords)


async def call_once(
    key: str,
    function: str,
    /,
    *arguments: object,
    timeout: float | None = None,
    **keywords: object,
) -> Value:
    """:func:`call` what must happen once, though the function that calls may be executed again.

    The host executes the calls of a function that have the same key once, and gives all of them its
    outcome, for as long as the deployment of that function keeps outcomes. If cancelled, it is executed
    all the same.

    Args:
        key: names what is to happen: ``context().key``, for example, or something made from it.
        function, arguments, keywords, timeout: as for :func:`call`.

    Raises:
        Rejected: the key was used with other arguments.
        And all that :func:`call` raises.
    """
    payload, is_cbor = encode_call(function, arguments, keywords)
    return await context()._call_other(function, payload, is_cbor, timeout, key)


@final
@protected_class
class CallContext:
    """One call, from inside the function that handles it; given by :func:`context`."""

    __slots__ = ("_bridge", "_call", "_deadline", "_function", "_service")

    def __init__(self, state: CurrentCall) -> None:
        self._call, self._function, self._deadline, self._service, self._bridge = state

    def __repr__(self) -> str:
        return f"<CallContext {self._function}, call {self._call.id} of {self.instance_id}>"

    # -- what is known --------------------------------------------------------------------------------

    @property
    def function(self) -> str:
        """The name under which the function was called."""
        return self._function

    @property
    def call_id(self) -> int:
        """The call's number on its channel."""
        return self._call.id

    @property
    def instance_id(self) -> InstanceId:
        """Which instance we are."""
        return self._call.channel.instance_id

    @property
    def caller(self) -> str:
        """Who called: what the host put under ``caller`` in the metadata, or ``"host"``."""
        caller = self.metadata.get("caller")
        return caller if isinstance(caller, str) else "host"

    @property
    def metadata(self) -> Metadata:
        """The small map that the caller sent along."""
        return self._call.metadata

    @property
    def key(self) -> str | None:
        """The name that the caller gave to what this call does: the same each time it is tried.

        The host calls again if the instance is lost meanwhile. See :func:`call_once`.
        """
        return self._call.key

    @property
    def deadline(self) -> float:
        """When the call's time is up, on Trio's clock; ``inf`` if it has no deadline."""
        return self._deadline

    def remaining_seconds(self) -> float:
        """How much time is left; 0 if it is up or the caller has given up."""
        if self._call.cancelled is not None:
            return 0.0
        return max(self._deadline - self._service.clock.current_time(), 0.0)

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for the result any more.

        Async functions are cancelled as Trio tasks are. A plain function is not interrupted: one
        that takes long should look here now and then.
        """
        return self._call.cancelled is not None

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """``spear.function.<name>``; its records carry the call's number as ``call``."""
        logger = logging.getLogger(f"spear.function.{self._function}")
        return logging.LoggerAdapter(logger, {"call": self._call.id})

    @property
    def items(self) -> Items[Value]:
        """The items that the caller sends; none if it sends none."""
        return Items(self._call.receive_item, self._function, bridge=self._bridge, is_callers=True)

    # -- what can be done -----------------------------------------------------------------------------

    def progress(self, value: object) -> None:
        """Tell the caller how far the work is. Only the newest report that is not sent yet is kept.

        May be used in any thread; outside Trio's thread it waits for that one.

        Raises:
            TypeError: ``value`` cannot be sent.
        """
        payload, is_cbor = encode_report(value)
        if get_ident() == self._service.thread:
            self._call.report_progress(payload, is_cbor=is_cbor)
        else:
            trio.from_thread.run_sync(
                self._report_progress, payload, is_cbor, trio_token=self._service.token
            )

    def _report_progress(self, payload: Payload, is_cbor: bool) -> None:
        self._call.report_progress(payload, is_cbor=is_cbor)

    async def call(
        self, function: str, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> Value:
        """Call another function of the host and wait for what it returns.

        If cancelled, so is that function. It gets less time than this call has left, so that a chain
        of calls ends even if it is a circle.

        Args:
            function: its name at the host.
            arguments, keywords: for the function.
            timeout: seconds; the time that is left if that is less or this is None.

        Raises:
            InvalidArguments: an argument cannot be sent, or does not fit.
            DeadlineExceeded: the time was up.
            CallFailed: another subclass says why there is no result.
            ChannelClosed, ChannelBroken: the host leaves, or has gone.
        """
        payload, is_cbor = encode_call(function, arguments, keywords)
        return await self._call_other(function, payload, is_cbor, timeout, None)

    async def _call_other(
        self, function: str, payload: Payload, is_cbor: bool, timeout: float | None, key: str | None
    ) -> Value:
        arguments = (function, payload, is_cbor, timeout, key)
        if self._bridge is not None:
            response = await self._bridge.run_in_trio(self._request, *arguments)
        else:
            response = await self._request(*arguments)
        return _decoded(response.payload, response.is_cbor, function)

    def call_sync(
        self, function: str, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> Value:
        """:meth:`call` for the thread of a plain function.

        Raises:
            trio.Cancelled: nobody waits for this function any more.
        """
        payload, is_cbor = encode_call(function, arguments, keywords)
        if get_ident() == self._service.thread:
            raise LocalProtocolError("call_sync() would block Trio: use `await ...call()` here")
        # Without a token this is cancelled together with the function; a thread that only asyncio
        # knows has no such task to follow.
        is_plain = self._bridge is None
        token = None if is_plain else self._service.token
        response = trio.from_thread.run(
            self._request, function, payload, is_cbor, timeout, None, is_plain, trio_token=token
        )
        return _decoded(response.payload, response.is_cbor, function)

    async def _request(
        self,
        function: str,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        key: str | None = None,
        holds_thread: bool = False,
    ) -> ExecutionResponse:
        budget = self._budget(function, timeout)
        with self._waiting(function, holds_thread=holds_thread) as waiting:
            try:
                return await self._call.channel.request(
                    function,
                    payload,
                    timeout=budget.seconds,
                    is_cbor=is_cbor,
                    metadata=waiting.metadata,
                    key=key,
                )
            except DeadlineExceeded as failure:
                raise budget.exceeded(failure, waiting.stuck) from failure

    def _waiting(self, function: str, *, holds_thread: bool = False) -> Waiting:
        return self._service.own_calls.waiting(self._call, function, holds_thread=holds_thread)

    @protected_block
    async def stream(
        self, function: str, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> AsyncIterator[Items[Value]]:
        """Call another function of the host that gives a stream: iterate over its items.

        Leaving the block before the end cancels the function. Only for Trio code.

        Raises:
            As :meth:`call`, here or while iterating.
        """
        if self._bridge is not None:
            raise LocalProtocolError("streams cannot be taken from asyncio: use call()")
        payload, is_cbor = encode_call(function, arguments, keywords)
        budget = self._budget(function, timeout)
        async with AsyncExitStack() as stack:
            waiting = stack.enter_context(self._waiting(function))
            opening = self._call.channel.open_stream(
                function,
                payload,
                timeout=budget.seconds,
                is_cbor=is_cbor,
                metadata=waiting.metadata,
            )
            try:
                stream = await stack.enter_async_context(opening)
            except DeadlineExceeded as failure:
                raise budget.exceeded(failure, waiting.stuck) from failure

            async def receive() -> tuple[bytes, bool]:
                try:
                    return await stream.receive_item()
                except DeadlineExceeded as failure:
                    raise budget.exceeded(failure, waiting.stuck) from failure

            yield Items(receive, function)

    def _budget(self, function: str, timeout: float | None) -> _Budget:
        """The time for a call of ours: at least a millisecond less than we have.

        Raises:
            InvalidArguments: ``timeout`` is no number of seconds.
        """
        if timeout is not None:
            expect_timeout(timeout)
        left = self.remaining_seconds()
        if left == inf:
            seconds = self._service.call_seconds if timeout is None else timeout
            return _Budget(function, seconds, is_all=False)
        # Time travels in whole milliseconds, rounded up. Adding the time of day and taking it off again
        # leaves an error of nanoseconds: the fractions keep it from becoming a millisecond.
        left = (ceil(left * 1000 - 0.001) - 1.5) / 1000
        if timeout is None or timeout >= left:
            return _Budget(function, left, is_all=True)
        return _Budget(function, timeout, is_all=False)


@final
class _Budget:
    """The time that a function gives to a call which it makes.

    Args:
        function: what it calls.
        seconds: the timeout.
        is_all: whether that is all the time that is left.
    """

    __slots__ = ("_function", "_is_all", "seconds")

    def __init__(self, function: str, seconds: float, *, is_all: bool) -> None:
        self._function = function
        self.seconds = seconds
        self._is_all = is_all

    def exceeded(self, failure: DeadlineExceeded, why: str) -> DeadlineExceeded:
        """Return the DeadlineExceeded of the call, with the reason ``why``, if that is not empty."""
        late = DeadlineExceeded.of_call(self._function, self.seconds, failure.delivered)
        late = because_of(why, late)
        return about_call(late) if self._is_all else late


def _decoded(payload: bytes | memoryview, is_cbor: bool, function: str) -> Value:
    try:
        return decode_result(payload, is_cbor)
    except ValueError as error:
        raise CallFailed(f"{function}: what came is {error}", delivered="yes") from error
