"""A call whose arguments are encoded before it begins.

Decoded arguments can take 64 times the memory of their encoding. A bound call keeps the encoding alone,
so the arguments can be freed while the call waits for a replica, and while it runs.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, cast, final

from spear._errors import InvalidArguments
from spear._hooks import is_plain_function
from spear._util import NoPublicConstructor
from spear.channels import notify, protected_block, protected_class

from ._answers import Answer
from ._assignment import AssignedInstance
from ._payloads import heap_bytes
from ._returns import R

if TYPE_CHECKING:
    from spear.wire import Payload

    from ._call_maker import CallMaker
    from ._executions import Execution
    from ._streams import FunctionStream

logger: Final = logging.getLogger("spear.calls")

OnEnd: TypeAlias = Callable[[], None]
"""Called without arguments at the end of a submitted call. Must not block. Its exceptions are logged."""


@final
@protected_class
class BoundCall(Generic[R], metaclass=NoPublicConstructor):
    """A function with its options and the encoded arguments of one call, from :meth:`Function.bind`.

    May be called several times; each call sends the same arguments.
    """

    __slots__ = ("_calls", "_is_cbor", "_payload")

    def __init__(self, calls: CallMaker, payload: Payload, is_cbor: bool) -> None:
        self._calls = calls
        self._payload = payload
        self._is_cbor = is_cbor

    def __repr__(self) -> str:
        return f"<BoundCall of {self._calls.name} with {len(self._payload)} bytes>"

    @property
    def argument_bytes(self) -> int:
        """Bytes of memory that the encoded arguments hold. 0 for a ``SharedBuffer``: it is not copied."""
        return heap_bytes(self._payload)

    async def ask(self) -> Answer[R]:
        """Call the function, as :meth:`Function.ask` does. A checkpoint."""
        calls = self._calls
        calls.expect_stream(False)
        assigned = AssignedInstance()
        response = await calls.request(self._payload, self._is_cbor, None, assigned)
        if response.is_segment:
            await response.settle()
        return Answer(
            result=cast("R", calls.read(response.payload, response.is_cbor)),
            instance=assigned.instance,
            execution_seconds=response.execution_seconds,
        )

    def submit(
        self, *, on_end: OnEnd | None = None, execution_id: str | None = None
    ) -> Execution[R]:
        """Submit the call, as :meth:`Function.submit` does. Returns at once.

        Args:
            on_end: Called exactly once: when the execution has completed, failed, timed out or been
                cancelled, or before this method raises. With a key, the function may still run after a
                cancel or a timeout. Its arguments then count against ``HostLimits.submitted_bytes``.

            execution_id: the id of the execution, which no other has; by default a new one.

        Raises:
            InvalidArguments: ``on_end`` is no plain function.
            Rejected: the function is a stream, or its deployment is closed.
            Overloaded: ``HostLimits.max_submitted`` or ``HostLimits.submitted_bytes`` is reached.
            SpearError: the spearlet has ended.
        """
        calls, payload, is_cbor = self._calls, self._payload, self._is_cbor
        if on_end is not None and not is_plain_function(on_end):
            raise InvalidArguments(f"on_end must be a plain function, not {on_end!r:.60}")

        try:
            calls.expect_stream(False)
            execution = calls.submit(
                payload,
                is_cbor,
                argument_bytes=self.argument_bytes,
                on_end=on_end,
                execution_id=execution_id,
            )
            return cast("Execution[R]", execution)
        except BaseException:
            if on_end is not None:
                notify(logger, "on_end", on_end)
            raise

    @protected_block
    async def stream(self, *, sends_items: bool = False) -> AsyncIterator[FunctionStream[R]]:
        """Call the function for a stream, as :meth:`Function.stream` does."""
        calls = self._calls
        calls.expect_items(sends_items=sends_items)
        async with calls.open_stream(
            self._payload, self._is_cbor, None, sends_items=sends_items
        ) as stream:
            yield cast("FunctionStream[R]", stream)
