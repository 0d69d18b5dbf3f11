"""A command on a terminal of its own, with the contents of the screen, also as a picture."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from contextlib import contextmanager, suppress
from html import escape
from typing import TYPE_CHECKING, Final

import pyte

from .helpers import COMMAND, PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

COLUMNS: Final = 80
LINES: Final = 24


class Screen:
    """A terminal, and a command on it.

    Attributes:
        process: the command's process.
        before: attributes of the terminal before the command began.
        raw: all bytes that the command has written.
    """

    def __init__(self, process: subprocess.Popen[bytes], master: int, before: list[object]) -> None:
        self.process = process
        self.before = before
        self.raw = b""
        self._master = master
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        """The lines on the screen."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The contents of the screen, as one text."""
        return "\n".join(self.lines)

    def is_plain(self) -> bool:
        """Return whether all characters have the terminal's default colours."""
        return all(
            (cell.fg, cell.bg, cell.bold, cell.reverse) == ("default", "default", False, False)
            for line in self._screen.buffer.values()
            for cell in line.values()
        )

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of the terminal; the kernel notifies the command."""
        self._screen.resize(lines, columns)
        set_size(self._master, columns, lines)

    def close(self) -> None:
        """Close the window."""
        os.close(self._master)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def read(self) -> bool:
        """Process the command's next output; return False at its end."""
        assert select.select([self._master], [], [], PATIENCE_SECONDS)[0], self.text
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other end is closed
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def wait_until(self, is_so: Callable[[str], bool]) -> str:
        """Read until the contents of the screen satisfy ``is_so``."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so(self.text):
            assert time.monotonic() < deadline, self.text
            assert self.read(), self.text
        return self.text

    def wait_ended(self) -> int:
        """Read to the end; return the command's exit status."""
        while self.read():
            pass
        return self.process.wait(PATIENCE_SECONDS)

    def attributes(self) -> list[object]:
        """Return the terminal's attributes now."""
        return termios.tcgetattr(self._master)

    def picture(self) -> str:
        """Return the screen as SVG."""
        return draw(self._screen)


def set_size(terminal: int, columns: int, lines: int) -> None:
    """Set the size of a terminal."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextmanager
def on_screen(
    *words: str,
    environment: dict[str, str],
    command: Sequence[str] = COMMAND,
    has_size: bool = True,
) -> Iterator[Screen]:
    """Run ``spear`` on a terminal of its own; kill it at the end if it still runs.

    A terminal without a size tells programs that it has no columns and no lines.
    """
    master, slave = os.openpty()
    if has_size:
        set_size(master, COLUMNS, LINES)
    before = termios.tcgetattr(master)
    try:
        with subprocess.Popen(
            ["setsid", "--ctty", *command, *words],  # so that it gets the terminal's signals
            env={**os.environ, **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        ) as process:
            try:
                os.close(slave)  # at the end of the command, reading ends
                yield Screen(process, master, before)
            finally:
                process.kill()
    finally:
        with suppress(OSError):  # the test has closed it
            os.close(master)


# -- pictures -----------------------------------------------------------------------------------

CELL: Final = (8.4, 18.0)
MARGIN: Final = 14.0
TITLE: Final = 28.0
PAPER, BAR, INK = "#1e2430", "#39435a", "#d7dce5"
COLOURS: Final = {
    "default": INK,
    "green": "#8fd18a",
    "red": "#f07c78",
    "brown": "#e6c878",
}


def draw(screen: pyte.Screen) -> str:
    """Return a screen as SVG: each run of equally formatted characters is a text of fixed length."""
    width = screen.columns * CELL[0] + 2 * MARGIN
    height = screen.lines * CELL[1] + 2 * MARGIN + TITLE
    fonts = "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-size="14" font-family="{fonts}">',
        f'<rect width="100%" height="100%" rx="9" fill="{PAPER}"/>',
        *(
            f'<circle cx="{MARGIN + 6 + 20 * n:g}" cy="17" r="6" fill="{colour}"/>'
            for n, colour in enumerate(("#f07c78", "#e6c878", "#8fd18a"))
        ),
    ]
    for number in range(screen.lines):
        top = MARGIN + TITLE + number * CELL[1]
        for start, text, cell in runs(screen, number):
            left, length = MARGIN + start * CELL[0], len(text) * CELL[0]
            ink = COLOURS[cell.fg]
            if cell.reverse:
                place = f'x="{left:g}" y="{top:g}" width="{length:g}" height="{CELL[1]:g}"'
                parts.append(f'<rect {place} fill="{BAR}"/>')
                ink = "#ffffff"
            if text.strip():
                bold = ' font-weight="bold"' if cell.bold else ""
                lead = len(text) - len(text.lstrip())
                shown = text.strip()
                parts.append(
                    f'<text x="{left + lead * CELL[0]:g}" y="{top + 13.5:g}" fill="{ink}"{bold} '
                    f'textLength="{len(shown) * CELL[0]:g}" xml:space="preserve">{escape(shown)}</text>'
                )
    return "\n".join([*parts, "</svg>", ""])


def runs(screen: pyte.Screen, number: int) -> Iterator[tuple[int, str, pyte.screens.Char]]:
    """Yield (column, text, format) of a line's runs: equally formatted, without wide gaps."""
    line = screen.buffer[number]
    start, text = 0, ""
    for column in range(screen.columns):
        cell, first = line[column], line[start]
        alike = (cell.fg, cell.bold, cell.reverse) == (first.fg, first.bold, first.reverse)
        if alike and (cell.reverse or not (text.endswith("  ") and cell.data != " ")):
            text += cell.data
        else:
            yield start, text, first
            start, text = column, cell.data
    yield start, text, line[start]
