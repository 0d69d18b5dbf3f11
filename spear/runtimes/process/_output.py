"""Reading the output of a process without delaying the process or other tasks of the host.

A short line costs as much as a long one. The reader therefore counts lines. A process that writes more
lines than the host can handle waits at its full pipe, as it would wait for a slow disk; other processes
are not delayed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, final

import trio

from spear._forks import close, own

if TYPE_CHECKING:
    from .._logs import LogTail

READ_BYTES: Final = 8 * 1024
"""Most bytes of one read; the next read comes when all lines of the last one have been handled."""

LINES_AT_ONCE: Final = 64
"""Most lines handled before other tasks run. These lines take some 0.2 ms, about as long as a call."""

LAST_BYTES: Final = 1024 * 1024
"""Most bytes read after the writer has ended: the largest size to which a writer can enlarge a pipe."""


@final
class Output:
    """A reader of a pipe into which a process writes. Owns the file descriptor.

    Attributes:
        handled: bytes that were read and handled.
    """

    def __init__(self, fd: int, tail: LogTail) -> None:
        os.set_blocking(fd, False)
        self._fd = own(fd)
        self._tail = tail
        self.handled = 0
        self._rest = b""  # bytes that were read and not handled, at most READ_BYTES

    @trio.lowlevel.enable_ki_protection
    async def drain(self) -> None:
        """Read until all writers have closed the pipe, or :meth:`finish` has read the rest.

        Cancellation loses no output: :meth:`finish` reads it.
        """
        try:
            while self._fd >= 0:
                if self._rest:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._fd)
                # close() may have run since this task was woken, and the number may be in use again.
                if self._fd < 0 or self._handle_some() == 0:
                    return
        except trio.ClosedResourceError:
            return

    async def finish(self) -> None:
        """Read what is in the pipe now, then close it. A checkpoint unless the pipe is empty.

        Called when the process has ended. One of its children may still hold the write end, possibly for
        ever. After a cancellation, the next call reads the rest.
        """
        left = LAST_BYTES
        while self._fd >= 0 and left > 0:
            handled = self._handle_some()
            if not handled:
                break
            left -= handled
            await trio.lowlevel.checkpoint()
        self.close()

    def _handle_some(self) -> int | None:
        """Handle some lines; return their bytes, 0 at the end, None if there is nothing to read yet."""
        if not self._rest:
            try:
                self._rest = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                return None
        data = self._rest
        lines = data.split(b"\n", LINES_AT_ONCE)
        self._rest = lines[-1] if len(lines) > LINES_AT_ONCE else b""
        handled = len(data) - len(self._rest)
        self.handled += handled
        self._tail.feed(data[:handled])
        return handled

    def close(self) -> None:
        """Close the file descriptor."""
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            close(self._fd)
            self._fd = -1
            self._tail.finish()
