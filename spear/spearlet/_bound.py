"""A call whose arguments are encoded before it begins.

Decoded arguments can take 64 times the memory of their encoding. A bound call keeps the encoding alone,
so the arguments can be freed while the call waits for a replica, and while it runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, TypeAlias, final

from spear._util import NoPublicConstructor
from spear.channels import notify, protected_block, protected_class

from ._answers import Answer, Place
from ._arguments import Payload, decode_result_untrusted, heap_bytes
from ._host import logger

if TYPE_CHECKING:
    from spear.channels import ExecutionResponse

    from ._executions import Execution
    from ._functions import Function
    from ._streams import FunctionStream

OnEnd: TypeAlias = Callable[[], None]
"""Receives the end of a submitted call. Must not block; an exception from it is logged."""


@final
@protected_class
class BoundCall(metaclass=NoPublicConstructor):
    """A function with the encoded arguments of a call. Made by :meth:`Function.bind`."""

    __slots__ = ("_function", "_is_cbor", "_payload")

    def __init__(self, function: Function, payload: Payload, is_cbor: bool) -> None:
        self._function = function
        self._payload = payload
        self._is_cbor = is_cbor

    def __repr__(self) -> str:
        return f"<BoundCall of {self._function.name} with {len(self._payload)} bytes>"

    @property
    def argument_bytes(self) -> int:
        """Bytes of memory that the encoded arguments hold; 0 for a ``SharedBuffer``, never copied."""
        return heap_bytes(self._payload)

    async def ask(self) -> Answer:
        """Call the function, as :meth:`Function.ask` does. A checkpoint."""
        function = self._function
        function._expect_stream(False)
        place = Place()
        response = await function._request(self._payload, self._is_cbor, None, place)
        return Answer(
            result=decode_result_untrusted(response.payload, response.is_cbor),
            instance=place.instance,
            execution_seconds=response.execution_seconds,
        )

    def submit(self, *, on_end: OnEnd | None = None) -> Execution:
        """Submit the call, as :meth:`Function.submit` does.

        Args:
            on_end: called exactly once, when the execution has ended, in whatever way, or when this
                method raises. The execution of a key may go on, and hold its own arguments, which
                ``Limits.submitted_bytes`` bounds.
        """
        function, payload, is_cbor = self._function, self._payload, self._is_cbor

        async def work(execution: Execution) -> ExecutionResponse:
            return await function._request(payload, is_cbor, None, execution)

        try:
            function._expect_stream(False)
            return function._host.launch(
                function.deployment,
                function.name,
                function._pool,
                work,
                argument_bytes=self.argument_bytes,
                on_end=on_end,
            )
        except BaseException:
            if on_end is not None:
                notify(logger, "on_end", on_end)
            raise

    @protected_block
    async def stream(self, *, sends_items: bool = False) -> AsyncIterator[FunctionStream]:
        """Call the function for a stream, as :meth:`Function.stream` does."""
        function = self._function
        function._expect_items(sends_items=sends_items)
        async with function._open(
            self._payload, self._is_cbor, None, sends_items=sends_items
        ) as stream:
            yield stream
