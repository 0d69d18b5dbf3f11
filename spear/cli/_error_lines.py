"""Standard error, written by a thread: whoever does not read it must not stop what is to be shown."""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Final, final

MAX_LINES: Final = 100_000
"""What waits for a reader; lines beyond that are counted."""

IMPATIENT_SECONDS: Final = 0.2


@final
class ErrorLines(logging.Handler):
    """Writes log records to standard error.

    Attributes:
        is_patient: wait at the end until all lines are read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_patient = True
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._left_out = 0
        self._fd = -1 if sys.stderr is None else sys.stderr.fileno()
        self._thread = threading.Thread(target=self._work, name="spear stderr", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have the record written, soon."""
        if self._lines.qsize() < MAX_LINES:
            self._lines.put(self.format(record))
        else:
            self._left_out += 1

    def finish(self) -> None:
        """Wait until all is written; if impatient, only for a moment."""
        if self._left_out:
            self._lines.put(f"spear: {self._left_out} more lines, which nobody was there to read")
        self._lines.put(None)
        self._thread.join(None if self.is_patient else IMPATIENT_SECONDS)

    def _work(self) -> None:
        while (line := self._lines.get()) is not None:
            rest = line.encode(errors="backslashreplace") + b"\n"
            with suppress(OSError):  # it is closed: there is nobody to tell
                while rest:
                    select.select([], [self._fd], [])  # somebody may have made it non-blocking
                    rest = rest[os.write(self._fd, rest) :]
