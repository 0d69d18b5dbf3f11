"""A deployed function, as its callers see it: in this process, or at a running host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar, cast, final, overload

import attrs

from spear._errors import NotFound
from spear._retry_policy import RetryPolicy
from spear._signatures import DESCRIBE
from spear._util import NoPublicConstructor
from spear.channels import protected_block, protected_class

from ._bound import BoundCall
from ._map import ManyCalls
from ._options import CallOptions
from ._payloads import Result, decode_result_untrusted
from ._returns import R

if TYPE_CHECKING:
    from spear.channels import ExecutionResponse, Metadata
    from spear.wire import Payload

    from ._answers import Answer
    from ._call_maker import CallMaker
    from ._executions import Execution
    from ._streams import FunctionStream


S = TypeVar("S")


@final
@protected_class
class Function(ManyCalls[R], Generic[R], metaclass=NoPublicConstructor):
    """A function of a deployment. Call it like an async function: ``await shop.price("tea")``.

    Made by ``deployment.function(name)`` or by attribute access on a deployment.

    Attributes:
        name: the function's name.
        deployment: the name of its deployment.
        is_stream: whether it sends items; if so, call it with :meth:`stream`.
    """

    def __init__(self, calls: CallMaker) -> None:
        self.name = calls.name
        self.deployment = calls.deployment
        self.is_stream = calls.is_stream
        self._calls = calls

    def __repr__(self) -> str:
        return f"<Function {self.name} on {self._calls.place}>"

    @property
    def timeout(self) -> float:
        """Default timeout of a call, in seconds."""
        return self._calls.timeout

    @property
    def retry(self) -> RetryPolicy | None:
        """The policy for failed calls: of its options, deployment or author; None if there is none."""
        return self._calls.retry

    @overload
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
        returns: None = None,
        keywords: Mapping[str, object] | None = None,
    ) -> Function[R]: ...

    @overload
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
        returns: type[S],
        keywords: Mapping[str, object] | None = None,
    ) -> Function[S]: ...

    @overload
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
        returns: object,
        keywords: Mapping[str, object] | None = None,
    ) -> Function[object]: ...

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
        returns: object = None,
        keywords: Mapping[str, object] | None = None,
    ) -> Function[R] | Function[S] | Function[object]:
        """Return the function with other :class:`CallOptions`; an option that is None stays as it is.

        Type checkers know the results of ``options(returns=Order)``. To them, results of a type that is
        no class, such as ``Order | None``, are objects.

        Raises:
            InvalidArguments: an option has an unusable value; the message names the option.
        """
        now = self._calls.options
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
            returns=now.returns if returns is None else returns,
            keywords=now.keywords if keywords is None else keywords,
        )
        return Function._create(self._calls.using(options))

    async def signature(self) -> str:
        """Return the signature as in the source: ``price(item: str) -> float``. A checkpoint.

        Raises:
            NotFound: the agent is not Spear's, and describes no functions.
            CallFailed: as :meth:`call`.
        """
        description = (await self._calls.describe()).get(self.name)
        if description is None:
            raise NotFound(
                f"{self.name} has no description: its agent does not have the function {DESCRIBE}"
            )
        return description.signature

    # -- one result ---------------------------------------------------------------------------

    async def call(
        self, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> R:
        """Call the function and wait for its result. A checkpoint.

        While no replica has a free slot, the call waits in a queue. If cancelled, the function is
        cancelled, too, unless the call has a key. A call that certainly was not executed, because its
        replica was draining, goes to the next replica, and so does a call with a key whose replica was
        lost. No other call is repeated, unless the call or its deployment has a :class:`RetryPolicy`.

        Args:
            arguments: positional arguments; a single argument that is bytes travels uncopied.
            timeout: seconds; see :class:`CallOptions`.
            keywords: keyword arguments.

        Raises:
            FunctionRaised: the function ran and raised.
            InvalidArguments: the arguments do not fit; the message names the parameter.
            UnexpectedResult: the result does not fit the option ``returns``.
            DeadlineExceeded: the deadline has passed.
            Overloaded: too many calls wait already.
            WorkerDied: the instance is gone, or no replica could be kept alive.
            CallFailed: see the other subclasses.
        """
        calls = self._calls
        if self.is_stream:
            calls.expect_stream(False)
        payload, is_cbor = calls.encode(arguments, keywords)
        del arguments, keywords  # decoded, they can take 64 times the memory
        response = await calls.request(payload, is_cbor, timeout)
        if response.is_segment:
            await response.settle()
        if calls.expected is not None:
            return cast("R", calls.read(response.payload, response.is_cbor))
        if not response.is_cbor:
            return response.payload  # type: ignore[return-value]  # R is Result here
        return decode_result_untrusted(response.payload, True)  # type: ignore[return-value]  # likewise

    __call__ = call

    async def ask(self, /, *arguments: object, **keywords: object) -> Answer[R]:
        """Call the function as :meth:`call` does; returns the result with details. A checkpoint."""
        self._calls.expect_stream(False)
        bound = self.bind(*arguments, **keywords)
        del arguments, keywords  # as in call()
        return await bound.ask()

    def submit(
        self, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> Execution[R]:
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
        function._calls.expect_stream(False)
        return function.bind(*arguments, **keywords).submit()

    def bind(self, /, *arguments: object, **keywords: object) -> BoundCall[R]:
        """Encode the arguments of a later call, so that the objects themselves may be freed.

        The options of this function apply to the call. All keywords are arguments, ``timeout`` included.

        Raises:
            InvalidArguments: an argument has no representation.
        """
        calls = self._calls
        payload, is_cbor = calls.encode(arguments, keywords)
        if calls.options.keywords:  # decoded, they can take 64 times the memory
            calls = calls.using(attrs.evolve(calls.options, keywords={}))
        return cast("BoundCall[R]", BoundCall._create(calls, payload, is_cbor))

    async def forward(
        self, payload: Payload, is_cbor: bool, timeout: float | None
    ) -> ExecutionResponse:
        """Call the function with encoded arguments, and return the result undecoded.

        If cancelled, the function is cancelled, too, unless the call has a key. Raises as :meth:`call`.
        """
        self._calls.expect_stream(False)
        return await self._calls.request(payload, is_cbor, timeout)

    # -- streams ------------------------------------------------------------------------------

    @protected_block
    async def stream(
        self,
        /,
        *arguments: object,
        timeout: float | None = None,
        sends_items: bool = False,
        **keywords: object,
    ) -> AsyncIterator[FunctionStream[R]]:
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
        calls = self._calls
        calls.expect_items(sends_items=sends_items)
        payload, is_cbor = calls.encode(arguments, keywords)
        del arguments, keywords  # as in call()
        async with calls.open_stream(payload, is_cbor, timeout, sends_items=sends_items) as stream:
            yield cast("FunctionStream[R]", stream)

    @protected_block
    async def forward_stream(
        self, payload: Payload, is_cbor: bool, timeout: float | None
    ) -> AsyncIterator[FunctionStream[R]]:
        """Open a stream as :meth:`stream` does, with encoded arguments."""
        self._calls.expect_stream(True)
        async with self._calls.open_stream(payload, is_cbor, timeout) as stream:
            yield cast("FunctionStream[R]", stream)
