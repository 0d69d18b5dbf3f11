"""A deployed function, as its callers see it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from inspect import iscoroutinefunction
from math import isnan
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs
import trio

from spear._errors import (
    ChannelBroken,
    ChannelClosed,
    ConfigurationError,
    DeadlineExceeded,
    InvalidArguments,
    LocalProtocolError,
    NotFound,
    Rejected,
    SpearError,
)
from spear._util import NoPublicConstructor
from spear.channels import encode_call

from ._arguments import Payload, Result, decode_result_untrusted
from ._executions import Execution, Work
from ._streams import FunctionStream, leave_it_to_scope

if TYPE_CHECKING:
    from spear._errors import Delivered
    from spear.channels import ExecutionResponse, Metadata

    from ._replicas import ReplicaSet

Launch: TypeAlias = Callable[[str, Work], Execution]
"""(function's name, what to run) -> the execution, running in a task of the spearlet."""

MAX_ATTEMPTS: Final = 3
"""How often a call that certainly was not executed is tried, each time at the next replica."""


@final
@attrs.frozen(kw_only=True)
class CallOptions:
    """What a caller may say about a call besides its arguments.

    Attributes:
        timeout: seconds, by default the limit ``call_seconds``; ``math.inf`` must be asked for. If less
            is left of the surrounding cancel scopes, that counts.
        metadata: a small map for the handler.
        key: a name for what the call does, the same each time it is tried. It travels with the call,
            for a function that wants to do it only once (``spear.context().key``). Nothing else looks at
            it: calls that have the same key are not the same to Spear.
        on_progress: called with each progress report that arrives, in the task that waits for the call.
            If it raises, the call is cancelled and raises the same.
        keywords: more keyword arguments, for parameters whose names mean something to the methods of
            :class:`Function` themselves, such as ``timeout``.
    """

    timeout: float | None = None
    metadata: Metadata | None = None
    key: str | None = None
    on_progress: Callable[[Result], None] | None = None
    keywords: Mapping[str, object] = attrs.field(factory=dict)


_DEFAULTS: Final = CallOptions()

_DESCRIBE: Final = "spear.describe"
"""The function that each of Spear's agents has: a list of maps, one for each of its others."""


@final
class Function(metaclass=NoPublicConstructor):
    """A function of a deployment. Call it like a function: ``await shop.price("tea")``.

    Made by :meth:`Deployment.function` or by attribute access on a deployment.

    Attributes:
        name: its name.
        is_stream: whether it sends items: then use :meth:`stream`.
    """

    def __init__(
        self,
        name: str,
        replicas: ReplicaSet,
        launch: Launch,
        options: CallOptions = _DEFAULTS,
        *,
        is_stream: bool,
    ) -> None:
        self.name = name
        self.is_stream = is_stream
        self._replicas = replicas
        self._launch = launch
        self._options = options

    def __repr__(self) -> str:
        return f"<Function {self.name} on {len(self._replicas.ready)} replicas>"

    def options(
        self,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        key: str | None = None,
        on_progress: Callable[[Result], None] | None = None,
        keywords: Mapping[str, object] | None = None,
    ) -> Function:
        """The same function with other :class:`CallOptions`; what is not given stays as it was.

        Raises:
            InvalidArguments: ``metadata`` is no map, or ``on_progress`` no plain function.
        """
        if metadata is not None:
            _expect_map(metadata)
        if on_progress is not None:
            _expect_plain_function(on_progress)
        now = self._options
        options = CallOptions(
            timeout=now.timeout if timeout is None else timeout,
            metadata=now.metadata if metadata is None else metadata,
            key=now.key if key is None else key,
            on_progress=now.on_progress if on_progress is None else on_progress,
            keywords=now.keywords if keywords is None else keywords,
        )
        function: Function = Function._create(
            self.name, self._replicas, self._launch, options, is_stream=self.is_stream
        )
        return function

    async def signature(self) -> str:
        """How it is called, as it was written: ``price(item: str) -> float``. A checkpoint.

        Raises:
            NotFound: what runs it is not Spear's agent, and cannot tell.
            CallFailed: as :meth:`call`.
        """
        describe: Function = Function._create(
            _DESCRIBE, self._replicas, self._launch, self._options, is_stream=False
        )
        descriptions = await describe.options(keywords={})()
        for each in descriptions if isinstance(descriptions, list) else ():
            if isinstance(each, dict) and each.get("name") == self.name:
                return str(each.get("signature"))
        raise NotFound(f"nothing is known about {self.name}")

    # -- one result ---------------------------------------------------------------------------

    async def call(
        self, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> Result:
        """Call the function and wait for its result. A checkpoint.

        If cancelled, so is the function. A call that certainly was not executed, because its replica
        was leaving, goes to the next replica; nothing else is ever repeated.

        Args:
            arguments: positional arguments; one that is bytes travels uncopied.
            timeout: seconds; see :class:`CallOptions`.
            keywords: keyword arguments.

        Raises:
            FunctionRaised: it ran and raised.
            InvalidArguments: the arguments do not fit; the message names the parameter.
            DeadlineExceeded: the time was up.
            WorkerDied: the instance is gone, or there is none.
            CallFailed: see the other subclasses.
        """
        payload, is_cbor = self._encode(arguments, keywords)
        response = await self._request(payload, is_cbor, timeout)
        return decode_result_untrusted(response.payload, response.is_cbor)

    __call__ = call

    def submit(
        self, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> Execution:
        """Call the function without waiting; returns a handle with status, result and cancel.

        The execution belongs to the spearlet: it is cancelled when that ends.

        Raises:
            InvalidArguments: an argument has no representation.
            SpearError: the spearlet has ended.
        """
        payload, is_cbor = self._encode(arguments, keywords)

        async def work(execution: Execution) -> tuple[Result, float]:
            response = await self._request(payload, is_cbor, timeout, execution)
            result = decode_result_untrusted(response.payload, response.is_cbor)
            return result, response.execution_seconds

        return self._launch(self.name, work)

    async def forward(
        self, payload: Payload, is_cbor: bool, timeout: float | None
    ) -> ExecutionResponse:
        """Call with arguments that are encoded already, and leave the result as it comes.

        If cancelled, so is the function. Raises as :meth:`call`.
        """
        self._expect_stream(False)
        return await self._request(payload, is_cbor, timeout)

    def _encode(
        self, positional: tuple[object, ...], keywords: Mapping[str, object]
    ) -> tuple[Payload, bool]:
        self._expect_stream(False)
        if self._options.keywords:
            keywords = {**self._options.keywords, **keywords}
        return encode_call(self.name, positional, keywords)

    def _expect_stream(self, expected: bool) -> None:
        if self.is_stream and not expected:
            raise Rejected(f"{self.name}() gives a stream: use {self.name}.stream(...)")
        if expected and not self.is_stream:
            raise Rejected(f"{self.name}() gives one result, not a stream: call {self.name}(...)")

    async def _request(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: Execution | None = None,
    ) -> ExecutionResponse:
        options = self._options
        reports = None if options.on_progress is None else _Reports(options.on_progress)
        now = begun = trio.current_time()
        deadline = self._deadline(timeout, now)
        if deadline <= now:  # not DeadlineExceeded: `move_on_after` is to move on
            await trio.lowlevel.checkpoint()
        attempt = 1
        while True:
            replica, channel = self._replicas.pick()
            if execution is not None:
                execution.instance = replica.id
            try:
                return await channel.request(
                    self.name,
                    payload,
                    timeout=deadline - now,
                    is_cbor=is_cbor,
                    metadata=options.metadata,
                    key=options.key,
                    on_progress=reports,
                )
            except LocalProtocolError as error:
                raise _cannot_be_sent(self.name, error) from error
            except DeadlineExceeded as error:
                await leave_it_to_scope(deadline)
                delivered = _delivered(error, reports)
                raise DeadlineExceeded.of_call(self.name, deadline - begun, delivered) from error
            except (ChannelBroken, ChannelClosed, Rejected) as error:
                # Rejected, too, if the call crossed the message that the replica is leaving.
                is_safe = error.delivered == "no" and not channel.is_connected
                if not is_safe or attempt >= MAX_ATTEMPTS:
                    if isinstance(error, Rejected):
                        raise
                    delivered = _delivered(error, reports)
                    raise await self._replicas.explain_loss(replica, error, delivered) from error
                attempt += 1
                now = trio.current_time()

    def _deadline(self, timeout: float | None, now: float) -> float:
        """In Trio's time; see :class:`CallOptions`."""
        if timeout is None:
            timeout = self._options.timeout
        if timeout is None:
            timeout = self._replicas.call_seconds
        else:
            _expect_seconds(timeout)
        return min(now + timeout, trio.current_effective_deadline())

    # -- streams ------------------------------------------------------------------------------

    @asynccontextmanager
    async def stream(
        self,
        /,
        *arguments: object,
        timeout: float | None = None,
        sends_items: bool = False,
        **keywords: object,
    ) -> AsyncIterator[FunctionStream]:
        """Call a function that streams; iterate over what this yields for its items.

        Leaving the block before the end cancels the function.

        Args:
            arguments: positional arguments.
            timeout: seconds for the whole stream.
            sends_items: whether items will be sent to the function, too. Also for a function that takes
                items and gives one result: wait for it with :meth:`FunctionStream.result`.
            keywords: keyword arguments.

        Raises:
            As :meth:`call`, here or from the stream.
        """
        if not sends_items:
            self._expect_stream(True)
        if self._options.key is not None or self._options.on_progress is not None:
            raise ConfigurationError("key and on_progress go with calls, not with streams")
        keywords = {**self._options.keywords, **keywords}
        payload, is_cbor = encode_call(self.name, arguments, keywords)
        async with self._open(payload, is_cbor, timeout, sends_items=sends_items) as stream:
            yield stream

    @asynccontextmanager
    async def forward_stream(
        self, payload: Payload, is_cbor: bool, timeout: float | None
    ) -> AsyncIterator[FunctionStream]:
        """:meth:`stream` with arguments that are encoded already."""
        self._expect_stream(True)
        async with self._open(payload, is_cbor, timeout) as stream:
            yield stream

    @asynccontextmanager
    async def _open(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        *,
        sends_items: bool = False,
    ) -> AsyncIterator[FunctionStream]:
        now = begun = trio.current_time()
        deadline = self._deadline(timeout, now)
        if deadline <= now:  # as above
            await trio.lowlevel.checkpoint()
        attempt = 1
        async with AsyncExitStack() as stack:
            while True:
                replica, channel = self._replicas.pick()
                opening = channel.open_stream(
                    self.name,
                    payload,
                    timeout=deadline - now,
                    is_cbor=is_cbor,
                    metadata=self._options.metadata,
                    sends_items=sends_items,
                )
                try:
                    stream = await stack.enter_async_context(opening)
                    break
                except LocalProtocolError as error:
                    raise _cannot_be_sent(self.name, error) from error
                except DeadlineExceeded as error:
                    await leave_it_to_scope(deadline)
                    seconds = deadline - begun
                    raise DeadlineExceeded.of_call(self.name, seconds, "no") from error
                except (ChannelBroken, ChannelClosed) as error:  # it was not sent
                    if attempt >= MAX_ATTEMPTS:
                        failure = await self._replicas.explain_loss(replica, error, "no")
                        raise failure from error
                    attempt += 1
                    now = trio.current_time()
            yield FunctionStream._create(
                stream, self.name, begun, deadline, self._replicas, replica, sends_items=sends_items
            )


_ADVICE: Final = (
    ("a payload ", "; send it in parts, as items, or raise max_message_bytes of spear.Limits"),
    ("a head ", ": metadata and key are too large; send less, or send it as an argument"),
)
"""What to do about what the wire does not take."""


def _cannot_be_sent(function: str, error: LocalProtocolError) -> InvalidArguments:
    text = str(error)
    advice = (advice for start, advice in _ADVICE if text.startswith(start))
    return InvalidArguments(f"{function}(): {text}{next(advice, '')}")


def _expect_seconds(timeout: float) -> None:
    try:
        is_number = not isnan(timeout)  # that would be no deadline at all
    except TypeError:
        is_number = False
    if not is_number:
        raise InvalidArguments(f"timeout must be a number of seconds, not {timeout!r}")


def _expect_plain_function(on_progress: object) -> None:
    if not callable(on_progress) or iscoroutinefunction(on_progress):
        raise InvalidArguments(f"on_progress must be a plain function, not {on_progress!r:.60}")


def _expect_map(metadata: object) -> None:
    if not isinstance(metadata, Mapping):
        raise InvalidArguments(f"metadata must be a small map, not {metadata!r:.60}")


@final
class _Reports:
    """Hands on progress reports, and remembers that there were some."""

    def __init__(self, on_progress: Callable[[Result], None]) -> None:
        self._on_progress = on_progress
        self.arrived = False

    def __call__(self, payload: bytes, is_cbor: bool) -> None:
        self.arrived = True
        self._on_progress(decode_result_untrusted(payload, is_cbor))


def _delivered(error: SpearError, reports: _Reports | None) -> Delivered:
    """What is known for certain: who reports progress has begun."""
    return "yes" if reports is not None and reports.arrived else error.delivered
