"""A pipe over any Trio stream: TLS, WebSocket, a test's memory stream.

The counterpart of ``_pipes.SocketPipe`` for streams to which only a task can write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from spear._errors import ChannelBroken
from spear.wire import Buffer, Frame, Outbox, Receiver

from ._interrupts import protected_class
from ._streams import wake_all
from .segments import NO_SEGMENTS

if TYPE_CHECKING:
    from spear._limits import WireLimits

READ_BYTES: Final = 128 * 1024

WRITE_BYTES: Final = 256 * 1024
"""Most bytes of one ``send_all``. A peer that takes fewer within `write_seconds` is disconnected."""


@final
@protected_class
class StreamPipe:
    """A pipe over any Trio stream (TLS, WebSocket, a test's memory stream).

    Writing needs a task, because only a task can wait inside ``send_all``.
    """

    __slots__ = (
        "_busy", "_drained", "_failure", "_limits", "_scope", "_stream", "_taken_bytes", "_writer",
        "bytes_received", "bytes_sent", "receiver", "sink", "waiters",
    )  # fmt: skip

    can_fall_silent = True
    segments = NO_SEGMENTS

    def __init__(self, stream: trio.abc.Stream, limits: WireLimits, nursery: trio.Nursery) -> None:
        self._stream = stream
        self._limits = limits
        self.receiver = Receiver(limits)
        self.sink = Outbox(limits, self.flush)
        self._writer: trio.lowlevel.Task | None = None  # the writing task, while it is parked
        self._busy = True  # the writer is writing, or is about to look for frames
        self._scope = trio.CancelScope()  # around the writing task
        self._taken_bytes = 0  # taken from the sink, and not sent yet
        self._drained: trio.Event | None = None  # while a task waits in drain()
        self._failure: Exception | None = None
        self.waiters: list[Task] = []
        self.bytes_sent = 0
        self.bytes_received = 0
        nursery.start_soon(self._write, name="spear channel writer")

    async def receive(self) -> list[Frame]:
        """Wait for frames and return them. Raises ChannelBroken when no more will come."""
        receiver = self.receiver
        while True:
            try:
                data = await self._stream.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ChannelBroken(f"connection lost: {self._failure or error}") from error
            if not data:
                raise ChannelBroken(f"connection lost: {self._failure or 'closed by the peer'}")
            self.bytes_received += len(data)
            frames = receiver.receive_data(bytes(data))
            if frames or receiver.error is not None:
                return frames

    async def serve(self, on_frames: Callable[[list[Frame]], None]) -> None:
        """Pass all frames to ``on_frames``, until ``on_frames`` or :meth:`receive` raises."""
        while True:
            on_frames(await self.receive())

    @property
    def unsent_bytes(self) -> int:
        """Bytes that are queued and not yet sent."""
        return self.sink.pending_bytes + self._taken_bytes

    def flush(self) -> None:
        """Wake the writing task."""
        if self._writer is not None:
            self._busy = True
            reschedule(self._writer)
            self._writer = None

    async def _write(self) -> None:
        seconds = self._limits.write_seconds
        try:
            with self._scope:
                while True:
                    buffers = self.sink.take()
                    self._taken_bytes = sum(map(len, buffers))
                    wake_all(self.waiters)
                    if not buffers:
                        self._rest()
                        await self._park()
                    for part in _in_parts(buffers):
                        with trio.fail_after(seconds):
                            await self._stream.send_all(part)
                        self.bytes_sent += len(part)
                        self._taken_bytes -= len(part)
        except trio.TooSlowError:
            self._failure = ChannelBroken(f"the peer read no data for {seconds:g} s")
        except Exception as error:  # a bug or a stream's error costs only this connection
            self._failure = error
        finally:
            self._rest()
        # A frame may be half written: close the stream, so that both readers notice. (Not if cancelled
        # from outside: our reader is then cancelled, too, and must not report a lost connection.)
        await trio.aclose_forcefully(self._stream)

    async def _park(self) -> None:
        def abort(_: object) -> Abort:
            self._writer = None
            return Abort.SUCCEEDED

        self._writer = current_task()
        await wait_task_rescheduled(abort)

    def _rest(self) -> None:
        self._busy = False
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.set()

    async def drain(self) -> None:
        """Wait until all frames are written, or cannot be written any more."""
        self.flush()
        while self._busy:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Release all resources, as soon as the writing task runs."""
        self._scope.cancel()


def _in_parts(buffers: list[Buffer]) -> Iterator[Buffer]:
    """Yield the bytes in parts that are small enough for a slow peer to take each of them in time."""
    for buffer in buffers:
        if len(buffer) <= WRITE_BYTES:
            yield buffer
        else:
            view = memoryview(buffer)
            for start in range(0, len(view), WRITE_BYTES):
                yield view[start : start + WRITE_BYTES]
