"""The calls of one function of a host, over HTTP: headers, deadlines, responses.

The host's time limit travels as ``Spear-Timeout``. The client keeps the same limit, and waits a moment
longer, because only the host knows whether the function has run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, TypeVar, final

import trio

from spear._errors import (
    ConfigurationError,
    DeadlineExceeded,
    InvalidArguments,
    RemoteProtocolError,
)
from spear._ids import InstanceId
from spear._limits import expect_timeout
from spear.calls import (
    Attempts,
    CallMaker,
    CallOptions,
    effective_deadline,
    leave_it_to_scope,
)
from spear.channels import ExecutionResponse, protected_class
from spear.wire import CBOR, encode_call_alone

from ._client import CBOR_KIND

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from contextlib import AbstractAsyncContextManager

    from spear._retry_policy import RetryPolicy
    from spear.calls import (
        AssignmentObserver,
        Execution,
        FunctionDescription,
        FunctionStream,
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
            return self.repeat(self._attempts(timeout, execution), payload, is_cbor)
        return self._request_once(payload, is_cbor, timeout, execution)

    def _attempts(
        self, timeout: float | None, execution: AssignmentObserver | None, *, is_item: bool = False
    ) -> Attempts:
        assert self.options.retry is not None
        if timeout is not None:
            expect_timeout(timeout)
        return Attempts(
            self.options.retry,
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
        if self.options.on_progress is not None:
            raise ConfigurationError(
                "the option on_progress is not supported over HTTP: report progress as items of a stream"
            )
        deadline, seconds, headers = await self.limit(timeout)
        headers = [
            *headers,
            (b"accept", CBOR_KIND),
            (b"content-type", CBOR_KIND if is_cbor else BYTES_KIND),
        ]
        path = f"{self.path}/call"
        assert isinstance(payload, bytes)
        try:
            with trio.CancelScope(deadline=deadline + REPLY_SECONDS) as scope:
                head, body = await self.client.exchange(
                    b"POST", path, headers, payload, may_repeat=self.options.key is not None
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
            return now + whole, seconds, self._headers
        return now + whole, seconds, [*self._headers, (b"spear-timeout", _number(timeout))]

    # -- later, streams, many items -----------------------------------------------------------

    def submit(
        self, payload: Payload, is_cbor: bool, *, argument_bytes: int, on_end: OnEnd | None
    ) -> Execution:
        """Submit a call to the host; ``on_end`` is not called if this raises."""
        raise ConfigurationError("this is not supported over HTTP yet: call the function")

    def open_stream(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        *,
        sends_items: bool = False,
    ) -> AbstractAsyncContextManager[FunctionStream]:
        """Open a stream, as :meth:`Function.stream` does, with encoded arguments."""
        raise ConfigurationError("this is not supported over HTTP yet: call the function")

    def run_items(self, limit: int | None, *, unpack: bool, keeps_items: bool) -> ItemRunner[T]:
        """Return a maker of the calls of a map."""
        raise ConfigurationError("this is not supported over HTTP yet: call the function")

    async def describe(self) -> dict[str, FunctionDescription]:
        """Return descriptions of the deployment's functions by name. A checkpoint."""
        return await self.home.descriptions()


def _headers_of(options: CallOptions) -> RequestHeaders:
    """Return the headers for options. Raises InvalidArguments."""
    headers: RequestHeaders = []
    if options.queue_timeout is not None:
        headers.append((b"spear-queue-timeout", _number(options.queue_timeout)))
    if options.retry is not None:  # the client makes the attempts
        headers.append((b"spear-max-attempts", b"1"))
    for name, header, text in (
        ("key", b"idempotency-key", options.key),
        ("session", b"spear-session", options.session),
    ):
        if text is not None:
            if not text.isascii() or not text.isprintable():
                raise InvalidArguments(
                    f"{name} must be printable ASCII text for a host over HTTP, not {text!r:.60}"
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


def instance_of_untrusted(head: ResponseHead) -> InstanceId | None:
    """Return the instance that a response names; None if it names none, or wrongly."""
    text = head.headers.get(b"spear-instance", b"").decode("latin-1")
    return read_instance(text)


def read_instance(text: object) -> InstanceId | None:
    """Return the instance that a text names, as in ``process:shop-1#1``; None if it names none."""
    if not isinstance(text, str):
        return None
    runtime, _, rest = text.partition(":")
    name, _, incarnation = rest.rpartition("#")
    try:
        return InstanceId(runtime, name, int(incarnation))
    except (ValueError, ConfigurationError):
        return None


def response_of_untrusted(head: ResponseHead, body: bytes, where: str) -> ExecutionResponse:
    """Return the result in a response. Raises RemoteProtocolError if there is none."""
    if head.status != 200 or head.kind != CBOR_KIND:
        what = f"{where} has sent no result, but {head.kind.decode('latin-1')[:100]!r}"
        raise RemoteProtocolError(f"{what}: check the address", delivered="maybe")
    try:
        millis = float(head.headers.get(b"spear-duration-ms", b"0"))
    except ValueError:
        millis = 0.0
    return ExecutionResponse(body, CBOR, round(millis * 1000) if 0 <= millis < 1e12 else 0)
