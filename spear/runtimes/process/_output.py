"""Reading what a process writes, so that it never has to wait for us, nor anybody for it.

A line costs the same however short it is. So it is lines that are counted: whoever writes more of them
than we can handle waits at its full pipe, as it would for a slow disk, and nobody else does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, final

import trio

from spear._forks import close, own

if TYPE_CHECKING:
    from .._logs import LogTail

READ_BYTES: Final = 8 * 1024
"""One read; the next one comes when all of its lines have been handled."""

LINES_AT_ONCE: Final = 64
"""Then all others have a turn. So many lines take some 0.2 ms, about as long as a call."""

LAST_BYTES: Final = 1024 * 1024
"""What a pipe can hold, if its writer has enlarged it, when the writer has ended."""


@final
class Output:
    """The end of a pipe into which a process writes. Owns its descriptor.

    Attributes:
        handled: bytes that were read and handled.
    """

    def __init__(self, fd: int, tail: LogTail) -> None:
        os.set_blocking(fd, False)
        self._fd = own(fd)
        self._tail = tail
        self.handled = 0
        self._rest = b""  # of what was read, what was not handled; never more than READ_BYTES

    @trio.lowlevel.enable_ki_protection
    async def drain(self) -> None:
        """Read until nobody can write any more, or :meth:`finish` has read the rest.

        If cancelled, nothing is lost: :meth:`finish` finds it.
        """
        try:
            while self._fd >= 0:
                if self._rest:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._fd)
                # It may have been closed between our being woken and now, and its number be taken.
                if self._fd < 0 or self._handle_some() == 0:
                    return
        except trio.ClosedResourceError:
            return

    async def finish(self) -> None:
        """Take what is in the pipe, and read no more. A checkpoint if there is anything in it.

        The process has ended. One of its children may still have the pipe, and hold it for ever. If
        cancelled, the rest is there for the next call.
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
        """Handle a few lines; how many bytes they were, 0 at the end, None if there is nothing yet."""
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
        """Release the descriptor."""
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            close(self._fd)
            self._fd = -1
            self._tail.finish()
