"""Functions as the agent runs them: one class for each kind of function that a user may write.

Each turns a call into arguments, runs the user's function where it belongs (Trio's thread or another
one) and turns what comes back into bytes. Failures are raised; the service reports them.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias, cast, final

from trio.lowlevel import disable_ki_protection

from spear._errors import InvalidArguments, Rejected
from spear._segments import Segment
from spear.channels import protected_class
from spear.wire import NONE

from ._arguments import AnyFunction, Binder, decode_arguments_untrusted, make_binder
from ._encoding import encode_outcome
from ._failures import about_call
from ._items import Items

if TYPE_CHECKING:
    from spear.channels import InboundCall
    from spear.wire import Payload

    from ._annotations import Check
    from ._asyncio_bridge import BridgedCall
    from ._service import AgentService

FunctionKind: TypeAlias = Literal["function", "stream"]
DecodedArguments: TypeAlias = tuple[list[object], dict[str, object]]

# Plain functions bind their arguments in their threads. Building a binder takes the lock, so that none
# sees another one's half-built checks.
_building: Final = threading.Lock()


@protected_class
class RegisteredFunction(ABC):
    """A registered function.

    Attributes:
        name: under which it is called.
        function: what the user wrote.
        needs_thread: whether each call has a thread of its own.
        can_run_inline: whether a service that `runs_inline` can run it without a thread.
        calls: how many were begun.
        failed: how many ended with a failure, refused arguments among them.
        late: how many raised something when nobody waited for them any more.
    """

    __slots__ = ("_binder", "_items", "calls", "failed", "function", "late", "name")

    kind: ClassVar[FunctionKind] = "function"
    needs_thread: ClassVar[bool] = False
    can_run_inline: ClassVar[bool] = True

    def __init__(self, name: str, function: AnyFunction) -> None:
        self.name = name
        self.function = function
        self.calls = 0
        self.failed = 0
        self.late = 0
        self._binder: Binder | None = None
        self._items: Callable[[InboundCall, DecodedArguments, BridgedCall | None], None] | None = (
            None
        )

    @abstractmethod
    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Handle one call: (payload, whether it is CBOR) of what it ends with."""

    def bind(self, call: InboundCall, bridge: BridgedCall | None = None) -> DecodedArguments:
        """The arguments of a call, checked and converted.

        Raises:
            InvalidArguments: they do not fit.
        """
        binder = self._binder or self.prepare()
        try:
            payload = self._in_place(call, binder) if call.is_segment else call.payload
            arguments = decode_arguments_untrusted(payload, call.is_cbor)
            binder.bind(*arguments)
        except InvalidArguments as error:
            about_call(error)
            raise
        except ValueError as error:
            raise about_call(InvalidArguments(f"{self.name}(): {error}")) from error
        if self._items is not None:
            self._items(call, arguments, bridge)
        return arguments

    @staticmethod
    def _in_place(call: InboundCall, binder: Binder) -> bytes | memoryview:
        """Arguments that need not be copied: a view of them, if the function or its caller wants one."""
        if call.is_cbor or binder.raw is bytes:
            return call.payload
        if call.is_shared or binder.raw in (memoryview, bytearray):
            return call.view()
        return call.payload

    def prepare(self) -> Binder:
        """Find out what its parameters ask for; the first call does it, if nobody has before."""
        with _building:
            binder, items = make_binder(self.name, self.function)
            if items is not None:
                self._items = partial(self._add_items, *items)
                binder.takes_bytes = False
            self._binder = binder  # last: other threads look at it without the lock
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
        """Put the caller's items in the place of their parameter."""
        items: Items[object] = Items(
            call.receive_item, self.name, check=check, bridge=bridge, is_callers=True
        )
        positional, keywords = arguments
        if len(positional) >= index:
            positional.insert(index, items)
        else:
            keywords[parameter] = items

    def encode(self, result: object) -> tuple[Payload, bool]:
        """(payload, whether it is CBOR) of what the function returned. Raises FunctionRaised."""
        return encode_outcome(self.name, result, "returned")


@final
class AsyncFunction(RegisteredFunction):
    """``async def``: runs as a Trio task."""

    __slots__ = ()

    @disable_ki_protection  # what it runs is the user's
    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Await it."""
        binder = self._binder
        if binder is not None and binder.takes_bytes and not (call.is_cbor or call.is_segment):
            # What bind() would do, for the most common arguments of fast calls.
            result = await self.function(call.payload)
        else:
            positional, keywords = self.bind(call)
            result = await self.function(*positional, **keywords)
        return (result, False) if type(result) is bytes else self.encode(result)


class PlainFunction(RegisteredFunction):
    """``def``: runs in a worker thread, and is not abandoned there when it is cancelled.

    A coroutine that it returns, as a wrapper of an ``async def`` does, is awaited in Trio. A wrapper may
    as well run the function inside by itself, as with ``trio.run``; then it returns a result.
    """

    __slots__ = ()
    needs_thread = True

    @disable_ki_protection  # what it awaits is the user's
    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Wait for a thread, and for the function."""
        # Decoding and encoding happen in the thread, too: megabytes of CBOR take longer than Trio's
        # thread may be away.
        result = await service.in_thread(call, self._run, call)
        return result if isinstance(result, tuple) else self.encode(await result)

    def _run(self, call: InboundCall) -> tuple[Payload, bool] | Coroutine[object, object, object]:
        positional, keywords = self.bind(call)
        result = self.function(*positional, **keywords)
        if isinstance(result, Coroutine):
            return result
        if isinstance(result, Awaitable):
            raise TypeError(f"{self.name}() returned something to await: write it as `async def`")
        if isinstance(result, Generator | AsyncGenerator):
            raise TypeError(
                f"{self.name}() returned a generator: to be a stream, it must have a `yield`"
            )
        return self.encode(result)


@final
class WrappedFunction(PlainFunction):
    """A plain wrapper that is seen to be one of an ``async def``: it needs its thread for a moment."""

    __slots__ = ()
    needs_thread = False


@protected_class
class Stream(RegisteredFunction):
    """A function that gives many items."""

    __slots__ = ()

    kind = "stream"

    def check_wanted(self, call: InboundCall) -> None:
        """Raise Rejected if the caller expects one result."""
        if not call.wants_stream:
            message = f"{self.name}() gives a stream: call it with stream()"
            raise about_call(Rejected(message, code="gives_stream"))

    def encode_item(self, item: object) -> tuple[Payload, bool]:
        """(payload, whether it is CBOR) of an item. Raises FunctionRaised.

        A buffer is copied: generators use theirs again for the next item.
        """
        payload, is_cbor = encode_outcome(self.name, item, "yielded")
        if isinstance(payload, Segment):
            return payload.as_bytes(), is_cbor
        return (payload if type(payload) is bytes else bytes(payload)), is_cbor


@final
class AsyncStream(Stream):
    """An async generator: runs as a Trio task, no faster than the caller takes the items."""

    __slots__ = ()

    @disable_ki_protection  # what it runs is the user's
    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Send its items."""
        self.check_wanted(call)
        positional, keywords = self.bind(call)
        generator = cast("AsyncGenerator[object, None]", self.function(*positional, **keywords))
        async with aclosing(generator) as items:
            async for item in items:
                payload, is_cbor = self.encode_item(item)
                await call.send(payload, is_cbor=is_cbor)
        return NONE, True
