"""Direct calls of functions that use the context of their call.

The context that the function gets is made from arguments of the test. It records what the function does
with it. Calls of other functions go to stand-ins. No host, channel or event loop is needed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, aclosing, contextmanager, nullcontext
from functools import partial
from inspect import isawaitable
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs
import trio

from spear._errors import (
    DeadlineExceeded,
    FunctionRaised,
    LocalProtocolError,
    NotFound,
    Rejected,
    SpearError,
)
from spear._ids import InstanceId
from spear._limits import expect_timeout
from spear._segments import Segment
from spear._sendable import CannotSend
from spear._util import NoPublicConstructor, did_you_mean, name_of, text_of
from spear.agent import CallContext, Items, using_context
from spear.annotations import build_expected_type
from spear.channels import protected_block
from spear.wire import decode_result, encode_call, encode_sendable

if TYPE_CHECKING:
    from spear.annotations import ExpectedType
    from spear.channels import Metadata
    from spear.wire import Value

StandIn: TypeAlias = Callable[..., object]  # type: ignore[explicit-any]  # any function
"""A function that stands for a function of the host: plain, async, or a generator of either kind."""

INSTANCE: Final = InstanceId("memory", "direct-1", 1)
"""The instance in which the functions seem to run."""

_numbers: Final = count(1)


@final
@attrs.frozen
class NestedCall:
    """A call that the function under test has made with ``spear.call`` or its like.

    Attributes:
        function: the name of the called function, as the calling one wrote it.
        arguments: the positional arguments.
        keywords: the keyword arguments.
        key: the key of ``spear.call_once``; None for other calls.
        timeout: the timeout of the call; None if the calling function gave none.
    """

    function: str
    arguments: tuple[object, ...]
    keywords: Mapping[str, object]
    key: str | None = None
    timeout: float | None = None


@final
class DirectCall(metaclass=NoPublicConstructor):
    """A direct call of a function, as :func:`calling` yields it.

    Attributes:
        context: the context that the function gets from :func:`spear.context`.
        progress: the values that the function has reported as progress, as a caller receives them.
        logs: the records that the function has logged with the logger of its context, of all levels.
        calls: the calls of other functions that the function has made.
    """

    def __init__(
        self,
        function: str,
        key: str | None,
        metadata: Metadata,
        items: Iterable[object],
        stand_ins: Mapping[str, StandIn],
        timeout: float,
    ) -> None:
        self.progress: list[Value] = []
        self.logs: list[logging.LogRecord] = []
        self.calls: list[NestedCall] = []
        self.context: CallContext = _DirectContext(self)
        self._number = next(_numbers)
        self._function = function
        self._key = key
        self._metadata = metadata
        self._items = iter(items)
        self._stand_ins = stand_ins
        self._timeout = timeout
        self._is_cancelled = False
        self._scope = trio.CancelScope() if trio.lowlevel.in_trio_task() else None
        self._clock = time.monotonic if self._scope is None else trio.current_time
        self._deadline = self._clock() + timeout
        if self._scope is not None:
            self._scope.deadline = self._deadline

    def cancel(self) -> None:
        """Cancel the call, as its caller can at any time. Does nothing if it is cancelled already.

        An async function in Trio gets ``trio.Cancelled`` at its next checkpoint. Other functions see
        ``spear.context().is_cancelled``.
        """
        self._is_cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Let the block be the call."""
        with ExitStack() as stack:
            stack.enter_context(_recording(self._function, self._number, self.logs))
            stack.enter_context(using_context(self.context))
            if self._scope is not None:
                stack.enter_context(self._scope)
            yield
        is_late = (
            self._scope is not None and self._scope.cancelled_caught and not self._is_cancelled
        )
        if is_late:
            raise DeadlineExceeded.of_call(self._function, self._timeout, "yes")

    async def _next_item(self) -> tuple[bytes, bool]:
        await _checkpoint()
        for item in self._items:
            return _encoded(item)
        raise trio.EndOfChannel

    def _run_stand_in(self, call: NestedCall) -> object:
        """Begin a call of another function; return what its stand-in returns."""
        self.calls.append(call)
        name = call.function
        found = self._stand_ins.get(name) or self._stand_ins.get(name.rpartition(".")[2])
        if found is None:
            hint = did_you_mean(name, self._stand_ins)
            raise NotFound(
                f"no stand-in for {name!r}{hint}: pass calling(functions={{{name!r}: ...}})"
            )
        encode_call(name, call.arguments, call.keywords)  # raises what a call would raise
        with _as_caller():
            return found(*call.arguments, **call.keywords)


