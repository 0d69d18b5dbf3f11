"""The result of a call, undecoded."""

from __future__ import annotations

from typing import final

import trio

from spear._errors import CallFailed
from spear._segments import Segment, forwarded
from spear.wire import CBOR, SHARED, Payload, Received


@final
class ExecutionResponse:
    """A call's undecoded result.

    Attributes:
        is_cbor: whether the payload is CBOR; otherwise the bytes themselves are the result.
    """

    __slots__ = ("_flags", "_micros", "_received", "is_cbor")

    def __init__(self, received: Received, flags: int, micros: int) -> None:
        self._received: Received | memoryview = received
        self._flags = flags
        self.is_cbor = bool(flags & CBOR)
        self._micros = micros

    @property
    def is_segment(self) -> bool:
        """Whether the result lies in shared memory."""
        return type(self._received) is not bytes

    async def settle(self) -> None:
        """Copy a large result that must be copied, while other tasks run.

        If cancelled, the result is as before. A checkpoint.

        Raises:
            CallFailed: the shared memory cannot be read.
        """
        await trio.lowlevel.checkpoint()
        received = self._received
        if isinstance(received, Segment):
            try:
                await received.settle(as_bytes=not self._flags & SHARED)
            except OSError as error:
                raise _cannot_be_read(error) from error

    @property
    def payload(self) -> bytes | memoryview:
        """The result as bytes; a read-only view if the function returned a ``SharedBuffer``.

        Raises:
            CallFailed: the result is in shared memory, and no file descriptor was left to read it.
        """
        received = self._received
        if type(received) is bytes and self._flags < SHARED:
            return received
        if isinstance(received, Segment):
            try:
                received = received.as_view() if self._flags & SHARED else received.as_bytes()
            except OSError as error:
                raise _cannot_be_read(error) from error
        elif type(received) is bytes:
            received = memoryview(received)
        self._received = received
        return received

    @property
    def body(self) -> Payload:
        """The undecoded result, for forwarding unchanged; a shared result stays shared."""
        return forwarded(self._received, is_shared=self._flags >= SHARED)

    @property
    def execution_seconds(self) -> float:
        """Seconds that the handler took, as measured by the peer."""
        return self._micros / 1e6

    def __repr__(self) -> str:
        return f"<ExecutionResponse {len(self._received)} bytes in {self.execution_seconds:.6f} s>"


def _cannot_be_read(error: OSError) -> CallFailed:
    why = f"cannot read the result in shared memory: {error.strerror}"
    return CallFailed(why, delivered="yes")
