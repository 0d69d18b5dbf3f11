"""A deployed function, as its callers see it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._errors import ConfigurationError, NotFound, Overloaded, Rejected, SpearError
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
    RetryPolicy,
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
from ._map import ManyCalls
from ._registry import logger
from ._watched import WatchedCall

if TYPE_CHECKING:
    from spear.calls import AssignmentObserver, CallTally
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
class Function(ManyCalls, metaclass=NoPublicConstructor):
    """A function of a deployment. Call it like an async function: ``await shop.price("tea")``.

    Made by :meth:`Deployment.function` or by attribute access on a deployment.

    Attributes:
        name: the function's name.
        deployment: the name of its deployment.
        is_stream: whether it sends items; if so, call it with :meth:`stream`.
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
        """Default timeout of a call, in seconds."""
        return self._pool.call_seconds if self._options.timeout is None else self._options.timeout

    def _with(
        self, options: CallOptions, name: str | None = None, *, is_stream: bool | None = None
    ) -> Function:
        """Return the function with other options; or another function of the deployment."""
        function: Function = Function._create(
            self.name if name is None else name,
            self.deployment,
            self._pool,
            self._registry,
            options,
            is_stream=self.is_stream if is_stream is None else is_stream,
        )
        return function

    def options(
        self,
        *,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        retry: RetryPolicy | None = None,
        metadata: Metadata | None = None,
        key: str | None = None,
        key_seconds: float | None = None,
        key_restarts: bool | None = None,
        session: str | None = None,
        on_progress: Callable[[Result], None] | None = None,
        keywords: Mapping[str, object] | None = None,
    ) -> Function:
        """Return the function with other :class:`CallOptions`; options that are not given stay.

        Raises:
            InvalidArguments: an option has an unusable value; the message names the option.
        """
        now = self._options
        options = CallOptions(
            timeout=now.timeout if timeout is None else timeout,
            queue_timeout=now.queue_timeout if queue_timeout is None else queue_timeout,
            retry=now.retry if retry is None else retry,
            metadata=now.metadata if metadata is None else metadata,
            key=now.key if key is None else key,
            key_seconds=now.key_seconds if key_seconds is None else key_seconds,
            key_restarts=now.key_restarts if key_restarts is None else key_restarts,
            session=now.session if session is None else session,
            on_progress=now.on_progress if on_progress is None else on_progress,
            keywords=now.keywords if keywords is None else keywords,
        )
        return self._with(options)

    async def signature(self) -> str:
        """Return the signature as in the source: ``price(item: str) -> float``. A checkpoint.

        Raises:
            NotFound: the agent is not Spear's, and describes no functions.
            CallFailed: as :meth:`call`.
        """
        timeout = self._options.timeout
        describe = self._with(CallOptions(timeout=timeout), DESCRIBE, is_stream=False)
        description = (await describe_functions(describe)).get(self.name)
        if description is None:
            raise NotFound(
                f"{self.name} has no description: its agent does not have the function {DESCRIBE}"
            )
        return description.signature

    # -- one result ---------------------------------------------------------------------------

    async def call(
        self, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> Result:
        """Call the function and wait for its result. A checkpoint.

        While no replica has a free slot, the call waits in a queue. If cancelled, the function is
        cancelled, too, unless the call has a key. A call that certainly was not executed, because its
        replica was draining, goes to the next replica, and so does a call with a key whose replica was
        lost. No other call is ever repeated.

        Args:
            arguments: positional arguments; a single argument that is bytes travels uncopied.
            timeout: seconds; see :class:`CallOptions`.
            keywords: keyword arguments.

        Raises:
            FunctionRaised: the function ran and raised.
            InvalidArguments: the arguments do not fit; the message names the parameter.
            DeadlineExceeded: the deadline has passed.
            Overloaded: too many calls wait already.
            WorkerDied: the instance is gone, or no replica could be kept alive.
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
        """Call the function as :meth:`call` does; returns the result with details. A checkpoint."""
        self._expect_stream(False)
        bound = self.bind(*arguments, **keywords)
        del arguments, keywords  # as in call()
        return await bound.ask()

    def submit(
        self, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> Execution:
        """Call the function without waiting; returns a handle with status, result and cancel.

        The execution belongs to the spearlet, whose end cancels it. After its own end it is kept for a
        while (:attr:`Spearlet.executions`).

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
        """Encode the arguments of a later call, so that the objects themselves may be freed.

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
        """Call the function with encoded arguments, and return the result undecoded.

        If cancelled, the function is cancelled, too, unless the call has a key. Raises as :meth:`call`.
        """
        self._expect_stream(False)
        return await self._request(payload, is_cbor, timeout)

    def _encode(
        self, positional: tuple[object, ...], keywords: Mapping[str, object]
    ) -> tuple[Payload, bool]:
        if self._options.keywords:
            keywords = {**self._options.keywords, **keywords}
        if len(positional) == 1 and not keywords and type(positional[0]) is bytes:
            return positional[0], False  # what encode_call() would return, in a third of the time
        return encode_call(self.name, positional, keywords)

    def _expect_stream(self, expected: bool) -> None:
        if self.is_stream and not expected:
            message = f"{self.name}() returns a stream: use {self.name}.stream(...)"
            raise Rejected(message, code="gives_stream")
        if expected and not self.is_stream:
            message = f"{self.name}() returns one result, not a stream: call {self.name}(...)"
            raise Rejected(message, code="gives_result")

    def _request(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: AssignmentObserver | None = None,
    ) -> Coroutine[object, object, ExecutionResponse]:
        if self._options.retry is not None:
            return self._perform_with_retries(
                self._options.retry, payload, is_cbor, timeout, execution
            )
        if self._options.key is None:
            return self._perform(payload, is_cbor, timeout, execution)
        return self._perform_once(self._options.key, payload, is_cbor, timeout, execution)

    async def _perform_with_retries(
        self,
        retry: RetryPolicy,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: AssignmentObserver | None,
    ) -> ExecutionResponse:
        """Make a call up to ``retry.max_attempts`` times."""
        pool, once = self._pool, self._with(attrs.evolve(self._options, retry=None))
        seconds = self.timeout if timeout is None else timeout
        deadline = pool.clock() + seconds + (self._options.queue_timeout or 0)
        attempts = 0
        pool.retries.earn()
        while True:
            left = min(seconds, deadline - pool.clock())
            try:
                return await once._request(payload, is_cbor, left, execution)
            except SpearError as failure:
                attempts += 1
                if attempts >= retry.max_attempts or not retry.may_repeat(failure):
                    raise
                delay = retry.delay_seconds(attempts, pool.rng)
                if isinstance(failure, Overloaded):
                    delay = max(delay, failure.retry_after_seconds or 0)
                if pool.clock() + delay >= deadline or not pool.retries.spend():
                    raise
            await trio.sleep(delay)

    async def _perform_once(
        self,
        key: str,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: AssignmentObserver | None,
    ) -> ExecutionResponse:
        """Wait for the outcome of the key, whose execution runs in another task."""
        pool, options = self._pool, self._options
        begun = pool.clock()
        deadline, run_seconds = self._deadline(timeout, begun)
        deadline += run_seconds or 0
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
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: AssignmentObserver | None,
    ) -> Coroutine[object, object, ExecutionResponse]:
        on_progress = self._options.on_progress
        begun = self._pool.clock()
        deadline, run_seconds = self._deadline(timeout, begun)
        attributes: CallAttributes = self._attributes
        tally: CallTally = self._counters
        if self._instruments.watches_calls:
            execution = tally = watched = self._watch(execution)
            attributes = watched.attributes
        return perform(
            self._pool, attributes, payload, is_cbor, begun, deadline, tally,
            None if on_progress is None else Reports(on_progress),
            execution, run_seconds,
        )  # fmt: skip

    def _watch(
        self, execution: AssignmentObserver | None, *, is_stream: bool = False
    ) -> WatchedCall:
        """Notify the instruments that a call starts; the result notifies them of its end."""
        options = self._options
        # Positional arguments, because keywords would take a tenth of a microsecond each.
        record = CallRecord(
            self.deployment, self.name, is_stream, options.session, options.key, options.metadata
        )
        if hooks := self._instruments.call_started:
            notify_all(logger, hooks, record)
        return WatchedCall(record, self._attributes, execution, self._counters, self._instruments)

    def _deadline(self, timeout: float | None, now: float) -> tuple[float, float | None]:
        """Return a call's deadline in Trio's time, and the seconds that it may run if it waits apart.

        See :class:`CallOptions`. If there are such seconds, the deadline is that of the wait for a slot.
        """
        options = self._options
        if timeout is None:
            timeout = options.timeout
        if timeout is None:
            timeout = self._pool.call_seconds
        else:
            expect_timeout(timeout)
        if options.queue_timeout is None:
            return min(now + timeout, effective_deadline()), None
        return min(now + options.queue_timeout, effective_deadline()), timeout

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
        """Open a stream: call a function that streams, and iterate over its items in the block.

        Leaving the block before the end of the stream cancels the function.

        Args:
            arguments: positional arguments.
            timeout: seconds for the whole stream.
            sends_items: whether the caller sends items to the function, too. Also for a function that
                takes items and gives one result: wait for it with :meth:`FunctionStream.result`.
            keywords: keyword arguments.

        Raises:
            CallFailed: as :meth:`call`, on entering the block or from the stream.
        """
        self._expect_items(sends_items=sends_items)
        payload, is_cbor = self._encode(arguments, keywords)
        del arguments, keywords  # as in call()
        async with self._open(payload, is_cbor, timeout, sends_items=sends_items) as stream:
            yield stream

    def _expect_items(self, *, sends_items: bool) -> None:
        if not sends_items:
            self._expect_stream(True)
        if self._options.key is not None or self._options.on_progress is not None:
            raise ConfigurationError(
                "the options key and on_progress are not supported for streams"
            )

    @protected_block
    async def forward_stream(
        self, payload: Payload, is_cbor: bool, timeout: float | None
    ) -> AsyncIterator[FunctionStream]:
        """Open a stream as :meth:`stream` does, with encoded arguments."""
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
        deadline, run_seconds = self._deadline(timeout, begun)
        if deadline <= begun:  # an expired scope raises Cancelled here, not DeadlineExceeded later
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
                    sends_items=sends_items, run_seconds=run_seconds,
                )  # fmt: skip
                if watched is not None:
                    watched.assigned(stream.instance)
                yield stream
        except BaseException as error:
            failure = first_of(error)
            raise
        finally:
            # Count the stream's own outcome, not exceptions raised in the caller's block.
            if stream is not None and (stream.has_ended or stream.failure):
                failure = stream.failure
            tally.ended(self._pool.clock() - begun, failure)
            # The failure's traceback has this frame: break the cycle, which keeps the arguments.
            failure = None
            if stream is not None:
                stream.failure = None


async def describe_functions(describe: Function) -> dict[str, FunctionDescription]:
    """Return descriptions of functions by name, from a call of :data:`DESCRIBE`. A checkpoint.

    Returns an empty dict if the agent cannot describe functions. Raises as :meth:`Function.call`.
    """
    try:
        return read_descriptions(await describe(), describe.deployment)
    except NotFound:
        return {}