@final
class _DirectContext(CallContext):
    """The context of a direct call."""

    __slots__ = ("_direct",)

    def __init__(self, direct: DirectCall) -> None:
        self._direct = direct

    @property
    def function(self) -> str:
        return self._direct._function

    @property
    def call_id(self) -> int:
        return self._direct._number

    @property
    def instance_id(self) -> InstanceId:
        return INSTANCE

    @property
    def metadata(self) -> Metadata:
        return self._direct._metadata

    @property
    def key(self) -> str | None:
        return self._direct._key

    @property
    def deadline(self) -> float:
        return self._direct._deadline

    def remaining_seconds(self) -> float:
        direct = self._direct
        return 0.0 if self.is_cancelled else max(direct._deadline - direct._clock(), 0.0)

    @property
    def is_cancelled(self) -> bool:
        direct = self._direct
        return direct._is_cancelled or direct._clock() >= direct._deadline

    @property
    def items(self) -> Items[Value]:
        return Items(self._direct._next_item, self.function, is_callers=True)

    def progress(self, value: object) -> None:
        self._direct.progress.append(decode_result(*_encoded(value)))

    async def _call_other(
        self,
        function: str,
        arguments: Sequence[object],
        keywords: Mapping[str, object],
        timeout: float | None,
        returns: object,
        key: str | None = None,
    ) -> object:
        expected = build_expected_type(returns)
        call = NestedCall(function, tuple(arguments), keywords, key, timeout)
        await _checkpoint()
        result = self._direct._run_stand_in(call)
        if isawaitable(result):
            with _as_caller():
                result = await result
        return _received(function, result, expected)

    def _call_from_thread(
        self,
        function: str,
        arguments: Sequence[object],
        keywords: Mapping[str, object],
        timeout: float | None,
        returns: object,
    ) -> object:
        expected = build_expected_type(returns)
        call = NestedCall(function, tuple(arguments), keywords, None, timeout)
        result = self._direct._run_stand_in(call)
        if isinstance(result, Coroutine):
            result.close()
            raise LocalProtocolError(
                f"the stand-in of {function!r} is async: call_sync() needs a plain one"
            )
        return _received(function, result, expected)

    @protected_block
    async def _stream(
        self,
        function: str,
        arguments: Sequence[object],
        keywords: Mapping[str, object],
        timeout: float | None,
        returns: object,
    ) -> AsyncIterator[Items[object]]:
        expected = build_expected_type(returns)
        call = NestedCall(function, tuple(arguments), keywords, None, timeout)
        await _checkpoint()
        items = self._direct._run_stand_in(call)
        if not isinstance(items, AsyncIterable | Iterable):
            raise Rejected(f"{function}() returns a result: use call()", code="gives_result")
        async with aclosing(_iterated(items)) as iterated:

            async def receive() -> tuple[bytes, bool]:
                with _as_caller():
                    async for item in iterated:
                        return _encoded(item)
                raise trio.EndOfChannel

            convert = None if expected is None else partial(expected.convert, function)
            yield Items(receive, function, check=convert)


async def _iterated(
    items: AsyncIterable[object] | Iterable[object],
) -> AsyncGenerator[object, None]:
    if isinstance(items, AsyncIterable):
        async with aclosing(items) if isinstance(items, AsyncGenerator) else nullcontext():
            async for item in items:
                yield item
    else:
        for item in items:
            await _checkpoint()
            yield item


async def _checkpoint() -> None:
    """Do what each operation of a call does in Trio; nothing in asyncio."""
    if trio.lowlevel.in_trio_task():
        await trio.lowlevel.checkpoint()


@contextmanager
def _as_caller() -> Iterator[None]:
    """Raise the exceptions of a stand-in as a caller of the function gets them."""
    try:
        yield
    except SpearError:
        raise
    except Exception as error:
        raise FunctionRaised(text_of(error), type_name=name_of(error)) from error


def _encoded(value: object) -> tuple[bytes, bool]:
    """Return a value as it is sent: (payload, whether it is CBOR). Raises TypeError."""
    try:
        payload, is_cbor = encode_sendable(value)
    except CannotSend as fault:
        raise TypeError(str(fault)) from None
    return (payload.as_bytes() if isinstance(payload, Segment) else bytes(payload)), is_cbor


def _received(function: str, result: object, expected: ExpectedType | None) -> object:
    """Return the result of a stand-in as a caller receives it."""
    received: object = decode_result(*_encoded(result))
    return received if expected is None else expected.convert(function, received)


@contextmanager
def _recording(function: str, number: int, records: list[logging.LogRecord]) -> Iterator[None]:
    """Record what is logged for one call, whatever the levels of loggers are."""

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "call", None) == number:
                records.append(record)

    logger, handler = logging.getLogger(f"spear.function.{function}"), Recorder()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


@contextmanager
def calling(
    *,
    function: str = "function",
    key: str | None = None,
    timeout: float = inf,
    metadata: Metadata | None = None,
    cancelled: bool = False,
    items: Iterable[object] = (),
    functions: Mapping[str, StandIn] | None = None,
) -> Iterator[DirectCall]:
    """Give the functions that the block calls directly a context, as a call by a host would.

    ::

        with calling(key="k", timeout=10, functions={"half": lambda number: number / 2}) as call:
            assert await report([1, 2]) == [0.5, 1.0]
        assert call.progress == [0.5, 1.0]

    Works in plain code, in Trio and in asyncio. In Trio the block is a cancel scope: an async function is
    cancelled at its next checkpoint when the call is cancelled or its deadline passes, and the block is
    left. Outside of Trio, nothing interrupts the function; time is that of ``time.monotonic``.

    Args:
        function: the name under which the function seems to be called.
        key: the idempotency key of the call.
        timeout: seconds until the deadline.
        metadata: the metadata of the call; ``{"caller": ...}`` is the name of the caller.
        cancelled: whether the call is cancelled from the beginning; see also :meth:`DirectCall.cancel`.
        items: the items that the caller sends, for ``spear.context().items``.
        functions: stand-ins for other functions of the host, by name: plain or async functions, and
            generators for streams. They get the arguments as the calling function has passed them; their
            results arrive as plain values, as from a host, and their exceptions as FunctionRaised.

    Raises:
        DeadlineExceeded: in Trio, the deadline has passed and cancelled the block.
        InvalidArguments: ``timeout`` is not a valid number of seconds.
    """
    expect_timeout(timeout)
    call: DirectCall = DirectCall._create(
        function, key, dict(metadata or {}), items, functions or {}, timeout
    )
    if cancelled:
        call.cancel()
    with call._running():
        yield call
