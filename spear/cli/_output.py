"""Output of results that a slow reader does not block for the rest of the program.

A reader that pauses, such as a pager, must not stop us from reading the function's messages: the instance
would take its host for dead.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from functools import partial
from typing import TYPE_CHECKING, final

import trio

from spear._errors import SpearError

from ._waiting import is_writable, wait_writable

if TYPE_CHECKING:
    from ._live_rows import LiveRows


@final
class ResultOutput:
    """A file for results, without a buffer.

    Args:
        rows: the rows at the bottom of the terminal.
        descriptor: the open file; by default standard output.
        name: the file's name, for messages.
        replaces: whether the first write replaces the content of the file.
    """

    def __init__(
        self,
        rows: LiveRows,
        descriptor: int | None = None,
        name: str = "standard output",
        *,
        replaces: bool = False,
    ) -> None:
        self._fd = sys.stdout.fileno() if descriptor is None else descriptor
        self._name = name
        self._replaces = replaces
        self._is_regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        # If both are terminals, they are the same one in practice.
        self._rows = rows if rows.is_terminal and os.isatty(self._fd) else None

    async def write(self, data: bytes) -> None:
        """Write all the data without buffering, so that a reader sees it at once.

        If cancelled, a part may have been written.

        Raises:
            BrokenPipeError: the reader has closed its end.
            SpearError: the system refuses to write.
        """
        # If any byte can be written, PIPE_BUF bytes can. A thread would cost more than the call itself.
        is_quick = self._is_regular or len(data) <= select.PIPE_BUF
        if is_quick and self._rows is None and is_writable(self._fd):
            self._write(data)
        else:
            await trio.to_thread.run_sync(partial(self._write, data), abandon_on_cancel=True)

    def begin(self) -> None:
        """Remove the earlier content of the file, if it is replaced and nothing has been written.

        Raises:
            OSError: the system refuses.
        """
        if self._replaces:
            self._replaces = False
            os.ftruncate(self._fd, 0)

    def close(self) -> None:
        """Close the file. Raises SpearError if the system could not keep what was written."""
        try:
            os.close(self._fd)
        except OSError as error:  # a full disk elsewhere
            raise SpearError(f"cannot write to {self._name}: {error.strerror}") from error

    def _write(self, data: bytes) -> None:
        try:
            if self._rows is None:
                self._write_all(data)
            else:
                with self._rows.drawing:
                    self._write_all(self._rows.above(data))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SpearError(f"cannot write to {self._name}: {error.strerror}") from error

    def _write_all(self, data: bytes) -> None:
        self.begin()
        rest = memoryview(data)
        while rest:
            wait_writable(self._fd)
            rest = rest[os.write(self._fd, rest) :]
