"""Standard output that a slow reader does not block for the rest of the program.

A reader that pauses, such as a pager, must not stop us from reading the function's messages: the instance
would take its host for dead.
"""

from __future__ import annotations

import os
import select
import sys
from functools import partial
from typing import final

import trio

from spear._errors import SpearError

from ._waiting import is_writable, wait_writable


@final
class StandardOutput:
    """The standard output, without a buffer."""

    def __init__(self) -> None:
        self._fd = sys.stdout.fileno()

    async def write(self, data: bytes) -> None:
        """Write all the data without buffering, so that a reader sees it at once.

        If cancelled, a part may have been written.

        Raises:
            BrokenPipeError: the reader has closed its end.
            SpearError: the system refuses to write.
        """
        # If any byte can be written, PIPE_BUF bytes can. A thread would cost more than the call itself.
        small = len(data) <= select.PIPE_BUF
        if small and is_writable(self._fd):
            self._write(data)
        else:
            await trio.to_thread.run_sync(partial(self._write, data), abandon_on_cancel=True)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                wait_writable(self._fd)
                rest = rest[os.write(self._fd, rest) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SpearError(f"cannot write to standard output: {error.strerror}") from error
