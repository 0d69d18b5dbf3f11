"""The calls of one function with one set of options, as :class:`Function` makes them.

This module knows the convention of arguments and results. The way to the function is a subclass's: the
replicas of a deployment in this process, or a running host over HTTP.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

import attrs
import trio

from spear._errors import ConfigurationError, Rejected, SpearError
from spear.channels import protected_class
from spear.wire import encode_call

from ._options import CallOptions
from ._payloads import Result, decode_result_untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from spear._retry_policy import RetryPolicy
    from spear.channels import ExecutionResponse
    from spear.wire import Payload

    from ._answers import FunctionDescription
    from ._assignment import AssignmentObserver
    from ._bound import OnEnd
    from ._executions import Execution
    from ._map import MapItem
    from ._retries import Attempts
    from ._streams import FunctionStream

T = TypeVar("T")

NO_OPTIONS: Final = CallOptions()


class ItemRunner(Protocol[T]):
    """A maker of the calls of a map: alone, or in batches.

    Attributes:
        on_assigned: called when a call or batch has got an instance.
    """

    on_assigned: Callable[[], object]

    def limit(self) -> int:
        """Return how many batches may run at a time."""

    def batch_size(self) -> int:
        """Return how many items the next batch may have."""

    async def run(self, first: int, items: list[T], /) -> list[Result | MapItem[T]]:
        """Return the outcomes of a batch: results, and a :class:`MapItem` for each failure.

        If the map keeps items, each outcome is a :class:`MapItem`.
        """


@protected_class
class CallMaker(ABC):
    """A maker of calls of one function of a deployment, all with the same options.

    Attributes:
        name: the function's name.
        deployment: the name of its deployment.
        options: the options of each call.
        is_stream: whether the function sends items.
        expected: the type of the option ``returns``; None if results stay as they arrive.
    """

    def __init__(
        self, name: str, deployment: str, options: CallOptions = NO_OPTIONS, *, is_stream: bool
    ) -> None:
        self.name = name
        self.deployment = deployment
        self.options = options
        self.is_stream = is_stream
        self.expected = options.expected_type()

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the calls go, for people: ``3 replicas``."""

    @property
    @abstractmethod
    def timeout(self) -> float:
        """Default timeout of a call, in seconds."""

    @property
    @abstractmethod
    def retry(self) -> RetryPolicy | None:
        """The policy for failed calls: of the options, the deployment or the function; None for none."""

    @abstractmethod
    def using(self, options: CallOptions) -> CallMaker:
        """Return a maker of calls of the same function with other options."""

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

    # -- arguments and results ----------------------------------------------------------------

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

    # -- calls --------------------------------------------------------------------------------

    @abstractmethod
    def request(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: AssignmentObserver | None = None,
    ) -> Coroutine[object, object, ExecutionResponse]:
        """Make one call, as :meth:`Function.call` does; ``execution`` is notified of its instance."""

    @abstractmethod
    def _request_once(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        execution: AssignmentObserver | None,
    ) -> Coroutine[object, object, ExecutionResponse]:
        """Make one attempt of a call, as :meth:`request` does."""

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

    @abstractmethod
    def submit(
        self,
        payload: Payload,
        is_cbor: bool,
        *,
        argument_bytes: int,
        on_end: OnEnd | None,
        execution_id: str | None = None,
    ) -> Execution:
        """Make one call without waiting for it; ``on_end`` is not called if this raises."""

    @abstractmethod
    def open_stream(
        self,
        payload: Payload,
        is_cbor: bool,
        timeout: float | None,
        *,
        sends_items: bool = False,
    ) -> AbstractAsyncContextManager[FunctionStream]:
        """Open a stream, as :meth:`Function.stream` does, with encoded arguments."""

    @abstractmethod
    def run_items(self, limit: int | None, *, unpack: bool, keeps_items: bool) -> ItemRunner[T]:
        """Return a maker of the calls of a map.

        Args:
            limit: the most calls or batches at a time; None for as many as there are slots.
            unpack: whether each item is an iterable of arguments.
            keeps_items: whether each outcome is a :class:`MapItem`.
        """

    @abstractmethod
    async def describe(self) -> dict[str, FunctionDescription]:
        """Return descriptions of the deployment's functions by name. A checkpoint."""
