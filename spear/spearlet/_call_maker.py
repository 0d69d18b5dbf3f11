"""The calls of one function with one set of options: deadlines, keys, counters and instruments.

This module knows neither functions as their callers see them (``_functions``), nor many items (``_map``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, cast, final

import attrs
import trio

from spear._errors import ConfigurationError, Rejected, SpearError
from spear._limits import expect_timeout
from spear._signatures import DESCRIBE
from spear.calls import (
    ONE_ATTEMPT,
    Attempts,
    CallAttributes,
    CallOptions,
    FunctionStream,
    KeyedCall,
    Reports,
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

from ._counters import OutcomeCounters
from ._registry import logger
from ._watched import WatchedCall

if TYPE_CHECKING:
    from spear._retry_policy import RetryPolicy
    from spear.calls import AssignmentObserver, CallTally, Result
    from spear.channels import ExecutionResponse
    from spear.wire import Payload

    from ._pool import ReplicaPool
    from ._registry import DeploymentRegistry


NO_OPTIONS: Final = CallOptions()
_NOBODY: Final = Instruments()


@final
@protected_class
class CallMaker:
    """A maker of calls of one function of a deployment, all with the same options.

    Attributes:
        name: the function's name.
        deployment: the name of its deployment.
        pool: gives each call a replica.
        registry: the deployments of the spearlet.
        options: the options of each call.
        is_stream: whether the function sends items.
        attributes: the calls, as policies see them.
        expected: the type of the option ``returns``; None if results stay as they arrive.
        counters: count the calls.
        instruments: are notified of the calls.
    """

    def __init__(
        self,
        name: str,
        deployment: str,
        pool: ReplicaPool,
        registry: DeploymentRegistry,
        options: CallOptions = NO_OPTIONS,
        *,
        is_stream: bool,
    ) -> None:
        self.name = name
        self.deployment = deployment
        self.pool = pool
        self.registry = registry
        self.options = options
        self.is_stream = is_stream
        self.expected = options.expected_type()
        self.attributes = CallAttributes(
            function=name, session=options.session, key=options.key, metadata=options.metadata
        )
        # Calls that Spear makes for itself are neither counted nor reported.
        is_question = name == DESCRIBE
        self.counters = OutcomeCounters() if is_question else pool.counters(name)
        self.instruments = _NOBODY if is_question else registry.instruments

    @property
    def timeout(self) -> float:
        """Default timeout of a call, in seconds."""
        return self.pool.call_seconds if self.options.timeout is None else self.options.timeout

    @property
    def retry(self) -> RetryPolicy | None:
        """The policy for failed calls: of the options, the deployment or the function; None for none."""
        pool = self.pool
        return self.options.retry or pool.retry or pool.retry_policies.get(self.name)

    def using(self, options: CallOptions) -> CallMaker:
        """Return a maker of calls of the same function with other options."""
        return self.of(self.name, options, is_stream=self.is_stream)

    def of(self, name: str, options: CallOptions, *, is_stream: bool) -> CallMaker:
        """Return a maker of calls of another function of the deployment."""
        return CallMaker(
            name, self.deployment, self.pool, self.registry, options, is_stream=is_stream
        )

    # -- what is expected of a call -----------------------------------------------------------

    def expect_stream(self, expected: bool) -> None:
        """Raise Rejected unless the function sends items, or does not, as expected."""
        if self.is_stream and not expected:
            message = f"{self.name}() returns a stream: use {self.name}.stream(...)"
            raise Rejected(message, code="gives_stream")
        if expected and not self.is_stream:
            message = f"{self.name}() returns one result, not a stream: call {self.name}(...)"
            raise Rejected(message, code="gives_result")

    def expect_items(self, *, sends_items: bool) -> None:
        """Raise Rejected or ConfigurationError if the function or its options rule out a stream."""
        if not sends_items:
            self.expect_stream(True)
        if self.options.key is not None:
            raise ConfigurationError("the option key is not supported for streams")

    # -- one result ---------------------------------------------------------------------------

    def encode(
        self, positional: tuple[object, ...], keywords: Mapping[str, object]
    ) -> tuple[Payload, bool]:
        """Return encoded arguments, and whether they are CBOR. Raises InvalidArguments."""
        if self.options.keywords:
            keywords = {**self.options.keywords, **keywords}
        if len(positional) == 1 and not keywords and type(positional[0]) is bytes:
            return positional[0], False  # what encode_call() would return, in a third of the time
        return encode_call(self.name, positional, keywords)

    def convert(self, result: Result) -> Result:
        """Return a decoded result as the type of the option ``returns``. Raises UnexpectedResult."""
        if self.expected is None:
            return result
        return cast("Result", self.expected.convert(self.name, result))

    def read(self, payload: bytes | memoryview, is_cbor: bool) -> Result:
        """Decode a result, and convert it. Raises UnexpectedResult, or as the decoder does."""
        return self.convert(decode_result_untrusted(payload, is_cbor))

    def request(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: AssignmentObserver | None = None,
    ) -> Coroutine[object, object, ExecutionResponse]:
        """Make one call, as :meth:`Function.call` does; ``execution`` is notified of its instance."""
        options, pool = self.options, self.pool
        if options.retry is not None or pool.retry is not None or self.name in pool.retry_policies:
            return self.repeat(self.attempts(timeout, execution), payload, is_cbor)
        return self._request_once(payload, is_cbor, timeout, execution)

    def _request_once(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: AssignmentObserver | None,
    ) -> Coroutine[object, object, ExecutionResponse]:
        if self.options.key is None:
            return self._perform(payload, is_cbor, timeout, execution)
        return self._perform_once(self.options.key, payload, is_cbor, timeout, execution)

    def attempts(
        self,
        timeout: float | None = None,
        execution: AssignmentObserver | None = None,
        *,
        is_item: bool = False,
        earlier: int = 0,
    ) -> Attempts:
        """Return the attempts of one call, by its retry policy; see :class:`Attempts`.

        Args:
            timeout: seconds for all attempts; by default those of the function.
            execution: the observer that is notified of the instance of each attempt; may be None.
            is_item: whether the call is that of an item, or a batch, of a map. Such a call waits while
                the queue is full, and its retries are not limited by the budget of the deployment.
            earlier: attempts of the call that have failed already.
        """
        pool, options = self.pool, self.options
        if timeout is not None:
            expect_timeout(timeout)
        return Attempts(
            self.retry or ONE_ATTEMPT,
            None if is_item else pool.retries,
            pool.clock,
            pool.rng,
            run_seconds=self.timeout if timeout is None else timeout,
            queue_seconds=pool.queue_seconds
            if options.queue_timeout is None
            else options.queue_timeout,
            execution=execution,
            waits_for_queue=is_item,
            earlier=earlier,
        )

    async def repeat(
        self, attempts: Attempts, payload: Payload, is_cbor: bool
    ) -> ExecutionResponse:
        """Make one call with as many attempts as allowed; raise the failure of the last one."""
        calls = self
        while True:
            try:
                return await calls._request_once(payload, is_cbor, attempts.run_seconds, attempts)
            except SpearError as failure:
                delay = attempts.delay_after(failure)
                if delay is None:
                    raise
            await trio.sleep(delay)
            options = attrs.evolve(self.options, queue_timeout=attempts.queue_seconds)
            calls = self.using(options)

    async def _perform_once(
        self,
        key: str,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: AssignmentObserver | None,
    ) -> ExecutionResponse:
        """Wait for the outcome of the key, whose execution runs in another task."""
        pool, options = self.pool, self.options
        begun = pool.clock()
        deadline, run_seconds = self._deadline(timeout, begun)
        deadline += run_seconds or 0
        attributes: CallAttributes = self.attributes
        tally: CallTally = self.counters
        if self.instruments.watches_calls:
            execution = tally = watched = self._watch(execution)
            attributes = watched.attributes
        call = KeyedCall(
            name=(self.deployment, self.name, key),
            payload=payload,
            deadline=deadline,
            execution=execution,
            reports=self._reports(),
        )
        execute = partial(execute_shared, pool, attributes, payload, is_cbor, options)
        try:
            response = await self.registry.outcomes.once(call, pool.keep_seconds, execute)
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
        pool = self.pool
        begun = pool.clock()
        deadline, run_seconds = self._deadline(timeout, begun)
        attributes: CallAttributes = self.attributes
        tally: CallTally = self.counters
        if self.instruments.watches_calls:
            execution = tally = watched = self._watch(execution)
            attributes = watched.attributes
        return perform(
            pool, attributes, payload, is_cbor, begun, deadline, tally, self._reports(),
            execution, run_seconds,
        )  # fmt: skip

    def _reports(self) -> Reports | None:
        """Return the relay of a call's progress reports; None if its caller wants none."""
        on_progress = self.options.on_progress
        return None if on_progress is None else Reports(on_progress)

    def _watch(
        self, execution: AssignmentObserver | None, *, is_stream: bool = False
    ) -> WatchedCall:
        """Notify the instruments that a call starts; the result notifies them of its end."""
        options = self.options
        # Positional arguments, because keywords would take a tenth of a microsecond each.
        record = CallRecord(
            self.deployment, self.name, is_stream, options.session, options.key, options.metadata
        )
        if hooks := self.instruments.call_started:
            notify_all(logger, hooks, record)
        return WatchedCall(record, self.attributes, execution, self.counters, self.instruments)

    def _deadline(self, timeout: float | None, now: float) -> tuple[float, float | None]:
        """Return a call's deadline in Trio's time, and the seconds that it may run if it waits apart.

        See :class:`CallOptions`. If there are such seconds, the deadline is that of the wait for a slot.
        """
        options, pool = self.options, self.pool
        if timeout is None:
            timeout = options.timeout
        if timeout is None:
            timeout = pool.call_seconds
        else:
            expect_timeout(timeout)
        queue_timeout = options.queue_timeout
        if queue_timeout is None:
            queue_timeout = pool.queue_seconds
            if queue_timeout is None:
                return min(now + timeout, effective_deadline()), None
        return min(now + queue_timeout, effective_deadline()), timeout

    # -- streams ------------------------------------------------------------------------------

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
        begun = self.pool.clock()
        deadline, run_seconds = self._deadline(timeout, begun)
        if deadline <= begun:  # an expired scope raises Cancelled here, not DeadlineExceeded later
            await trio.lowlevel.checkpoint()
        attributes: CallAttributes = self.attributes
        tally: CallTally = self.counters
        watched: WatchedCall | None = None
        if self.instruments.watches_calls:
            tally = watched = self._watch(None, is_stream=True)
            attributes = watched.attributes
        stream: FunctionStream | None = None
        failure: BaseException | None = None
        try:
            async with AsyncExitStack() as stack:
                stream = await enter_stream(
                    stack, self.pool, attributes, payload, is_cbor, begun, deadline,
                    sends_items=sends_items, run_seconds=run_seconds,
                    convert=None if self.expected is None else self.convert,
                    reports=self._reports(),
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
            tally.ended(self.pool.clock() - begun, failure)
            # The failure's traceback has this frame: break the cycle, which keeps the arguments.
            failure = None
            if stream is not None:
                stream.failure = None
