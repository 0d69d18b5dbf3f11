"""Reading what a process writes, so that it never has to wait for us, nor we for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, final

import trio

if TYPE_CHECKING:
    from ._logs import LogTail

READ_BYTES: Final = 8 * 1024
"""One read. So many empty lines take some milliseconds, the most that others wait in between."""

LAST_READS: Final = 128
"""What a pipe can hold (1 MiB, if its writer has enlarged it), when the writer has ended."""


@final
class Output:
    """The end of a pipe into which a process writes. Owns its descriptor."""

    def __init__(self, fd: int, tail: LogTail) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._tail = tail

    async def drain(self) -> None:
        """Read until nobody can write any more, or :meth:`finish` has read the rest.

        If cancelled, nothing is lost: it stays in the pipe.
        """
        try:
            while self._fd >= 0:
                await trio.lowlevel.wait_readable(self._fd)
                # It may have been closed between our being woken and now, and its number be taken.
                if self._fd < 0 or not self._read():
                    return
        except trio.ClosedResourceError:
            return

    def _read(self) -> bool:
        """Whether there may be more, now or later."""
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return True
        self._tail.feed(data)
        return bool(data)

    def finish(self) -> None:
        """Take what is in the pipe, and read no more.

        The process has ended. One of its children may still have the pipe, and hold it for ever.
        """
        for _ in range(LAST_READS):
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                break
            self._tail.feed(data)
        self.close()

    def close(self) -> None:
        """Release the descriptor."""
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._tail.finish()
