"""Standard output, written to so that nothing else has to wait for whoever reads it.

A reader that pauses, such as a pager, must not stop us from reading what the function sends: its
instance would take us for dead.
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
    """Standard output, unbuffered."""

    def __init__(self) -> None:
        self._fd = sys.stdout.fileno()

    async def write(self, data: bytes) -> None:
        """Write all of it at once, so that a reader sees it as it comes.

        If cancelled, some of it may have been written.

        Raises:
            BrokenPipeError: nobody reads it.
            SpearError: it cannot be written.
        """
        # So much fits, if anything does: no thread is needed, which would cost more than the call.
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
