"""Standard error, written by a thread, so that a slow reader does not block the program."""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from typing import Final, final

from ._live_rows import LiveRows
from ._waiting import wait_writable

MAX_LINES: Final = 100_000
"""Maximum number of lines queued for a slow reader; further lines are dropped and counted."""

IMPATIENT_SECONDS: Final = 0.2

UNREAD_SECONDS: Final = 1.0
"""Seconds that an ending host waits for the reader to take the next line before it gives up."""


def start_thread(thread: threading.Thread) -> None:
    """Start a thread. Raises OSError if the system refuses."""
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error


@final
class ErrorLines(logging.Handler):
    """A log handler that writes records to standard error in a thread.

    Attributes:
        rows: the rows below the lines.
        patience_seconds: seconds to wait at the end for each line to be read; ``math.inf`` for no limit.

    Raises:
        OSError: the system refuses to start a thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patience_seconds = inf
        self._written = 0
        self._lines: SimpleQueue[str | bool] = SimpleQueue()  # False wakes the thread, True ends it
        self._left_out = 0
        self._fd = -1 if sys.stderr is None else sys.stderr.fileno()
        self.rows = LiveRows(self._fd, lambda: self._lines.put(False))
        self._thread = threading.Thread(target=self._work, name="spear stderr", daemon=True)
        start_thread(self._thread)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record for writing; drop and count it if the queue is full."""
        self.put(self.format(record))

    def put(self, line: str) -> None:
        """Queue a line for writing; drop and count it if the queue is full."""
        if self._lines.qsize() < MAX_LINES:
            self._lines.put(line)
        else:
            self._left_out += 1

    def finish(self) -> None:
        """Wait until all lines are written, or until none is read for ``patience_seconds``."""
        if self._left_out:
            self._lines.put(
                f"spear: {self._left_out} more lines were dropped: they were not read in time"
            )
        self._lines.put(True)
        written = -1
        while self._thread.is_alive() and written != self._written:
            written = self._written
            self._thread.join(None if self.patience_seconds == inf else self.patience_seconds)

    def _work(self) -> None:
        while True:
            try:
                line = self._lines.get(timeout=self.rows.wait_seconds())
            except Empty:
                line = False
            if line is True:
                break
            with self.rows.drawing:
                if isinstance(line, str):
                    self._write(self.rows.above(line.encode(errors="backslashreplace") + b"\n"))
                    self._written += 1
                self._write(self.rows.update())
        with self.rows.drawing:
            self._write(self.rows.end())

    def _write(self, rest: bytes) -> None:
        with suppress(OSError):  # standard error is closed, so the data is lost
            while rest:
                wait_writable(self._fd)
                rest = rest[os.write(self._fd, rest) :]
