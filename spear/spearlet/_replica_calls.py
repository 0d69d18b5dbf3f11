"""The calls of a function to the replicas of its deployment: deadlines, keys, counters, instruments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, final

import trio

from spear._errors import NotFound
from spear._limits import expect_timeout
from spear._signatures import DESCRIBE
from spear.calls import (
    NO_OPTIONS,
    ONE_ATTEMPT,
    Attempts,
    CallAttributes,
    CallMaker,
    CallOptions,
    FunctionStream,
    KeyedCall,
    Reports,
    effective_deadline,
    enter_stream,
    execute_shared,
    first_of,
    perform,
    read_descriptions,
)
from spear.channels import notify_all, protected_block, protected_class
from spear.telemetry import CallRecord, Instruments

from ._counters import OutcomeCounters
from ._item_calls import ItemCalls
from ._registry import logger
from ._watched import WatchedCall

if TYPE_CHECKING:
    from spear._retry_policy import RetryPolicy
    from spear.calls import (
        AssignmentObserver,
        CallTally,
        Execution,
        FunctionDescription,
        ItemRunner,
        OnEnd,
    )
    from spear.channels import ExecutionResponse
    from spear.wire import Payload

    from ._pool import ReplicaPool
    from ._registry import DeploymentRegistry


T = TypeVar("T")

_NOBODY: Final = Instruments()


@final
@protected_class
class ReplicaCalls(CallMaker):
    """A maker of calls of one function, whose deployment's replicas run them.

    Attributes:
        pool: gives each call a replica.
        registry: the deployments of the spearlet.
        attributes: the calls, as policies see them.
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
        super().__init__(name, deployment, options, is_stream=is_stream)
        self.pool = pool
        self.registry = registry
        self.attributes = CallAttributes(
            function=name, session=options.session, key=options.key, metadata=options.metadata
        )
        # Calls that Spear makes for itself are neither counted nor reported.
        is_question = name == DESCRIBE
        self.counters = OutcomeCounters() if is_question else pool.counters(name)
        self.instruments = _NOBODY if is_question else registry.instruments

    @property
    def place(self) -> str:
        """Where the calls go, for people."""
        return f"{len(self.pool.ready)} replicas"

    @property
    def timeout(self) -> float:
        """Default timeout of a call, in seconds."""
        return self.pool.call_seconds if self.options.timeout is None else self.options.timeout

    @property
    def retry(self) -> RetryPolicy | None:
        """The policy for failed calls: of the options, the deployment or the function; None for none."""
        pool = self.pool
        return self.options.retry or pool.retry or pool.retry_policies.get(self.name)

    def using(self, options: CallOptions) -> ReplicaCalls:
        """Return a maker of calls of the same function with other options."""
        return self.of(self.name, options, is_stream=self.is_stream)

    def of(self, name: str, options: CallOptions, *, is_stream: bool) -> ReplicaCalls:
        """Return a maker of calls of another function of the deployment."""
        return ReplicaCalls(
            name, self.deployment, self.pool, self.registry, options, is_stream=is_stream
        )

    # -- one result ---------------------------------------------------------------------------

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

    def submit(
        self,
        payload: Payload,
        is_cbor: bool,
        *,
        argument_bytes: int,
        on_end: OnEnd | None,
        execution_id: str | None = None,
    ) -> Execution:
        """Make one call in a task of the spearlet; ``on_end`` is not called if this raises."""

        async def work(execution: Execution) -> ExecutionResponse:
            response = await self.request(payload, is_cbor, None, execution)
            if response.is_segment:
                await response.settle()
            return response

        return self.registry.launch(
            self.deployment,
            self.name,
            self.pool,
            work,
            self.read,
            argument_bytes=argument_bytes,
            on_end=on_end,
            execution_id=execution_id,
        )

    def run_items(self, limit: int | None, *, unpack: bool, keeps_items: bool) -> ItemRunner[T]:
        """Return a maker of the calls of a map."""
        return ItemCalls(self, limit, unpack=unpack, keeps_items=keeps_items)

    async def describe(self) -> dict[str, FunctionDescription]:
        """Return descriptions of the deployment's functions by name. A checkpoint.

        Returns an empty dict if the agent cannot describe functions. Raises as :meth:`Function.call`.
        """
        options = CallOptions(timeout=self.options.timeout)
        calls = self.of(DESCRIBE, options, is_stream=False)
        payload, is_cbor = calls.encode((), {})
        try:
            response = await calls.request(payload, is_cbor, None)
        except NotFound:
            return {}
        return read_descriptions(calls.read(response.payload, response.is_cbor), self.deployment)

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
