"""A deployed function, as its callers see it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import (
    ChannelBroken,
    ChannelClosed,
    ConfigurationError,
    DeadlineExceeded,
    LocalProtocolError,
    NotFound,
    Rejected,
    SpearError,
)
from spear._util import NoPublicConstructor
from spear.channels import encode_call

from ._answers import Answer, Place, read_descriptions
from ._arguments import Payload, Result, decode_result_untrusted
from ._executions import Execution
from ._options import DEFAULTS, CallOptions, cannot_be_sent, expect_seconds
from ._replicas import explain_loss
from ._streams import FunctionStream, first_of, leave_it_to_scope

if TYPE_CHECKING:
    from spear._errors import Delivered
    from spear.channels import CommunicationChannel, ExecutionResponse, Metadata

    from ._answers import Placed
    from ._host import Host
    from ._policies import Choice
    from ._pool import ReplicaPool
    from ._replicas import ServingReplica

MAX_ATTEMPTS: Final = 3
"""How often a call is tried that was certainly not executed, or has a key; each time at another replica,
if there is one."""

DESCRIBE: Final = "spear.describe"
"""The function that each of Spear's agents has: a list of maps, one for each of its others."""


@final
class Function(metaclass=NoPublicConstructor):
    """A function of a deployment. Call it like a function: ``await shop.price("tea")``.

    Made by :meth:`Deployment.function` or by attribute access on a deployment.

    Attributes:
        name: its name.
        deployment: the name of its deployment.
        is_stream: whether it sends items: then use :meth:`stream`.
    """

    def __init__(
        self,
        name: str,
        deployment: str,
        pool: ReplicaPool,
        host: Host,
        options: CallOptions = DEFAULTS,
        *,
        is_stream: bool,
    ) -> None:
        self.name = name
        self.deployment = deployment
        self.is_stream = is_stream
        self._pool = pool
        self._host = host
        self._options = options
        self._counters = pool.counters(name)

    def __repr__(self) -> str:
        return f"<Function {self.name} on {len(self._pool.ready)} replicas>"

    @property
    def timeout(self) -> float:
        """Seconds for a call that names none."""
        return self._pool.call_seconds if self._options.timeout is None else self._options.timeout

    def _with(self, options: CallOptions, name: str, *, is_stream: bool) -> Function:
        function: Function = Function._create(
            name, self.deployment, self._pool, self._host, options, is_stream=is_stream
        )
        return function

    def options(
        self,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        key: str | None = None,
        session: str | None = None,
        on_progress: Callable[[Result], None] | None = None,
        keywords: Mapping[str, object] | None = None,
    ) -> Function:
        """The same function with other :class:`CallOptions`; what is not given stays as it was.

        Raises:
            InvalidArguments: one of them is not what it should be; the message says which.
        """
        now = self._options
        options = CallOptions(
            timeout=now.timeout if timeout is None else timeout,
            metadata=now.metadata if metadata is None else metadata,
            key=now.key if key is None else key,
            session=now.session if session is None else session,
            on_progress=now.on_progress if on_progress is None else on_progress,
            keywords=now.keywords if keywords is None else keywords,
        )
        return self._with(options, self.name, is_stream=self.is_stream)

    async def signature(self) -> str:
        """How it is called, as it was written: ``price(item: str) -> float``. A checkpoint.

        Raises:
            NotFound: what runs it is not Spear's agent, and cannot tell.
            CallFailed: as :meth:`call`.
        """
        timeout = self._options.timeout
        describe = self._with(CallOptions(timeout=timeout), DESCRIBE, is_stream=False)
        description = read_descriptions(await describe()).get(self.name)
        if description is None:
            raise NotFound(f"nothing is known about {self.name}")
        return description.signature

    # -- one result ---------------------------------------------------------------------------

    async def call(
        self, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> Result:
        """Call the function and wait for its result. A checkpoint.

        While no replica has room, it waits for its turn. If cancelled, so is the function. A call that
        certainly was not executed, because its replica was leaving, goes to the next replica, and so
        does one with a key whose replica was lost; nothing else is ever repeated.

        Args:
            arguments: positional arguments; one that is bytes travels uncopied.
            timeout: seconds; see :class:`CallOptions`.
            keywords: keyword arguments.

        Raises:
            FunctionRaised: it ran and raised.
            InvalidArguments: the arguments do not fit; the message names the parameter.
            DeadlineExceeded: the time was up.
            Overloaded: too many calls wait already.
            WorkerDied: the instance is gone, or none could be kept alive.
            CallFailed: see the other subclasses.
        """
        payload, is_cbor = self._encode(arguments, keywords)
        response = await self._request(payload, is_cbor, timeout)
        return decode_result_untrusted(response.payload, response.is_cbor)

    __call__ = call

    async def ask(self, /, *arguments: object, **keywords: object) -> Answer:
        """:meth:`call`, and how the result came to be. A checkpoint."""
        payload, is_cbor = self._encode(arguments, keywords)
        place = Place()
        response = await self._request(payload, is_cbor, None, place)
        return Answer(
            result=decode_result_untrusted(response.payload, response.is_cbor),
            instance=place.instance,
            execution_seconds=response.execution_seconds,
        )

    def submit(
        self, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> Execution:
        """Call the function without waiting; returns a handle with status, result and cancel.

        The execution belongs to the spearlet: it is cancelled when that ends, and kept for a while after
        its own end (:attr:`Spearlet.executions`).

        Raises:
            InvalidArguments: an argument has no representation.
            Overloaded: ``Limits.max_submitted`` executions have not ended.
            SpearError: the spearlet has ended.
        """
        payload, is_cbor = self._encode(arguments, keywords)

        async def work(execution: Execution) -> ExecutionResponse:
            return await self._request(payload, is_cbor, timeout, execution)

        return self._host.launch(self.deployment, self.name, self._pool, work)

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
        if self.is_stream:
            self._expect_stream(False)
        if self._options.keywords:
            keywords = {**self._options.keywords, **keywords}
        if len(positional) == 1 and not keywords and type(positional[0]) is bytes:
            return positional[0], False  # what encode_call() would say, in a third of the time
        return encode_call(self.name, positional, keywords)

    def _expect_stream(self, expected: bool) -> None:
        if self.is_stream and not expected:
            raise Rejected(f"{self.name}() gives a stream: use {self.name}.stream(...)")
        if expected and not self.is_stream:
            raise Rejected(f"{self.name}() gives one result, not a stream: call {self.name}(...)")

    def _request(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: Placed | None = None,
    ) -> Coroutine[object, object, ExecutionResponse]:
        if self._options.key is None:
            return self._perform(payload, is_cbor, timeout, execution)
        return self._perform_once(self._options.key, payload, is_cbor, timeout, execution)

    async def _perform_once(
        self,
        key: str,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: Placed | None,
    ) -> ExecutionResponse:
        pool, is_ours = self._pool, False
        begun = pool.clock()

        def perform() -> Coroutine[object, object, ExecutionResponse]:
            nonlocal is_ours
            is_ours = True
            # In a task of its own, where the scopes around us do not count.
            return self._perform(payload, is_cbor, deadline - begun, execution)

        name = (self.deployment, self.name, key)
        deadline = self._deadline(timeout, begun)
        response = await self._host.outcomes.once(
            name, payload, deadline, pool.keep_seconds, perform
        )
        if not is_ours:  # or it has been counted
            self._ended(begun)
        return response

    async def _perform(
        self, payload: Payload, is_cbor: bool, timeout: float | None, execution: Placed | None
    ) -> ExecutionResponse:
        """Call, and if that is safe, call again."""
        pool, options = self._pool, self._options
        reports = None if options.on_progress is None else _Reports(options.on_progress)
        now = begun = pool.clock()
        deadline = self._deadline(timeout, now)
        if deadline <= now:  # not DeadlineExceeded: `move_on_after` is to move on
            await trio.lowlevel.checkpoint()
        attempts = 0
        try:
            while True:
                choice = pool.pick(options.session)
                if choice is None:
                    choice = await self._wait_for_room(begun, deadline, execution)
                    now = pool.clock()
                replica, channel = choice
                if execution is not None:
                    execution.place(replica.id)
                try:
                    response = await channel.request(
                        self.name,
                        payload,
                        timeout=deadline - now,
                        is_cbor=is_cbor,
                        metadata=options.metadata,
                        key=options.key,
                        on_progress=reports,
                    )
                except SpearError as error:
                    attempts += 1
                    if not self._may_try_again(error, channel, attempts):
                        await self._explain(error, replica, begun, deadline, reports)
                        raise
                    now = pool.clock()
                else:
                    # As _ended() does, which would cost every call a hundredth of its rate.
                    seconds = pool.clock() - begun
                    self._counters.answered(seconds)
                    if self._host.on_call is not None:
                        self._host.tell(self.deployment, self.name, seconds, None, options.metadata)
                    return response
        except BaseException as error:
            self._ended(begun, error)
            raise

    def _may_try_again(
        self, error: SpearError, channel: CommunicationChannel, attempts: int
    ) -> bool:
        """Whether a call that has failed can safely be made once more."""
        if channel.is_connected or attempts >= MAX_ATTEMPTS:
            return False
        if isinstance(error, ChannelBroken | ChannelClosed):
            return error.delivered == "no" or self._options.key is not None
        # It has crossed the message that the replica is leaving.
        return isinstance(error, Rejected) and error.delivered == "no"

    async def _explain(
        self,
        error: SpearError,
        replica: ServingReplica,
        begun: float,
        deadline: float,
        reports: _Reports | None,
    ) -> None:
        """Raise what a caller is to be told, who knows nothing of channels, if that is not the same."""
        if isinstance(error, LocalProtocolError):
            raise cannot_be_sent(self.name, error) from error
        delivered = _delivered(error, reports)
        if isinstance(error, DeadlineExceeded):
            await leave_it_to_scope(deadline)
            raise self._pool.stalls.late(self.name, begun, deadline, delivered) from error
        if isinstance(error, ChannelBroken | ChannelClosed):
            raise await explain_loss(replica, error, delivered) from error

    def _ended(self, begun: float, failure: BaseException | None = None) -> None:
        """Count a call, and tell of it."""
        seconds = self._pool.clock() - begun
        if failure is None:
            self._counters.answered(seconds)
        else:
            self._counters.failed(failure)
        if self._host.on_call is not None:
            self._host.tell(self.deployment, self.name, seconds, failure, self._options.metadata)

    async def _wait_for_room(
        self, begun: float, deadline: float, execution: Placed | None = None
    ) -> Choice:
        """:meth:`ReplicaPool.wait_for_room`, with errors that name the function."""
        try:
            return await self._pool.wait_for_room(
                deadline, self._options.session, is_promised=isinstance(execution, Execution)
            )
        except DeadlineExceeded as error:
            await leave_it_to_scope(deadline)
            late = self._pool.stalls.late(self.name, begun, deadline, "no")
            if deadline > begun:
                late = DeadlineExceeded(f"{late}: {error}", delivered="no")
            raise late from None

    def _deadline(self, timeout: float | None, now: float) -> float:
        """In Trio's time; see :class:`CallOptions`."""
        if timeout is None:
            timeout = self._options.timeout
        if timeout is None:
            timeout = self._pool.call_seconds
        else:
            expect_seconds(timeout)
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
        begun = self._pool.clock()
        deadline = self._deadline(timeout, begun)
        if deadline <= begun:  # as above
            await trio.lowlevel.checkpoint()
        stream: FunctionStream | None = None
        failure: BaseException | None = None
        try:
            async with AsyncExitStack() as stack:
                stream = await self._enter(
                    stack, payload, is_cbor, begun, deadline, sends_items=sends_items
                )
                yield stream
        except BaseException as error:
            failure = first_of(error)
            raise
        finally:
            # What its caller makes of its failure, or does behind its end, does not concern it.
            if stream is not None and (stream.has_ended or stream.failure):
                failure = stream.failure
            self._ended(begun, failure)

    async def _enter(
        self,
        stack: AsyncExitStack,
        payload: Payload,
        is_cbor: bool,
        begun: float,
        deadline: float,
        *,
        sends_items: bool,
    ) -> FunctionStream:
        """Begin a stream, at the next replica if it certainly did not begin at one."""
        attempts = 0
        while True:
            choice = self._pool.pick(self._options.session)
            if choice is None:
                choice = await self._wait_for_room(begun, deadline)
            replica, channel = choice
            opening = channel.open_stream(
                self.name,
                payload,
                timeout=deadline - self._pool.clock(),
                is_cbor=is_cbor,
                metadata=self._options.metadata,
                sends_items=sends_items,
            )
            try:
                stream = await stack.enter_async_context(opening)
                break
            except SpearError as error:
                attempts += 1
                if not self._may_try_again(error, channel, attempts):
                    await self._explain(error, replica, begun, deadline, None)
                    raise
        late = partial(self._pool.stalls.late, self.name, begun, deadline)
        opened: FunctionStream = FunctionStream._create(
            stream, self.name, late, deadline, replica, sends_items=sends_items
        )
        return opened


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
