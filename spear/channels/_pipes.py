"""Pipes: they move frames between a connection and a socket, a stream, or a peer in the same process.

A pipe is the only reader and the only writer of a connection (a second writer could be cancelled in the
middle of a frame). The reader never waits for anything but input.

This module and the frame loop of ``spear.wire`` are the hot path. This module knows frames, but not
calls.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, final

import trio
from trio.lowlevel import (
    Abort,
    Task,
    current_task,
    reschedule,
    wait_readable,
    wait_task_rescheduled,
    wait_writable,
)

from spear._errors import ChannelBroken
from spear.transports import SocketStream
from spear.wire import Buffer, Frame, LendingFrame, Outbox, Receiver, Sink

from ._interrupts import protected_class
from ._pump import current_pump
from ._stream_pipe import StreamPipe
from ._streams import wake_all
from .segments import Lent, SegmentHandover, SocketHandover

if TYPE_CHECKING:
    from spear._limits import WireLimits


READ_BYTES: Final = 130 * 1024
"""Most bytes of one read: all that 64 callers sent in a pass; or two payloads of 64 KiB, with heads."""

READ_AHEAD_BYTES: Final = 4 * 1024
"""Most bytes of one read while a large payload arrives: its next head, and little that must be copied.
See ``OPENING_BYTES`` in ``spear.wire``."""

MAX_READS: Final = 4
"""Reads in a row before other tasks run. A payload of 64 KiB needs one or two reads; a scheduler pass for
each read would cost a third of the rate of such payloads."""

CROWDED_SECONDS: Final = 0.01
"""Seconds until a descriptor that the kernel did not take is sent again."""

MAX_BUFFERS: Final = 512
"""Most buffers in one sendmsg(2); Linux allows 1024."""


class Pipe(Protocol):
    """A carrier of frames, as a channel uses it."""

    bytes_sent: int
    bytes_received: int
    waiters: list[Task]
    """Tasks that wait for credit or for room in the pipe. The pipe wakes them when it has room."""

    @property
    def can_fall_silent(self) -> bool:
        """Whether the peer may die unnoticed, so that heartbeats are needed."""

    @property
    def sink(self) -> Sink:
        """The queue of outgoing frames."""

    @property
    def receiver(self) -> Receiver | None:
        """The parser of incoming bytes; None if frames arrive as objects."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that are queued and not yet sent."""

    @property
    def segments(self) -> SegmentHandover:
        """The connection's use of shared memory for large payloads."""

    async def receive(self) -> list[Frame]:
        """Wait for frames and return them. Raises ChannelBroken when no more will come."""

    async def serve(self, on_frames: Callable[[list[Frame]], None]) -> None:
        """Pass all frames to ``on_frames``, until the pipe is closed.

        ``on_frames`` may be called outside of any task. Raises ChannelBroken when the connection ends,
        and whatever ``on_frames`` raises.
        """

    def flush(self) -> None:
        """Write as much as possible without waiting."""

    async def drain(self) -> None:
        """Wait until all frames are written, or cannot be written any more."""

    def close(self) -> None:
        """Release all resources at once. Frames not yet written are lost."""


