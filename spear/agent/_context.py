"""The context of a call: information and operations for the function that handles the call.

The current call is a context variable, set before the function runs. Threads and asyncio tasks that the
function starts inherit it; other calls do not see it. A :class:`CallContext` is made only on request,
since most functions need none.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from math import ceil, inf
from threading import get_ident
from typing import TYPE_CHECKING, Final, TypeAlias, final, overload

import trio

from spear._codecs import CodecFault
from spear._errors import (
    CallFailed,
    DeadlineExceeded,
    LocalProtocolError,
    NotInCall,
)
from spear._limits import expect_timeout
from spear._stalls import because_of
from spear.annotations import build_expected_type
from spear.channels import protected_block, protected_class
from spear.wire import decode_result, encode_call

from ._encoding import encode_report
from ._failures import about_call
from ._items import Items

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from typing_extensions import TypeVar

    from spear._ids import InstanceId
    from spear.annotations import ExpectedType
    from spear.channels import ExecutionResponse, InboundCall, Metadata
    from spear.wire import Payload, Value

    from ._asyncio_bridge import BridgedCall
    from ._own_calls import WaitingCall
    from ._service import AgentService

    T = TypeVar("T", default=Value)


CurrentCall: TypeAlias = "tuple[InboundCall, str, float, AgentService, BridgedCall | None]"
"""The tuple (call, name of the function, deadline, service, bridge from asyncio to Trio or None)."""

current: Final[ContextVar[CurrentCall | Callable[[], CurrentCall] | CallContext | str]] = (
    ContextVar("spear call")
)
"""The current call, or a function that returns it, or a context made for a test; or the name of a
batched function, which runs on behalf of several calls."""


def context() -> CallContext:
    """Return the context of the call that the current function handles.

    Works in async functions, in threads of plain functions, and in asyncio coroutines.

    Raises:
        NotInCall: the code does not run on behalf of a call, or on behalf of several calls, as a batched
            function does.
    """
    state = current.get(None)
    if state is None:
        raise NotInCall(
            "this code runs outside of a call: only a function that handles a call has a context; a test "
            "makes one with spear.testing.calling()"
        )
    if isinstance(state, str):
        raise NotInCall(
            f"{state}() gets several calls at once, and has no context of one call: pass what the "
            "function needs as a part of each item"
        )
    if isinstance(state, CallContext):
        return state
    return CallContext(state if isinstance(state, tuple) else state())


@contextmanager
def using_context(call: CallContext) -> Iterator[None]:
    """Let :func:`spear.context` return ``call`` in the block, and in threads and tasks started there."""
    token = current.set(call)
    try:
        yield
    finally:
        current.reset(token)


@protected_class
class CallContext:
    """A call as seen by the function that handles it; returned by :func:`context`.

    Only :mod:`spear.testing` has a subclass, for functions that are called without a host.
    """

    __slots__ = ("_bridge", "_call", "_deadline", "_function", "_service")

    def __init__(self, state: CurrentCall) -> None:
        self._call, self._function, self._deadline, self._service, self._bridge = state

    def __repr__(self) -> str:
        return f"<CallContext {self.function}, call {self.call_id} of {self.instance_id}>"

    # -- information ----------------------------------------------------------------------------------

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
        """The id of the instance in which the function runs."""
        return self._call.channel.instance_id

    @property
    def caller(self) -> str:
        """The caller's name: the metadata ``caller`` from the host, or ``"host"`` if there is none."""
        caller = self.metadata.get("caller")
        return caller if isinstance(caller, str) else "host"

    @property
    def metadata(self) -> Metadata:
        """The metadata of the call: a small map from the caller."""
        return self._call.metadata

    @property
    def key(self) -> str | None:
        """The idempotency key of the call, the same for each attempt; None if the caller gave none.

        The host repeats the call if the instance is lost meanwhile. See :func:`call_once`.
        """
        return self._call.key

    @property
    def deadline(self) -> float:
        """The call's deadline, on Trio's clock; ``inf`` if it has none."""
        return self._deadline

    def remaining_seconds(self) -> float:
        """Return the seconds until the deadline; 0 if it has passed or the call was cancelled."""
        if self._call.cancelled is not None:
            return 0.0
        return max(self._deadline - self._service.clock.current_time(), 0.0)

    @property
    def is_cancelled(self) -> bool:
        """Whether the call was cancelled, so that its result is no longer needed.

        An async function is cancelled like any Trio task. A plain function is not interrupted; one that
        takes long should check this property regularly.
        """
        return self._call.cancelled is not None

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """The logger ``spear.function.<name>``, with the call's number as ``call`` in each record."""
        logger = logging.getLogger(f"spear.function.{self.function}")
        return logging.LoggerAdapter(logger, {"call": self.call_id})

    @property
    def items(self) -> Items[Value]:
        """The stream of items that the caller sends; empty if it sends none."""
        return Items(self._call.receive_item, self._function, bridge=self._bridge, is_callers=True)

    # -- operations -----------------------------------------------------------------------------------

    def progress(self, value: object) -> None:
        """Report progress to the caller. A newer report replaces one that is not yet sent.

        May be called in any thread; in other threads than Trio's, it waits for Trio's thread.

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

    @overload
    async def call(
        self,
        function: str,
        /,
        *arguments: object,
        timeout: float | None = None,
        returns: type[T] | None = None,
        **keywords: object,
    ) -> T: ...

    @overload
    async def call(
        self,
        function: str,
        /,
        *arguments: object,
        timeout: float | None = None,
        returns: object,
        **keywords: object,
    ) -> object: ...

    async def call(
        self,
        function: str,
        /,
        *arguments: object,
        timeout: float | None = None,
        returns: object = None,
        **keywords: object,
    ) -> object:
        """Call another function of the host, and return its result.

        Cancellation also cancels the called function. The called function gets less time than this call
        has left, so that even a cycle of calls ends.

        Args:
            function: the name of the function at the host.
            arguments, keywords: the arguments of the function.
            timeout: seconds, limited to the remaining time of this call; None for the remaining time, or
                for the agent's default if this call has no deadline.
            returns: the type that the result must have, such as a data class; the result is checked and
                converted as an argument would be. By default it is returned as it arrives.

        Raises:
            InvalidArguments: an argument cannot be sent, or does not fit; or no result can have the type
                ``returns``.
            UnexpectedResult: the result does not fit ``returns``.
            DeadlineExceeded: the timeout has passed.
            CallFailed: the call failed; the subclass is the reason.
            ChannelClosed, ChannelBroken: the host is shutting down, or the connection is lost.
        """
        return await self._call_other(function, arguments, keywords, timeout, returns)

    async def _call_other(
        self,
        function: str,
        arguments: Sequence[object],
        keywords: Mapping[str, object],
        timeout: float | None,
        returns: object,
        key: str | None = None,
    ) -> object:
        expected = build_expected_type(returns)
        request = (function, *encode_call(function, arguments, keywords), timeout, key)
        if self._bridge is not None:
            response = await self._bridge.run_in_trio(self._request, *request)
        else:
            response = await self._request(*request)
        return _decoded(response, function, expected)

    @overload
    def call_sync(
        self,
        function: str,
        /,
        *arguments: object,
        timeout: float | None = None,
        returns: type[T] | None = None,
        **keywords: object,
    ) -> T: ...

    @overload
    def call_sync(
        self,
        function: str,
        /,
        *arguments: object,
        timeout: float | None = None,
        returns: object,
        **keywords: object,
    ) -> object: ...

    def call_sync(
        self,
        function: str,
        /,
        *arguments: object,
        timeout: float | None = None,
        returns: object = None,
        **keywords: object,
    ) -> object:
        """Call another function like :meth:`call`, from the thread of a plain function.

        Raises:
            trio.Cancelled: the call that this function handles was cancelled.
        """
        return self._call_from_thread(function, arguments, keywords, timeout, returns)

    def _call_from_thread(
        self,
        function: str,
        arguments: Sequence[object],
        keywords: Mapping[str, object],
        timeout: float | None,
        returns: object,
    ) -> object:
        expected = build_expected_type(returns)
        payload, is_cbor = encode_call(function, arguments, keywords)
        if get_ident() == self._service.thread:
            raise LocalProtocolError("call_sync() would block Trio's thread: use `await ...call()`")
        # Without a token, cancelling the function's call cancels this one, too. A thread started by
        # asyncio has no Trio task from which it could inherit the cancellation.
        is_plain = self._bridge is None
        token = None if is_plain else self._service.token
        response = trio.from_thread.run(
            self._request, function, payload, is_cbor, timeout, None, is_plain, trio_token=token
        )
        return _decoded(response, function, expected)

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
                response = await self._call.channel.request(
                    function,
                    payload,
                    timeout=budget.seconds,
                    is_cbor=is_cbor,
                    metadata=waiting.metadata,
                    key=key,
                )
            except DeadlineExceeded as failure:
                raise budget.exceeded(failure, waiting.stuck) from failure
        if response.is_segment:
            await response.settle()
        return response

    def _waiting(self, function: str, *, holds_thread: bool = False) -> WaitingCall:
        return self._service.own_calls.waiting(self._call, function, holds_thread=holds_thread)

    @overload
    def stream(
        self,
        function: str,
        /,
        *arguments: object,
        timeout: float | None = None,
        returns: type[T] | None = None,
        **keywords: object,
    ) -> AbstractAsyncContextManager[Items[T]]: ...

    @overload
    def stream(
        self,
        function: str,
        /,
        *arguments: object,
        timeout: float | None = None,
        returns: object,
        **keywords: object,
    ) -> AbstractAsyncContextManager[Items[object]]: ...

    def stream(
        self,
        function: str,
        /,
        *arguments: object,
        timeout: float | None = None,
        returns: object = None,
        **keywords: object,
    ) -> AbstractAsyncContextManager[Items[object]]:
        """Call another function of the host that returns a stream, and iterate over its items.

        Leaving the block before the end cancels the function. Only for Trio code. ``returns`` is the type
        of an item; see :meth:`call`.

        Raises:
            Errors of :meth:`call`, on entering the block or while iterating.
        """
        return self._stream(function, arguments, keywords, timeout, returns)

    @protected_block
    async def _stream(
        self,
        function: str,
        arguments: Sequence[object],
        keywords: Mapping[str, object],
        timeout: float | None,
        returns: object,
    ) -> AsyncIterator[Items[object]]:
        if self._bridge is not None:
            raise LocalProtocolError(
                "asyncio functions cannot receive streams: use call(), or write the function for Trio"
            )
        expected = build_expected_type(returns)
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

            convert = None if expected is None else partial(expected.convert, function)
            yield Items(receive, function, check=convert)

    def _budget(self, function: str, timeout: float | None) -> _CallTimeout:
        """Return the time for an outgoing call: at least a millisecond less than this call has left.

        Raises:
            InvalidArguments: ``timeout`` is not a valid number of seconds.
        """
        if timeout is not None:
            expect_timeout(timeout)
        left = self.remaining_seconds()
        if left == inf:
            seconds = self._service.call_seconds if timeout is None else timeout
            return _CallTimeout(function, seconds, is_all=False)
        # On the wire, times are whole milliseconds, rounded up. Adding and subtracting clock times
        # causes errors of nanoseconds; the fractions keep them from becoming a millisecond.
        left = (ceil(left * 1000 - 0.001) - 1.5) / 1000
        if timeout is None or timeout >= left:
            return _CallTimeout(function, left, is_all=True)
        return _CallTimeout(function, timeout, is_all=False)


@final
class _CallTimeout:
    """A timeout of a call that a function makes.

    Args:
        function: the name of the called function.
        seconds: the timeout.
        is_all: whether the timeout is all the remaining time of the calling function.
    """

    __slots__ = ("_function", "_is_all", "seconds")

    def __init__(self, function: str, seconds: float, *, is_all: bool) -> None:
        self._function = function
        self.seconds = seconds
        self._is_all = is_all

    def exceeded(self, failure: DeadlineExceeded, why: str) -> DeadlineExceeded:
        """Return the DeadlineExceeded of the call, with the reason ``why`` unless it is empty."""
        late = DeadlineExceeded.of_call(self._function, self.seconds, failure.delivered)
        late = because_of(why, late)
        return about_call(late) if self._is_all else late


def _decoded(response: ExecutionResponse, function: str, expected: ExpectedType | None) -> object:
    try:
        result = decode_result(response.payload, response.is_cbor)
    except CodecFault as fault:
        raise fault.of_result(f"{function}: cannot decode the result") from fault
    except ValueError as error:
        raise CallFailed(
            f"{function}: cannot decode the result: {error}", delivered="yes"
        ) from error
    return result if expected is None else expected.convert(function, result)
