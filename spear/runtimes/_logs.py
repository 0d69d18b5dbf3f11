"""What an instance writes: cut into lines, told to the log, and the end of it kept.

An instance is not trusted with our memory, our log file or our terminal. A line has a greatest length,
what is kept has a greatest size, and what could control a terminal or fake a second line is escaped.
This module knows bytes and lines; where they come from is not its business.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias, final

from spear.channels import notify, notify_all
from spear.telemetry import Instruments, LogLine

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear._host_limits import HostLimits
    from spear._ids import InstanceId
    from spear.telemetry import OutputName

logger: Final = logging.getLogger("spear.instances")

LINE_OVERHEAD_BYTES: Final = 64
"""What a kept line counts besides its text, so that a million empty lines are not free."""

# C0 and C1 controls but the tab, and the separators that some viewers take for a line's end.
_ESCAPES: Final = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != ord("\t")
} | {0x2028: "\\u2028", 0x2029: "\\u2029"}


OnLine: TypeAlias = "Callable[[InstanceId, LogLine], None]"
"""Receives each line that an instance writes. Must not block; what it raises is logged."""


@final
class LogBook:
    """Everything one instance wrote lately."""

    def __init__(
        self,
        instance_id: InstanceId,
        limits: HostLimits,
        on_line: OnLine | None = None,
        instruments: Instruments | None = None,
    ) -> None:
        self._instance_id = instance_id
        self._instruments = instruments or Instruments()
        self._on_line = on_line
        self._count = 0
        self._tails: dict[OutputName, LogTail] = {
            "stdout": LogTail(self, "stdout", limits),
            "stderr": LogTail(self, "stderr", limits),
        }

    def tail(self, stream: OutputName) -> LogTail:
        """What it wrote to one stream."""
        return self._tails[stream]

    def lines(self) -> tuple[LogLine, ...]:
        """What is kept of both streams, in the order in which we read it."""
        kept = (tail.lines for tail in self._tails.values())
        return tuple(heapq.merge(*kept, key=lambda line: line.number))

    def enter(self, stream: OutputName, text: str) -> LogLine:
        """Make a line of ``text``, and log it."""
        self._count += 1
        logger.info("%s %s: %s", self._instance_id, stream, text)
        line = LogLine(self._count, stream, time.time(), text)
        if self._on_line is not None:
            name = f"on_line of {self._instance_id}"
            notify(logger, name, self._on_line, self._instance_id, line)
        if hooks := self._instruments.line_written:
            notify_all(logger, hooks, self._instance_id, line)
        return line


@final
class LogTail:
    """One stream of an instance: takes bytes, gives lines, keeps the last of them."""

    def __init__(self, book: LogBook, stream: OutputName, limits: HostLimits) -> None:
        self.lines: deque[LogLine] = deque()
        self._book = book
        self._stream = stream
        self._line_bytes = limits.log_line_bytes
        self._tail_bytes = limits.log_tail_bytes
        self._kept_bytes = 0
        self._partial = bytearray()  # of a line that has not ended, at most _line_bytes
        self._skipped_bytes = 0  # of that line, beyond those

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        *complete, rest = data.split(b"\n")
        for part in complete:
            self._extend(part)
            self._end_line()
        self._extend(rest)

    def finish(self) -> None:
        """There will be no more: what has no line end is a line, too."""
        if self._partial or self._skipped_bytes:
            self._end_line()

    def _extend(self, part: bytes) -> None:
        room = self._line_bytes - len(self._partial)
        self._partial += part[:room]
        self._skipped_bytes += max(len(part) - room, 0)

    def _end_line(self) -> None:
        line = self._book.enter(self._stream, self._text())
        self._partial.clear()
        self._skipped_bytes = 0
        self.lines.append(line)
        self._kept_bytes += len(line.text) + LINE_OVERHEAD_BYTES
        while self._kept_bytes > self._tail_bytes and len(self.lines) > 1:
            self._kept_bytes -= len(self.lines.popleft().text) + LINE_OVERHEAD_BYTES

    def _text(self) -> str:
        text = bytes(self._partial).removesuffix(b"\r").decode("utf-8", "backslashreplace")
        if not text.isprintable():
            text = text.translate(_ESCAPES)
        return f"{text} … {self._skipped_bytes} more bytes" if self._skipped_bytes else text

    def text(self, most_bytes: int) -> str:
        """The last lines, one that has not ended included, that fit into so many bytes."""
        texts = [line.text for line in self.lines]
        if self._partial or self._skipped_bytes:
            texts.append(self._text())
        picked: list[str] = []
        for text in reversed(texts):
            size = len(text.encode()) + 1
            if size > most_bytes:
                if not picked:
                    picked.append(text.encode()[-most_bytes:].decode("utf-8", "ignore"))
                break
            picked.append(text)
            most_bytes -= size
        return "\n".join(reversed(picked))
