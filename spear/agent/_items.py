"""The items of a stream that a function receives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, cast, final

import trio

from spear._codecs import CodecFault
from spear._errors import CallFailed, InvalidArguments
from spear.annotations import Mismatch
from spear.channels import protected_class
from spear.wire import decode_result

from ._failures import about_call

if TYPE_CHECKING:
    from ._asyncio_bridge import BridgedCall

T_co = TypeVar("T_co", covariant=True)


@final
@protected_class
class Items(Generic[T_co]):
    """A stream of decoded items from the peer.

    Iterate with ``async for`` in Trio and asyncio code, and with ``for`` in the thread of a plain
    function. A function gets the items of its caller by a parameter with this annotation, as in
    ``async def total(prices: Items[float])``, or from :attr:`CallContext.items`.
    """

    __slots__ = ("_bridge", "_check", "_count", "_is_callers", "_name", "_receive")

    def __init__(
        self,
        receive: Callable[[], Awaitable[tuple[bytes, bool]]],
        name: str,
        *,
        check: Callable[[object], object] | None = None,
        bridge: BridgedCall | None = None,
        is_callers: bool = False,
    ) -> None:
        self._receive = receive
        self._name = name
        self._check = check
        self._bridge = bridge
        self._is_callers = is_callers
        self._count = 0

    async def receive(self) -> T_co:
        """Return the next item.

        Cancellation loses no item. A checkpoint at least every 64 items.

        Raises:
            trio.EndOfChannel: the stream has ended.
            InvalidArguments: the item does not fit the annotation.
            SpearError: the stream failed.
        """
        if self._bridge is not None:
            payload, is_cbor = await self._bridge.run_in_trio(self._receive)
        else:
            payload, is_cbor = await self._receive()
        try:
            item: object = decode_result(payload, is_cbor)
        except ValueError as error:
            raise self._undecodable(error) from error
        if self._check is not None:
            item = self._checked(self._check, item)
        self._count += 1
        return cast("T_co", item)

    def _undecodable(self, error: ValueError) -> CallFailed:
        fault = error if isinstance(error, CodecFault) else None
        if self._is_callers:
            mismatch = Mismatch(str(error), got=fault.name if fault else "")
            return self._invalid(mismatch, code=fault.code if fault else None)
        if fault is not None:
            return fault.of_result(f"{self._name}: cannot decode an item")
        return CallFailed(f"{self._name}: cannot decode an item: {error}", delivered="yes")

    def _checked(self, check: Callable[[object], object], item: object) -> object:
        try:
            return check(item)
        except Mismatch as mismatch:
            raise self._invalid(mismatch, code="argument_type") from None

    def _invalid(self, fault: Mismatch, *, code: str | None) -> InvalidArguments:
        parameter = f"items[{self._count}]{fault.path}"
        return about_call(
            InvalidArguments(
                f"{self._name}({parameter}): {fault}",
                parameter=parameter,
                expected=fault.expected,
                got=fault.got,
                code=code,
                delivered="yes",
            )
        )

    def __aiter__(self) -> AsyncIterator[T_co]:
        return self

    async def __anext__(self) -> T_co:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def __iter__(self) -> Iterator[T_co]:
        return self

    def __next__(self) -> T_co:
        try:
            return trio.from_thread.run(self.receive)
        except trio.EndOfChannel:
            raise StopIteration from None
