"""The output of an instance: split into lines, logged, and its last lines kept.

An instance is not trusted with the host's memory, log file or terminal. The length of a line and the size
of the kept lines are limited. Characters that could control a terminal or fake a line end are escaped. A
carriage return starts its line anew, as on a terminal: of a progress bar, a line holds the last state.
This module knows bytes and lines, not the pipe or socket from which they come.
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
"""Bytes that a kept line counts in addition to its text, so that a million empty lines are not free."""

# C0 and C1 controls except the tab, and the separators that some viewers take for a line's end.
_ESCAPES: Final = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != ord("\t")
} | {0x2028: "\\u2028", 0x2029: "\\u2029"}


OnLine: TypeAlias = "Callable[[InstanceId, LogLine], None]"
"""A function called with each line that an instance writes. It must not block; its errors are logged."""


@final
class LogBook:
    """A log of the last lines that one instance has written."""

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
        """Return the log of one stream."""
        return self._tails[stream]

    def lines(self) -> tuple[LogLine, ...]:
        """Return the kept lines of both streams, in the order in which the host read them."""
        kept = (tail.lines for tail in self._tails.values())
        return tuple(heapq.merge(*kept, key=lambda line: line.number))

    def enter(self, stream: OutputName, text: str) -> LogLine:
        """Make a line of ``text``, log it, notify observers of it, and return it."""
        self._count += 1
        logger.info("%s %s: %s", self._instance_id, stream, text)
        line = LogLine(self._count, stream, time.time(), text)
        if self._on_line is not None:
            name = f"on_line of {self._instance_id}"
            notify(logger, name, self._on_line, self._instance_id, line)
        if hooks := self._instruments.line_written:
            notify_all(logger, hooks, self._instance_id, line)
        return line

    def show_unfinished(self, stream: OutputName, text: str) -> None:
        """Notify observers of the beginning of a line; ``text`` is empty once the line has ended."""
        if hooks := self._instruments.line_unfinished:
            notify_all(logger, hooks, self._instance_id, stream, text)

    @property
    def shows_unfinished(self) -> bool:
        """Whether an observer wants unfinished lines."""
        return bool(self._instruments.line_unfinished)


@final
class LogTail:
    """A log of one output stream of an instance: splits bytes into lines, and keeps the last ones."""

    def __init__(self, book: LogBook, stream: OutputName, limits: HostLimits) -> None:
        self.lines: deque[LogLine] = deque()
        self._book = book
        self._stream = stream
        self._line_bytes = limits.log_line_bytes
        self._tail_bytes = limits.log_tail_bytes
        self._kept_bytes = 0
        self._partial = bytearray()  # the start of an unfinished line, at most _line_bytes
        self._skipped_bytes = 0  # bytes of the unfinished line beyond _line_bytes
        self._has_return = False  # whether its last byte is a carriage return, which is not kept
        self._shown = ""  # the unfinished line, as observers know it

    def feed(self, data: bytes) -> None:
        """Add bytes that were read from the stream."""
        *complete, rest = data.split(b"\n")
        for part in complete:
            self._extend(part)
            self._end_line()
        self._extend(rest)
        if self._book.shows_unfinished:
            self._show(self._text())

    def finish(self) -> None:
        """End the stream; an unfinished line becomes a line."""
        if self._partial or self._skipped_bytes:
            self._end_line()
        self._show("")

    def _extend(self, part: bytes) -> None:
        text = part.rstrip(b"\r")
        if not text:
            self._has_return = self._has_return or bool(part)
            return
        _, is_cut, kept = text.rpartition(b"\r")
        if is_cut or self._has_return:
            self._partial.clear()
            self._skipped_bytes = 0
        self._has_return = len(text) < len(part)
        room = self._line_bytes - len(self._partial)
        self._partial += kept[:room]
        self._skipped_bytes += max(len(kept) - room, 0)

    def _end_line(self) -> None:
        line = self._book.enter(self._stream, self._text())
        self._partial.clear()
        self._skipped_bytes = 0
        self._has_return = False
        self.lines.append(line)
        self._kept_bytes += len(line.text) + LINE_OVERHEAD_BYTES
        while self._kept_bytes > self._tail_bytes and len(self.lines) > 1:
            self._kept_bytes -= len(self.lines.popleft().text) + LINE_OVERHEAD_BYTES

    def _show(self, text: str) -> None:
        if text != self._shown:
            self._shown = text
            self._book.show_unfinished(self._stream, text)

    def _text(self) -> str:
        text = self._partial.decode("utf-8", "backslashreplace")
        if not text.isprintable():
            text = text.translate(_ESCAPES)
        return f"{text} … {self._skipped_bytes} more bytes" if self._skipped_bytes else text

    def text(self, most_bytes: int) -> str:
        """Return the last lines that fit into ``most_bytes``, an unfinished line included."""
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
