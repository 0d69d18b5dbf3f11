"""The calls of one function of a host, over HTTP: headers, deadlines, responses.

The host's time limit travels as ``Spear-Timeout``. The client keeps the same limit, and waits a moment
longer, because only the host knows whether the function has run.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar, cast, final

import trio

from spear._errors import (
    ConfigurationError,
    DeadlineExceeded,
    InvalidArguments,
)
from spear._limits import expect_timeout
from spear.calls import (
    ONE_ATTEMPT,
    Attempts,
    CallMaker,
    CallOptions,
    FunctionStream,
    Reports,
    effective_deadline,
    leave_it_to_scope,
)
from spear.channels import ExecutionResponse, protected_block, protected_class
from spear.wire import CBOR, encode_call_alone

from ._client import CBOR_KIND
from ._failures import failure_of_untrusted
from ._items import RemoteItemCalls
from ._responses import details_untrusted, instance_of_untrusted, no_result, response_of_untrusted
from ._streams import DETAILS, MESSAGES_KIND, PROGRESS, RESULT, HostMessages, RemoteItems
from ._submitted import launch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from spear._retry_policy import RetryPolicy
    from spear.calls import (
        AssignmentObserver,
        Execution,
        FunctionDescription,
        ItemRunner,
        OnEnd,
    )
    from spear.wire import Payload

    from ._client import HostClient
    from ._connection import RequestHeaders, ResponseHead
    from ._deployment import RemoteDeployment

T = TypeVar("T")

REPLY_SECONDS: Final = 1.0
"""Seconds after the deadline of a call that its host has to say so, and whether the function has run."""

LAST_PART_SECONDS: Final = 1.0
"""Seconds to read the end of a response after its last message, so that its connection is kept."""

BYTES_KIND: Final = b"application/octet-stream"


@final
@protected_class
class RemoteCalls(CallMaker):
    """A maker of calls of one function of a host.

    Attributes:
        client: makes the requests.
        home: the function's deployment.
        path: the path of the function at the gateway.
    """

    def __init__(
        self,
        name: str,
        home: RemoteDeployment,
        client: HostClient,
        path: str,
        options: CallOptions,
        *,
        is_stream: bool,
    ) -> None:
        super().__init__(name, home.name, options, is_stream=is_stream)
        self.client = client
        self.home = home
        self.path = path
        self._headers = _headers_of(options)

    @property
    def place(self) -> str:
        """Where the calls go, for people."""
        return self.client.address.where

    @property
    def timeout(self) -> float:
        """Default timeout of a call, in seconds."""
        timeout = self.options.timeout
        return self.home.timeouts[self.name] if timeout is None else timeout

    @property
    def retry(self) -> RetryPolicy | None:
        """The policy for failed calls: of the options, or the one that the host has; None for none."""
        return self.options.retry or self.home.retry_policies.get(self.name)

    def using(self, options: CallOptions) -> RemoteCalls:
        """Return a maker of calls of the same function with other options."""
        return RemoteCalls(
            self.name, self.home, self.client, self.path, options, is_stream=self.is_stream
        )

    def encode(
        self, positional: tuple[object, ...], keywords: Mapping[str, object]
    ) -> tuple[Payload, bool]:
        """Return encoded arguments as the gateway reads them, and whether they are CBOR.

        Raises:
            InvalidArguments: an argument has no representation.
        """
        if self.options.keywords:
            keywords = {**self.options.keywords, **keywords}
        if len(positional) == 1 and not keywords and isinstance(positional[0], bytes):
            return positional[0], False
        return encode_call_alone(self.name, positional, keywords), True

    # -- one result ---------------------------------------------------------------------------

    def request(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: AssignmentObserver | None = None,
    ) -> Coroutine[object, object, ExecutionResponse]:
        """Make one call, as :meth:`Function.call` does; ``execution`` is notified of its instance."""
        if self.options.retry is not None:
            return self.repeat(self.attempts(timeout, execution), payload, is_cbor)
        return self._request_once(payload, is_cbor, timeout, execution)

    def attempts(
        self,
        timeout: float | None = None,
        execution: AssignmentObserver | None = None,
        *,
        is_item: bool = False,
    ) -> Attempts:
        """Return the attempts of one call, by the policy of its options.

        Args:
            timeout: seconds for all attempts; by default those of the function.
            execution: the observer that is notified of the instance of each attempt; may be None.
            is_item: whether the call is that of an item of a map.
        """
        if timeout is not None:
            expect_timeout(timeout)
        return Attempts(
            self.options.retry or ONE_ATTEMPT,
            None if is_item else self.home.retries,
            trio.current_time,
            self.home.rng,
            run_seconds=self.timeout if timeout is None else timeout,
            queue_seconds=self.options.queue_timeout,
            execution=execution,
            waits_for_queue=is_item,
        )

    async def _request_once(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: AssignmentObserver | None = None,
    ) -> ExecutionResponse:
        """Make one attempt of a call. If cancelled, the host cancels the function."""
        deadline, seconds, headers = await self.limit(timeout)
        headers.append((b"content-type", CBOR_KIND if is_cbor else BYTES_KIND))
        if self.options.retry is not None:  # the client makes the attempts
            headers.append((b"spear-max-attempts", b"1"))
        assert isinstance(payload, bytes)
        try:
            with trio.CancelScope(deadline=deadline + REPLY_SECONDS) as scope:
                if self.options.on_progress is not None:
                    return await self._request_reporting(headers, payload, seconds, execution)
                head, body = await self.client.exchange(
                    b"POST",
                    f"{self.path}/call",
                    [*headers, (b"accept", CBOR_KIND)],
                    payload,
                    may_repeat=self.options.key is not None,
                )
        except DeadlineExceeded:
            await leave_it_to_scope(deadline)
            raise
        if scope.cancelled_caught:
            await leave_it_to_scope(deadline)
            raise DeadlineExceeded.of_call(self.name, seconds, "maybe")
        if execution is not None and (instance := instance_of_untrusted(head)) is not None:
            execution.assigned(instance)
        return response_of_untrusted(head, body, self.client.address.where)

    async def _request_reporting(
        self,
        headers: RequestHeaders,
        body: bytes,
        seconds: float,
        execution: AssignmentObserver | None,
    ) -> ExecutionResponse:
        """Make one attempt of a call whose progress is reported."""
        assert self.options.on_progress is not None
        reports = Reports(self.options.on_progress)
        may_repeat = self.options.key is not None
        async with self._open_messages(
            "call", headers, body, seconds, inf, may_repeat=may_repeat
        ) as (_, messages):
            micros = 0
            while True:
                kind, content = await messages.receive()
                if kind == PROGRESS:
                    reports(content, True)
                elif kind == DETAILS:
                    instance, micros = details_untrusted(content)
                    if instance is not None and execution is not None:
                        execution.assigned(instance)
                elif kind == RESULT:
                    return ExecutionResponse(content, CBOR, micros)

    @protected_block
    async def _open_messages(
        self,
        way: str,
        headers: RequestHeaders,
        body: bytes,
        seconds: float,
        latest: float,
        *,
        may_repeat: bool = False,
    ) -> AsyncIterator[tuple[ResponseHead, HostMessages]]:
        """Make a request whose response is messages; leaving the block early cancels the call."""
        client = self.client
        connection, head = await client.begin(
            b"POST",
            f"{self.path}/{way}",
            [*headers, (b"accept", MESSAGES_KIND), (b"accept", CBOR_KIND)],
            body,
            may_repeat=may_repeat,
        )
        if head.status >= 400:
            content = await client.read_body(connection)
            raise failure_of_untrusted(head, content, client.address.where)
        messages = HostMessages(client, connection, self.name, seconds, latest)
        try:
            if head.kind != MESSAGES_KIND:
                raise no_result(head, client.address.where)
            yield head, messages
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_PART_SECONDS):
                await messages.aclose()

    async def limit(self, timeout: float | None) -> tuple[float, float, RequestHeaders]:
        """Return a call's deadline in Trio's time, its seconds, and its headers.

        Raises:
            InvalidArguments: ``timeout`` is no number of seconds.
            DeadlineExceeded: there is no time left.
        """
        options, now = self.options, trio.current_time()
        if timeout is None:
            timeout = options.timeout
        else:
            expect_timeout(timeout)
        seconds = self.home.timeouts[self.name] if timeout is None else timeout
        whole = seconds + (options.queue_timeout or 0.0)
        scope_seconds = effective_deadline() - now
        if min(whole, scope_seconds) <= 0:
            await trio.lowlevel.checkpoint()  # a `move_on_after` around must move on
            raise DeadlineExceeded.of_call(self.name, 0.0, "no")
        if scope_seconds < whole and options.key is None:
            whole = scope_seconds
            timeout = seconds = min(seconds, scope_seconds)
        if timeout is None:
            return now + whole, seconds, [*self._headers]
        return now + whole, seconds, [*self._headers, (b"spear-timeout", _number(timeout))]

    # -- later, streams, many items -----------------------------------------------------------

    def submit(
        self,
        payload: Payload,
        is_cbor: bool,
        *,
        argument_bytes: int,
        on_end: OnEnd | None,
        execution_id: str | None = None,
    ) -> Execution:
        """Submit a call to the host, where it goes on without this client."""
        options = self.options
        if options.on_progress is not None:
            raise ConfigurationError("on_progress is not supported for submitted calls over HTTP")
        headers = [*self._headers, (b"content-type", CBOR_KIND if is_cbor else BYTES_KIND)]
        headers.append((b"accept", CBOR_KIND))
        if options.timeout is not None:
            headers.append((b"spear-timeout", _number(options.timeout)))
        if options.retry is not None:  # the host makes the attempts
            if options.retry.idempotent:
                raise ConfigurationError(
                    "a retry policy with idempotent=True is not supported for submitted calls over HTTP: "
                    "set it for the function or its deployment"
                )
            headers.append((b"spear-max-attempts", b"%d" % options.retry.max_attempts))
        assert isinstance(payload, bytes)
        return launch(
            self, payload, headers,
            argument_bytes=argument_bytes, on_end=on_end, execution_id=execution_id,
        )  # fmt: skip

    @protected_block
    async def open_stream(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        *,
        sends_items: bool = False,
    ) -> AsyncIterator[FunctionStream]:
        """Open a stream, as :meth:`Function.stream` does, with encoded arguments."""
        if sends_items:
            raise ConfigurationError(
                "sends_items is not supported over HTTP: pass items as an argument, or use a WebSocket"
            )
        deadline, seconds, headers = await self.limit(timeout)
        headers.append((b"content-type", CBOR_KIND if is_cbor else BYTES_KIND))
        latest = deadline + REPLY_SECONDS
        on_progress = self.options.on_progress
        reports = None if on_progress is None else Reports(on_progress)
        assert isinstance(payload, bytes)
        try:
            async with AsyncExitStack() as stack:
                with trio.CancelScope(deadline=latest) as scope:
                    head, messages = await stack.enter_async_context(
                        self._open_messages("stream", headers, payload, seconds, latest)
                    )
                if scope.cancelled_caught:
                    raise DeadlineExceeded.of_call(self.name, seconds, "maybe")
                instance = instance_of_untrusted(head)
                if instance is None:
                    raise self.client.not_a_host()
                stream = FunctionStream._create(
                    RemoteItems(messages, reports),
                    self.name,
                    partial(DeadlineExceeded.of_call, self.name, seconds),
                    deadline,
                    instance,
                    sends_items=False,
                    convert=None if self.expected is None else self.convert,
                    reports=reports,
                )
                yield cast("FunctionStream", stream)
        except DeadlineExceeded:
            await leave_it_to_scope(deadline)
            raise

    def run_items(self, limit: int | None, *, unpack: bool, keeps_items: bool) -> ItemRunner[T]:
        """Return a maker of the calls of a map."""
        return RemoteItemCalls(self, limit, unpack=unpack, keeps_items=keeps_items)

    async def describe(self) -> dict[str, FunctionDescription]:
        """Return descriptions of the deployment's functions by name. A checkpoint."""
        return await self.home.descriptions()


def _headers_of(options: CallOptions) -> RequestHeaders:
    """Return the headers for options. Raises InvalidArguments."""
    headers: RequestHeaders = []
    if options.queue_timeout is not None:
        headers.append((b"spear-queue-timeout", _number(options.queue_timeout)))
    for name, header, text in (
        ("key", b"idempotency-key", options.key),
        ("session", b"spear-session", options.session),
    ):
        if text is not None:
            if not text.isascii() or not text.isprintable() or text != text.strip():
                raise InvalidArguments(
                    f"{name} must be printable ASCII text for a host over HTTP, without outer spaces, "
                    f"not {text!r:.60}"
                )
            headers.append((header, text.encode()))
    if options.metadata:
        try:
            text = json.dumps(dict(options.metadata), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidArguments(f"metadata must be JSON for a host over HTTP: {error}") from None
        headers.append((b"spear-metadata", text.encode()))
    return headers


def _number(seconds: float) -> bytes:
    return b"inf" if seconds == float("inf") else b"%.9g" % seconds
