"""Registered functions: one class for each kind of function that a user can write.

Each class decodes the arguments of a call, runs the user's function in the right thread (Trio's or
another one) and encodes the result. Errors are raised; the service reports them to the caller.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias, cast, final

from trio.lowlevel import disable_ki_protection

from spear._codecs import CodecFault
from spear._errors import InvalidArguments, Rejected
from spear._segments import Segment
from spear.annotations import Mismatch
from spear.channels import protected_class
from spear.wire import NONE

from ._arguments import AnyFunction, Binder, decode_arguments_untrusted, make_binder
from ._encoding import encode_outcome
from ._failures import about_call, as_raisable
from ._items import Items
from ._result_checks import make_result_check, wrong_result

if TYPE_CHECKING:
    from spear._retry_policy import RetryPolicy
    from spear.annotations import Check
    from spear.channels import InboundCall
    from spear.wire import Payload

    from ._asyncio_bridge import BridgedCall
    from ._service import AgentService

FunctionKind: TypeAlias = Literal["function", "stream"]
DecodedArguments: TypeAlias = tuple[list[object], dict[str, object]]

COMMON_RESULTS: Final = frozenset({bool, bytes, dict, float, int, list, str, type(None)})
"""The most common types of results, which need no test for abstract classes: it takes a microsecond."""

# Plain functions bind their arguments in worker threads. The lock protects the building of a binder, so
# that no thread uses the half-built checks of another one.
_building: Final = threading.Lock()


@protected_class
class RegisteredFunction(ABC):
    """A registered function.

    Attributes:
        name: the name for callers.
        function: the user's function.
        needs_thread: whether each call needs a thread of its own.
        is_batched: whether the function gets the items of several calls as one list.
        can_run_inline: whether a service that `runs_inline` can run the function without a thread.
        calls: calls that were begun.
        failed: calls that ended with an error, including refused arguments.
        late: calls that raised an exception after they had been cancelled.
        retry: the policy for failed calls, which the host follows; None if the function sets none.
    """

    __slots__ = (
        "_binder", "_items", "_raw", "_result_check", "calls", "failed", "function", "late", "name",
        "retry",
    )  # fmt: skip

    kind: ClassVar[FunctionKind] = "function"
    needs_thread: ClassVar[bool] = False
    can_run_inline: ClassVar[bool] = True
    is_batched: ClassVar[bool] = False

    def __init__(self, name: str, function: AnyFunction) -> None:
        self.name = name
        self.function = function
        self.calls = 0
        self.failed = 0
        self.late = 0
        self.retry: RetryPolicy | None = None
        self._binder: Binder | None = None
        self._result_check: Check | None = None
        self._raw: type = bytes  # of results that need neither a check nor encoding
        self._items: Callable[[InboundCall, DecodedArguments, BridgedCall | None], None] | None = (
            None
        )

    @abstractmethod
    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Handle one call, and return (payload, whether it is CBOR) of its result."""

    def bind(self, call: InboundCall, bridge: BridgedCall | None = None) -> DecodedArguments:
        """Return the arguments of a call, checked and converted.

        Raises:
            InvalidArguments: the arguments do not fit.
        """
        binder = self._binder or self.prepare()
        try:
            payload = self._in_place(call, binder) if call.is_segment else call.payload
            arguments = decode_arguments_untrusted(payload, call.is_cbor)
        except CodecFault as fault:
            said = f"{self.name}(): {fault}"
            raise about_call(InvalidArguments(said, got=fault.name, code=fault.code)) from fault
        except ValueError as error:
            raise about_call(InvalidArguments(f"{self.name}(): {error}")) from error
        self.convert(arguments)
        if self._items is not None:
            self._items(call, arguments, bridge)
        return arguments

    def convert(self, arguments: DecodedArguments) -> None:
        """Check decoded arguments, and convert them in place. Raises InvalidArguments."""
        try:
            (self._binder or self.prepare()).bind(*arguments)
        except InvalidArguments as error:
            about_call(error)
            raise

    @staticmethod
    def _in_place(call: InboundCall, binder: Binder) -> bytes | memoryview:
        """Return a payload in shared memory: as a view if function or caller ask for it, or as a copy."""
        if call.is_cbor:  # a value with large arrays, which become views
            return call.view() if call.is_shared else call.payload
        if binder.raw is bytes:
            return call.payload
        if call.is_shared or binder.raw in (memoryview, bytearray):
            return call.view()
        return call.payload

    @property
    def wanted_slots(self) -> int:
        """The number of calls at a time that the function is made for."""
        return 1

    @property
    def takes_items(self) -> bool:
        """Whether a parameter takes the stream of the caller's items."""
        if self._binder is None:
            self.prepare()
        return self._items is not None

    def prepare(self) -> Binder:
        """Build and store the binder for the function's parameters; the first call does so if needed."""
        with _building:
            binder, items = make_binder(self.name, self.function)
            check = make_result_check(self.function, is_stream=self.kind == "stream")
            if check is not None:
                self._result_check = check
                self._raw = bytes if check.exact is bytes else Mismatch  # the type of no result
            if items is not None:
                self._items = partial(self._add_items, *items)
                binder.takes_bytes = False
            self._binder = binder  # last: other threads read it without the lock
        return binder

    def _add_items(
        self,
        parameter: str,
        index: int,
        check: Check | None,
        call: InboundCall,
        arguments: DecodedArguments,
        bridge: BridgedCall | None,
    ) -> None:
        """Add the stream of the caller's items to the arguments."""
        items: Items[object] = Items(
            call.receive_item, self.name, check=check, bridge=bridge, is_callers=True
        )
        positional, keywords = arguments
        if len(positional) >= index:
            positional.insert(index, items)
        else:
            keywords[parameter] = items

    def encode(self, result: object) -> tuple[Payload, bool]:
        """Return (payload, whether it is CBOR) of a result. Raises FunctionRaised."""
        payload = encode_outcome(self.name, result, "returned")
        if self._result_check is not None:
            self.check_result(result, "returned")
        return payload

    def check_result(self, result: object, did: str) -> None:
        """Check a result or an item against its annotation. Raises FunctionRaised.

        Args:
            result: the result, or one yielded item of a stream.
            did: the verb for the error message: "returned" or "yielded".
        """
        check = self._result_check
        if check is not None and type(result) is not check.exact:
            try:
                check(result)
            except Mismatch as mismatch:
                raise wrong_result(self.name, did, mismatch) from None


