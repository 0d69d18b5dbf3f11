"""A deployed function, as its callers see it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import (
    ConfigurationError,
    NotFound,
    Rejected,
)
from spear._limits import expect_timeout
from spear._signatures import DESCRIBE
from spear._util import NoPublicConstructor
from spear.calls import (
    CallAttributes,
    CallOptions,
    FunctionStream,
    KeyedCall,
    Reports,
    Result,
    decode_result_untrusted,
    effective_deadline,
    enter_stream,
    execute_shared,
    first_of,
    perform,
)
from spear.channels import notify_all, protected_block, protected_class
from spear.telemetry import CallRecord, Instruments
from spear.wire import encode_call

from ._answers import FunctionDescription, read_descriptions
from ._bound import BoundCall
from ._counters import FunctionCounters
from ._registry import logger
from ._watched import WatchedCall

if TYPE_CHECKING:
    from spear.calls import CallTally, Placed
    from spear.channels import ExecutionResponse, Metadata
    from spear.wire import Payload

    from ._answers import Answer
    from ._executions import Execution
    from ._pool import ReplicaPool
    from ._registry import DeploymentRegistry


_NO_OPTIONS: Final = CallOptions()
_NOBODY: Final = Instruments()


@final
@protected_class
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
        registry: DeploymentRegistry,
        options: CallOptions = _NO_OPTIONS,
        *,
        is_stream: bool,
    ) -> None:
        self.name = name
        self.deployment = deployment
        self.is_stream = is_stream
        self._pool = pool
        self._registry = registry
        self._options = options
        self._attributes = CallAttributes(
            function=name, session=options.session, key=options.key, metadata=options.metadata
        )
        # Calls that Spear makes for itself are neither counted nor reported.
        is_question = name == DESCRIBE
        self._counters = FunctionCounters() if is_question else pool.counters(name)
        self._instruments = _NOBODY if is_question else registry.instruments

    def __repr__(self) -> str:
        return f"<Function {self.name} on {len(self._pool.ready)} replicas>"

    @property
    def timeout(self) -> float:
        """Seconds for a call that names none."""
        return self._pool.call_seconds if self._options.timeout is None else self._options.timeout

    def _with(self, options: CallOptions, name: str, *, is_stream: bool) -> Function:
        function: Function = Function._create(
            name, self.deployment, self._pool, self._registry, options, is_stream=is_stream
        )
        return function

    def options(
        self,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        key: str | None = None,
        key_seconds: float | None = None,
        key_restarts: bool | None = None,
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
            key_seconds=now.key_seconds if key_seconds is None else key_seconds,
            key_restarts=now.key_restarts if key_restarts is None else key_restarts,
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
        description = (await describe_functions(describe)).get(self.name)
        if description is None:
            raise NotFound(
                f"{self.name} has no description: its agent does not offer {DESCRIBE}, as Spear's "
                "agents do"
            )
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
        if self.is_stream:
            self._expect_stream(False)
        payload, is_cbor = self._encode(arguments, keywords)
        del arguments, keywords  # decoded, they can take 64 times the memory
        response = await self._request(payload, is_cbor, timeout)
        if not response.is_cbor:
            return response.payload
        return decode_result_untrusted(response.payload, True)

    __call__ = call

    async def ask(self, /, *arguments: object, **keywords: object) -> Answer:
        """:meth:`call`, and how the result came to be. A checkpoint."""
        self._expect_stream(False)
        bound = self.bind(*arguments, **keywords)
        del arguments, keywords  # as above
        return await bound.ask()

    def submit(
        self, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> Execution:
        """Call the function without waiting; returns a handle with status, result and cancel.

        The execution belongs to the spearlet: it is cancelled when that ends, and kept for a while after
        its own end (:attr:`Spearlet.executions`).

        Raises:
            InvalidArguments: an argument has no representation, or ``timeout`` is no number of seconds.
            Overloaded: ``HostLimits.max_submitted`` executions have not ended, or their arguments hold
                ``HostLimits.submitted_bytes``.
            SpearError: the spearlet has ended.
        """
        function = self if timeout is None else self.options(timeout=timeout)
        function._expect_stream(False)
        return function.bind(*arguments, **keywords).submit()

    def bind(self, /, *arguments: object, **keywords: object) -> BoundCall:
        """Encode the arguments of a call that is made later; the objects themselves may then be freed.

        The options of this function apply to the call. All keywords are arguments, ``timeout`` included.

        Raises:
            InvalidArguments: an argument has no representation.
        """
        payload, is_cbor = self._encode(arguments, keywords)
        function = self.options(keywords={}) if self._options.keywords else self
        bound: BoundCall = BoundCall._create(function, payload, is_cbor)
        return bound

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
        if self._options.keywords:
            keywords = {**self._options.keywords, **keywords}
        if len(positional) == 1 and not keywords and type(positional[0]) is bytes:
            return positional[0], False  # what encode_call() would say, in a third of the time
        return encode_call(self.name, positional, keywords)

    def _expect_stream(self, expected: bool) -> None:
        if self.is_stream and not expected:
            message = f"{self.name}() gives a stream: use {self.name}.stream(...)"
            raise Rejected(message, code="gives_stream")
        if expected and not self.is_stream:
            message = f"{self.name}() gives one result, not a stream: call {self.name}(...)"
            raise Rejected(message, code="gives_result")

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
        """Wait for the outcome of the key, whose execution runs in another task."""
        pool, options = self._pool, self._options
        begun = pool.clock()
        deadline = self._deadline(timeout, begun)
        attributes: CallAttributes = self._attributes
        tally: CallTally = self._counters
        if self._instruments.watches_calls:
            execution = tally = watched = self._watch(execution)
            attributes = watched.attributes
        call = KeyedCall(
            name=(self.deployment, self.name, key),
            payload=payload,
            deadline=deadline,
            execution=execution,
            reports=None if options.on_progress is None else Reports(options.on_progress),
        )
        execute = partial(execute_shared, pool, attributes, payload, is_cbor, options)
        try:
            response = await self._registry.outcomes.once(call, pool.keep_seconds, execute)
        except BaseException as error:
            tally.ended(pool.clock() - begun, error)
            raise
        tally.ended(pool.clock() - begun, None)
        return response

    def _perform(
        self, payload: Payload, is_cbor: bool, timeout: float | None, execution: Placed | None
    ) -> Coroutine[object, object, ExecutionResponse]:
        on_progress = self._options.on_progress
        begun = self._pool.clock()
        deadline = self._deadline(timeout, begun)
        attributes: CallAttributes = self._attributes
        tally: CallTally = self._counters
        if self._instruments.watches_calls:
            execution = tally = watched = self._watch(execution)
            attributes = watched.attributes
        return perform(
            self._pool, attributes, payload, is_cbor, begun, deadline, tally,
            None if on_progress is None else Reports(on_progress),
            execution,
        )  # fmt: skip

    def _watch(self, execution: Placed | None, *, is_stream: bool = False) -> WatchedCall:
        """Notify the instruments that a call starts; the result notifies them of its end."""
        options = self._options
        # Without keywords, which would take a tenth of a microsecond each.
        record = CallRecord(
            self.deployment, self.name, is_stream, options.session, options.key, options.metadata
        )
        if hooks := self._instruments.call_started:
            notify_all(logger, hooks, record)
        return WatchedCall(record, self._attributes, execution, self._counters, self._instruments)

    def _deadline(self, timeout: float | None, now: float) -> float:
        """In Trio's time; see :class:`CallOptions`."""
        if timeout is None:
            timeout = self._options.timeout
        if timeout is None:
            timeout = self._pool.call_seconds
        else:
            expect_timeout(timeout)
        return min(now + timeout, effective_deadline())

    # -- streams ------------------------------------------------------------------------------

    @protected_block
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
        self._expect_items(sends_items=sends_items)
        payload, is_cbor = self._encode(arguments, keywords)
        del arguments, keywords  # as for calls
        async with self._open(payload, is_cbor, timeout, sends_items=sends_items) as stream:
            yield stream

    def _expect_items(self, *, sends_items: bool) -> None:
        if not sends_items:
            self._expect_stream(True)
        if self._options.key is not None or self._options.on_progress is not None:
            raise ConfigurationError("key and on_progress go with calls, not with streams")

    @protected_block
    async def forward_stream(
        self, payload: Payload, is_cbor: bool, timeout: float | None
    ) -> AsyncIterator[FunctionStream]:
        """:meth:`stream` with arguments that are encoded already."""
        self._expect_stream(True)
        async with self._open(payload, is_cbor, timeout) as stream:
            yield stream

    @protected_block
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
        attributes: CallAttributes = self._attributes
        tally: CallTally = self._counters
        watched: WatchedCall | None = None
        if self._instruments.watches_calls:
            tally = watched = self._watch(None, is_stream=True)
            attributes = watched.attributes
        stream: FunctionStream | None = None
        failure: BaseException | None = None
        try:
            async with AsyncExitStack() as stack:
                stream = await enter_stream(
                    stack, self._pool, attributes, payload, is_cbor, begun, deadline,
                    sends_items=sends_items,
                )  # fmt: skip
                if watched is not None:
                    watched.place(stream.instance)
                yield stream
        except BaseException as error:
            failure = first_of(error)
            raise
        finally:
            # What its caller makes of its failure, or does behind its end, does not concern it.
            if stream is not None and (stream.has_ended or stream.failure):
                failure = stream.failure
            tally.ended(self._pool.clock() - begun, failure)
            # Its traceback has this frame: no circle may keep the arguments.
            failure = None
            if stream is not None:
                stream.failure = None


async def describe_functions(describe: Function) -> dict[str, FunctionDescription]:
    """Return descriptions of functions by name, as :data:`DESCRIBE` returns them. A checkpoint.

    Returns an empty dict if the agent has no such function. Raises as :meth:`Function.call`.
    """
    try:
        return read_descriptions(await describe(), describe.deployment)
    except NotFound:
        return {}
