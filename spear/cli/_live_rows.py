"""The last rows of a terminal, which change in place: unfinished lines of functions, and a progress bar.

Lines are written above these rows. Where standard error is no terminal, nothing can change in place: an
unfinished line becomes a line of its own after a moment, and the bar a line every now and then.

This module composes bytes. Its caller writes them, while it holds ``drawing``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable
from typing import Final, Protocol, final

import attrs

MOMENT_SECONDS: Final = 0.2
"""Age at which an unfinished line is shown; most are finished sooner."""

REDRAW_SECONDS: Final = 0.1
"""Seconds between two drawings of the rows."""

SUMMARY_SECONDS: Final = 10.0
"""Seconds between two lines about the same, where standard error is no terminal."""

MAX_UNFINISHED: Final = 8
"""Maximum number of unfinished lines shown at a time."""

_CLEAR_BELOW: Final = b"\x1b[J"
_CLEAR_REST_OF_ROW: Final = b"\x1b[K"
_WRAP_OFF: Final = b"\x1b[?7l"
_WRAP_ON: Final = b"\x1b[?7h"


class Bar(Protocol):
    """A progress bar."""

    def row(self, columns: int) -> str:
        """Return the bar as a row of a terminal, with escape sequences for colours."""

    def summary(self) -> str:
        """Return the progress as text."""


@final
@attrs.define
class _Unfinished:
    """A line that has begun and not ended."""

    text: str
    since: float
    shown: str = ""
    shown_at: float = 0.0


@final
class LiveRows:
    """The rows below the lines on standard error.

    Args:
        descriptor: standard error; negative if it is closed.
        wake: makes the thread that writes call :meth:`wait_seconds` again.

    Attributes:
        drawing: the lock to hold from composing bytes until they are written.
        is_terminal: whether rows can change in place.
    """

    def __init__(self, descriptor: int, wake: Callable[[], object]) -> None:
        self.drawing = threading.Lock()
        self.is_terminal = (
            descriptor >= 0 and os.isatty(descriptor) and os.environ.get("TERM") != "dumb"
        )
        self._descriptor = descriptor
        self._wake = wake
        self._state = threading.Lock()  # guards what follows; never held while writing
        self._unfinished: dict[Hashable, _Unfinished] = {}
        self._bar: Bar | None = None
        self._next_summary = 0.0
        self._is_held = False  # whether the cursor stands behind foreign output
        self._rows: list[bytes] = []  # as drawn
        self._next_drawing = 0.0

    # -- for the program's thread -------------------------------------------------------------

    def show_unfinished(self, key: Hashable, text: str) -> None:
        """Show the beginning of a line; an empty text means that the line has ended."""
        with self._state:
            was_idle = not self._is_active
            if not text:
                self._unfinished.pop(key, None)
            elif key in self._unfinished:
                self._unfinished[key].text = text
            else:
                self._unfinished[key] = _Unfinished(text, time.monotonic())
        if was_idle and text:
            self._wake()

    def show_bar(self, bar: Bar | None) -> None:
        """Show a bar, or none."""
        with self._state:
            self._bar = bar
            self._next_summary = time.monotonic() + SUMMARY_SECONDS
            self._next_drawing = 0.0
        self._wake()

    # -- for the thread that writes -----------------------------------------------------------

    @property
    def _is_active(self) -> bool:
        return bool(self._unfinished or self._bar is not None or self._rows)

    def wait_seconds(self) -> float | None:
        """Return the seconds until the next :meth:`update`; None if there is nothing to show."""
        with self._state:
            return REDRAW_SECONDS if self._is_active else None

    def update(self) -> bytes:
        """Return what to write now, as time has passed; often nothing."""
        now = time.monotonic()
        with self._state:
            if not self.is_terminal:
                return b"".join(b"%s\n" % _encode(line) for line in self._due_lines(now))
            if now < self._next_drawing or self._is_held:
                return b""
            before = self._rows
            self._draw(now)
            if before == self._rows:
                return b""
            return self._to_first_row(before) + self._drawn()

    def above(self, data: bytes) -> bytes:
        """Return lines with the rows drawn again below them."""
        with self._state:
            if not self.is_terminal or not (self._rows or self._is_held):
                return data
            clear = self._to_first_row(self._rows) + _CLEAR_BELOW if self._rows else b""
            self._is_held = not data.endswith(b"\n")
            if self._is_held:
                self._rows = []
                return clear + data
            if self._bar is None and not self._unfinished:
                self._rows = []
            return clear + data + self._drawn()

    def end(self) -> bytes:
        """Return the bytes that remove all rows, and show none from now on."""
        with self._state:
            clear = self._to_first_row(self._rows) + _CLEAR_BELOW if self._rows else b""
            self._unfinished.clear()
            self._bar, self._rows = None, []
            return clear

    # -- rows ---------------------------------------------------------------------------------

    def _draw(self, now: float) -> None:
        self._next_drawing = now + REDRAW_SECONDS
        try:
            columns, lines = os.get_terminal_size(self._descriptor)
        except OSError:  # the terminal has gone
            columns, lines = 80, 24
        if columns == 0:  # a terminal that nobody has told its size
            columns, lines = 80, 24
        due = [each.text for each in self._unfinished.values() if _is_due(each, now)]
        most = max(min(MAX_UNFINISHED, lines - 2), 1)
        rows = [each[: max(columns, 1)] for each in due[-most:]]
        if self._bar is not None:
            rows.append(self._bar.row(max(columns, 1)))
        self._rows = [_encode(each) for each in rows]

    def _drawn(self) -> bytes:
        rows = b"\n".join(row + _CLEAR_REST_OF_ROW for row in self._rows)
        return _WRAP_OFF + rows + _CLEAR_BELOW + _WRAP_ON if self._rows else _CLEAR_BELOW

    @staticmethod
    def _to_first_row(rows: list[bytes]) -> bytes:
        return b"\r\x1b[%dA" % (len(rows) - 1) if len(rows) > 1 else b"\r"

    def _due_lines(self, now: float) -> list[str]:
        lines: list[str] = []
        for each in self._unfinished.values():
            is_first = not each.shown and _is_due(each, now)
            is_next = each.shown and now - each.shown_at >= SUMMARY_SECONDS
            if is_first or (is_next and each.shown != each.text):
                each.shown, each.shown_at = each.text, now
                lines.append(each.text)
        if self._bar is not None and now >= self._next_summary:
            self._next_summary = now + SUMMARY_SECONDS
            lines.append(f"spear: {self._bar.summary()}")
        return lines


def _is_due(line: _Unfinished, now: float) -> bool:
    return now - line.since >= MOMENT_SECONDS


def _encode(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
