"""What a function may know and do while it handles a call.

The call in progress is a context variable, set by whoever runs the function, so that it is found in
threads and asyncio tasks that the function starts, and never in another call. A :class:`CallContext` is
made when somebody asks for it: most calls never do.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from contextvars import ContextVar
from math import ceil, inf
from threading import get_ident
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar, cast, final

import trio

from spear._errors import (
    CallFailed,
    DeadlineExceeded,
    InvalidArguments,
    LocalProtocolError,
    NotInCall,
)
from spear._limits import expect_timeout
from spear._stalls import because_of
from spear.channels import protected_block, protected_class
from spear.wire import decode_result, encode_call

from ._encoding import encode_report
from ._failures import about_call
from ._mismatch import Mismatch

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.channels import ExecutionResponse, InboundCall, Metadata
    from spear.wire import Payload, Value

    from ._annotations import Check
    from ._asyncio_bridge import BridgedCall
    from ._own_calls import Waiting
    from ._service import AgentService

T = TypeVar("T")

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


@final
@protected_class
class Items(Generic[T]):
    """A stream of items that arrive from the other side, decoded.

    ``async for`` in Trio and asyncio code, ``for`` in the thread of a plain function. A function gets the
    items that its caller sends by a parameter with this annotation, as in
    ``async def total(prices: Items[float])``, or from :attr:`CallContext.items`.
    """

    __slots__ = ("_bridge", "_check", "_count", "_is_callers", "_name", "_receive")

    def __init__(
        self,
        receive: Callable[[], Awaitable[tuple[bytes, bool]]],
        name: str,
        *,
        check: Check | None = None,
        bridge: BridgedCall | None = None,
        is_callers: bool = False,
    ) -> None:
        self._receive = receive
        self._name = name
        self._check = check
        self._bridge = bridge
        self._is_callers = is_callers
        self._count = 0

    async def receive(self) -> T:
        """The next item.

        If cancelled, no item is lost. A checkpoint at least every 64 items.

        Raises:
            trio.EndOfChannel: there will be none.
            InvalidArguments: the item is not what the annotation asks for.
            SpearError: the stream failed.
        """
        if self._bridge is not None:
            payload, is_cbor = await self._bridge.run_in_trio(self._receive)
        else:
            payload, is_cbor = await self._receive()
        try:
            item: object = decode_result(payload, is_cbor)
        except ValueError as error:
            raise self._undecodable(error) from error
        if self._check is not None:
            item = self._checked(self._check, item)
        self._count += 1
        return cast("T", item)

    def _undecodable(self, error: ValueError) -> CallFailed:
        if self._is_callers:
            return self._invalid(Mismatch(str(error)), code=None)
        return CallFailed(f"{self._name}: what came is {error}", delivered="yes")

    def _checked(self, check: Check, item: object) -> object:
        try:
            return check(item)
        except Mismatch as mismatch:
            raise self._invalid(mismatch, code="argument_type") from None

    def _invalid(self, fault: Mismatch, *, code: str | None) -> InvalidArguments:
        parameter = f"items[{self._count}]{fault.path}"
        return about_call(
            InvalidArguments(
                f"{self._name}({parameter}): {fault}",
                parameter=parameter,
                expected=fault.expected,
                got=fault.got,
                code=code,
                delivered="yes",
            )
        )

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return trio.from_thread.run(self.receive)
        except trio.EndOfChannel:
            raise StopIteration from None


def _decoded(payload: bytes | memoryview, is_cbor: bool, function: str) -> Value:
    try:
        return decode_result(payload, is_cbor)
    except ValueError as error:
        raise CallFailed(f"{function}: what came is {error}", delivered="yes") from error