@final
@protected_class
class SocketPipe:
    """A pipe over a plain socket.

    :class:`spear.channels._pump.Pump` reads and writes without a task. Only bytes that the socket does
    not take at once are written by a task, which ends when all is written.

    Args:
        nursery: where the writing task runs; it must not outlive the pipe's use.
    """

    __slots__ = (
        "_closed", "_drained", "_ended_by", "_failure", "_fileno", "_is_crowded", "_limits",
        "_low_latency",
        "_nursery", "_on_frames", "_pump", "_server", "_stream", "_token",
        "_unsent",
        "bytes_received", "bytes_sent", "receiver", "segments", "sink", "waiters",
    )  # fmt: skip

    can_fall_silent = True

    def __init__(
        self,
        stream: SocketStream,
        limits: WireLimits,
        nursery: trio.Nursery,
        *,
        low_latency: bool = False,
    ) -> None:
        self._stream = stream
        self._fileno = stream.socket.fileno()  # still needed once the socket has been closed
        self._limits = limits
        self._nursery = nursery
        self.receiver = Receiver(limits)
        self.sink = Outbox(limits, self._schedule, self.flush)
        self.segments = SocketHandover(stream.socket, limits, self.receiver, self.sink)
        self._pump = current_pump()
        self._pump.acquire()
        self._low_latency = low_latency
        if low_latency:
            self._pump.start_spinning()
        self._on_frames: Callable[[list[Frame]], None]
        self._server: Task | None = None  # parked in serve()
        self._ended_by: BaseException | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._unsent: list[Buffer] = []  # not empty: the writing task is at work
        self._drained: trio.Event | None = None  # while a task waits in drain()
        self._failure: Exception | None = None
        self._closed = False
        self.waiters: list[Task] = []
        self.bytes_sent = 0
        self.bytes_received = 0
        self._is_crowded = False

    # -- reading ------------------------------------------------------------------------------

    async def receive(self) -> list[Frame]:
        """Wait for frames and return them. Raises ChannelBroken when no more will come."""
        while True:
            try:
                await wait_readable(self._stream.socket)
            except (OSError, trio.ClosedResourceError) as error:
                raise ChannelBroken(f"connection lost: {self._failure or error}") from error
            frames, _ = self._read()
            if frames or self.receiver.error is not None:
                return frames

    async def serve(self, on_frames: Callable[[list[Frame]], None]) -> None:
        """Pass all frames to ``on_frames``, until the pipe is closed; see :class:`Pipe`."""
        self._on_frames = on_frames
        if self._closed:
            return
        self._pump.start_reading(self._fileno, self._on_readable)
        self._server = current_task()
        await wait_task_rescheduled(self._abort_serving)
        if self._ended_by is not None:
            raise self._ended_by

    def _abort_serving(self, _: object) -> Abort:
        self._server = None
        self._pump.stop_reading(self._fileno, self._on_readable)
        return Abort.SUCCEEDED

    def _on_readable(self) -> None:
        try:
            for _ in range(MAX_READS):
                frames, is_more = self._read()
                if frames or self.receiver.error is not None:
                    self._on_frames(frames)
                if not is_more or self._server is None:
                    break
        except BaseException as error:  # lost connection, bad frame, or bug: serve() raises it
            self._end_serving(error)

    def _end_serving(self, error: BaseException | None = None) -> None:
        task, self._server = self._server, None
        if task is not None:
            self._pump.stop_reading(self._fileno, self._on_readable)
            self._ended_by = error
            reschedule(task)

    def _read(self) -> tuple[list[Frame], bool]:
        """Read without waiting; return the complete frames, and whether there may be more input.

        Raises ChannelBroken.
        """
        receiver, sock = self.receiver, self._stream.socket
        try:
            target = receiver.direct
            if target is None:
                size = READ_AHEAD_BYTES if receiver.assembling_bytes else READ_BYTES
                borrower = self.segments.borrower
                data = sock.recv(size) if borrower is None else borrower.read(sock, size)
                count = len(data)
                frames = receiver.receive_data(data)
            else:
                # Straight into the memory of the payload.
                size = len(target)
                count = sock.recv_into(target)
        except BlockingIOError:
            return [], False
        except OSError as error:
            raise ChannelBroken(f"connection lost: {self._failure or error}") from error
        finally:
            # While a view exists, the finished payload has to be copied. The traceback of an error
            # would keep the view, too, and CPython 3.13 complains when both are collected.
            is_direct = target is not None
            del target
        if not count:
            raise ChannelBroken(f"connection lost: {self._failure or 'closed by the peer'}")
        if is_direct:
            frames = receiver.received_direct(count)
        self.bytes_received += count
        return frames, count == size

    # -- writing ------------------------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        """Bytes that are queued and not yet sent."""
        return self.sink.pending_bytes + sum(map(len, self._unsent))

    def _schedule(self) -> None:
        self._pump.pending.append(self)

    def flush(self) -> None:
        """Write as much as possible without waiting. Never raises."""
        if self._unsent or self._closed or self._failure is not None:
            return
        borrower = self.segments.borrower
        if borrower is not None and borrower.ended:
            borrower.give_back()
        try:
            buffers = self.sink.take()
            while buffers:
                unsent = self._send(buffers)
                if unsent:
                    self._unsent = unsent
                    # Not start_soon: this may run when the scheduler has already decided how long
                    # to sleep.
                    self._token.run_sync_soon(self._start_writer)
                    break
                buffers = self.sink.take() if self.sink.has_more else []
        except Exception as error:  # a bug or a socket's error costs only this connection
            self._fail(error)

    def _start_writer(self) -> None:
        if not self._closed:
            self._nursery.start_soon(self._write, name="spear channel writer")

    def _send(self, buffers: list[Buffer]) -> list[Buffer]:
        """Send without waiting; return the buffers that are left."""
        sock = self._stream.socket
        if self.sink.has_lent:
            return self._send_lending(buffers)
        while buffers:
            try:
                if len(buffers) == 1:
                    sent = sock.send(buffers[0])
                    if sent == len(buffers[0]):  # the usual case
                        self.bytes_sent += sent
                        return []
                else:
                    sent = sock.sendmsg(buffers[:MAX_BUFFERS])
            except BlockingIOError:
                return buffers
            self.bytes_sent += sent
            buffers = _behind(buffers, sent)
        return buffers

    def _send_lending(self, buffers: list[Buffer]) -> list[Buffer]:
        """Send as :meth:`_send` does, when payloads of some frames may be in segments."""
        sock = self._stream.socket
        while buffers:
            first = buffers[0]
            try:
                if isinstance(first, LendingFrame):
                    lent = first.loan
                    assert isinstance(lent, Lent)  # made by our lender
                    # Sent alone, so that the descriptor belongs to the frame's first byte. After a
                    # partial send, the rest is a view and no LendingFrame any more.
                    sent = lent.send(sock, first)
                else:
                    count = 1
                    for buffer in buffers[1:MAX_BUFFERS]:
                        if isinstance(buffer, LendingFrame):
                            break
                        count += 1
                    sent = sock.sendmsg(buffers[:count])
            except BlockingIOError:
                return buffers
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                # So many descriptors of this user are in flight that the kernel takes no more. Try again
                # when receivers have read some.
                self._is_crowded = True
                return buffers
            self.bytes_sent += sent
            buffers = _behind(buffers, sent)
        return buffers

    async def _write(self) -> None:
        """Send what the socket did not take, then all frames that are queued meanwhile."""
        limits = self._limits
        try:
            with trio.CancelScope() as scope:
                while self._unsent:
                    scope.deadline = trio.current_time() + limits.write_seconds
                    await wait_writable(self._stream.socket)
                    if self._is_crowded:
                        self._is_crowded = False
                        await trio.sleep(CROWDED_SECONDS)
                    self._unsent = self._send(self._unsent)
                    if not self._unsent:
                        self._unsent = self.sink.take()
                        wake_all(self.waiters)
            if scope.cancelled_caught:
                self._fail(ChannelBroken(f"the peer read no data for {limits.write_seconds:g} s"))
        except Exception as error:  # see flush()
            self._fail(error)
        self._wake_drainers()

    async def drain(self) -> None:
        """Wait until all frames are written, or cannot be written any more."""
        self.flush()
        while self._unsent and not self._closed:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()
        await trio.lowlevel.checkpoint()

    def _wake_drainers(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.set()

    def _fail(self, error: Exception) -> None:
        """Note that writing has failed, and shut the socket down, so that the reader notices."""
        self._failure = error
        self._unsent = []
        with suppress(OSError):  # the connection is gone already
            self._stream.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release all resources at once. Frames not yet written are lost."""
        if self._closed:
            return
        self._closed = True
        self._end_serving()
        if self._low_latency:
            self._pump.stop_spinning()
        self._pump.release()
        self._stream.close()
        self._unsent = []
        self.receiver.detach()
        self.segments.close()
        self._wake_drainers()


def _behind(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """Return the buffers without their first ``sent`` bytes."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            rest = buffers[index:]
            if sent:
                rest[0] = memoryview(buffer)[sent:]
            return rest
        sent -= len(buffer)
    return []


def open_pipe(
    stream: trio.abc.Stream, limits: WireLimits, nursery: trio.Nursery, *, low_latency: bool = False
) -> Pipe:
    """Return the fastest pipe for this kind of stream."""
    if isinstance(stream, SocketStream) and hasattr(select, "epoll"):
        return SocketPipe(stream, limits, nursery, low_latency=low_latency)
    return StreamPipe(stream, limits, nursery)