@final
class AsyncFunction(RegisteredFunction):
    """An ``async def``, which runs as a Trio task."""

    __slots__ = ()

    @disable_ki_protection  # it runs the user's code
    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Await the function, and return its encoded result."""
        binder = self._binder
        if binder is not None and binder.takes_bytes and not (call.is_cbor or call.is_segment):
            # A fast path of bind(), for the most common arguments of fast calls.
            result = await self.function(call.payload)
        else:
            positional, keywords = self.bind(call)
            result = await self.function(*positional, **keywords)
        return (result, False) if type(result) is self._raw else self.encode(result)  # type: ignore[return-value]  # bytes


class PlainFunction(RegisteredFunction):
    """A function written with plain ``def``, which runs in a worker thread.

    A cancelled call waits until the function has ended, and then discards its result. If the function
    returns a coroutine, as a wrapper of an ``async def`` does, the coroutine is awaited in Trio. A
    wrapper that runs the ``async def`` itself, as with ``trio.run``, returns that function's result.
    """

    __slots__ = ()
    needs_thread = True

    @disable_ki_protection  # it awaits the user's code
    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Wait for a thread, run the function in it, and return the encoded result."""
        # Arguments and result are decoded and encoded in the thread, too: megabytes of CBOR would block
        # Trio's thread for too long.
        result = await service.in_thread(call, self._run, call, is_first=True)
        return result if isinstance(result, tuple) else self.encode(await result)

    def _run(self, call: InboundCall) -> tuple[Payload, bool] | Coroutine[object, object, object]:
        result = self.call(*self.bind(call))
        return result if isinstance(result, Coroutine) else self.encode(result)

    def call(self, positional: list[object], keywords: dict[str, object]) -> object:
        """Call the function, and return its result, which may be a coroutine to await in Trio."""
        try:
            result = self.function(*positional, **keywords)
        except StopIteration as stop:
            raise as_raisable(stop) from stop
        if type(result) in COMMON_RESULTS or isinstance(result, Coroutine):
            return result
        if isinstance(result, Awaitable):
            raise TypeError(f"{self.name}() returned an awaitable: make {self.name} an `async def`")
        if isinstance(result, Generator | AsyncGenerator):
            raise TypeError(
                f"{self.name}() returned a generator: a stream function must contain a `yield`; for one "
                "result, return a list"
            )
        return result


@final
class WrappedFunction(PlainFunction):
    """A plain wrapper of an ``async def``, which needs its thread only until it returns a coroutine."""

    __slots__ = ()
    needs_thread = False


@protected_class
class Stream(RegisteredFunction):
    """A function that yields a stream of items."""

    __slots__ = ()

    kind = "stream"

    def check_wanted(self, call: InboundCall) -> None:
        """Raise Rejected if the caller expects one result."""
        if not call.wants_stream:
            message = f"{self.name}() returns a stream: use stream() instead of call()"
            raise about_call(Rejected(message, code="gives_stream"))

    def encode_item(self, item: object) -> tuple[Payload, bool]:
        """Return (payload, whether it is CBOR) of an item. Raises FunctionRaised.

        A buffer is copied, because a generator may reuse it for the next item.
        """
        payload, is_cbor = encode_outcome(self.name, item, "yielded")
        if self._result_check is not None:
            self.check_result(item, "yielded")
        if isinstance(payload, Segment):
            return payload.as_bytes(), is_cbor
        return (payload if type(payload) is bytes else bytes(payload)), is_cbor


@final
class AsyncStream(Stream):
    """An async generator, which runs as a Trio task at the speed at which the caller takes the items."""

    __slots__ = ()

    @disable_ki_protection  # it runs the user's code
    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Send the items of the generator."""
        self.check_wanted(call)
        positional, keywords = self.bind(call)
        generator = cast("AsyncGenerator[object, None]", self.function(*positional, **keywords))
        async with aclosing(generator) as items:
            async for item in items:
                payload, is_cbor = self.encode_item(item)
                await call.send(payload, is_cbor=is_cbor)
        return NONE, True
