"""``spear top``: live statistics of a host on the whole terminal; or once, for scripts.

The terminal is restored on every way out: a key, a signal, the host's end, a bug. Each screen is written
whole, in one write, so that it does not flicker.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

from spear._errors import ConfigurationError, NoHost, SpearError

from ._error_lines import start_thread
from ._rates import Moment
from ._remote import ANSWER_SECONDS, Remote, define_host
from ._say import say
from ._text import printable
from ._top_view import SORTS, Line, lay_out
from ._values import parse_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Final, TypeAlias

    from ._documents import Document
    from ._parser import CommandParser

    StatusArrival: TypeAlias = Document | Exception

WIDTH: Final = 80
"""Width of the output of ``--once`` if it is not a terminal."""

ENTER: Final = "\x1b[?1049h\x1b[?25l"
"""Escape sequences that switch to the alternate screen and hide the cursor."""
LEAVE: Final = "\x1b[0m\x1b[?25h\x1b[?1049l"
HOME: Final = "\x1b[H"
TO_LINE_END: Final = "\x1b[K"
TO_SCREEN_END: Final = "\x1b[J"
PLAIN: Final = "\x1b[0m"

COLOURS: Final = {
    "title": "\x1b[1m",
    "head": "\x1b[7m",
    "good": "\x1b[32m",
    "so-so": "\x1b[33m",
    "bad": "\x1b[31m",
}

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

KEYS: Final = "  ".join(f"{key} {name}" for key, name in SORTS.items())


def define_top(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    define_host(parser)
    parser.parser.epilog = f"keys: q quits; these sort: {KEYS}"
    parser.add(
        "--interval", type=parse_number, default=1.0, metavar="SECONDS",
        help="time between updates, from 0.2 to 60 (default: 1)",
    )  # fmt: skip
    parser.add(
        "--once", action="store_true", help="print the state once, after one interval, and exit"
    )
    parser.add(
        "--json", action="store_true", help="print each snapshot and its rates as a line of JSON"
    )
    parser.add("--sort", choices=sorted(SORTS.values()), default="name", help="column to sort by")
    parser.set_run(run_top)


def run_top(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    if not 0.2 <= options.interval <= 60:
        raise ConfigurationError(
            f"--interval must be from 0.2 to 60 seconds, not {options.interval:g}"
        )
    sort = next(key for key, name in SORTS.items() if name == options.sort)
    remote = Remote(options)
    if options.once:
        moment = _take_two(remote, options.interval)
        say(json.dumps(moment.document()) if options.json else _as_text(moment, sort))
        return 0
    if options.json:
        before: Document | None = None
        for snapshot in _snapshots(remote, options.interval):
            say(json.dumps(Moment(snapshot, before).document()))
            before = snapshot
        return 0
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise ConfigurationError(
            "standard input or output is not a terminal: use `spear top --once` for plain text"
        )
    if os.environ.get("TERM") == "dumb":
        raise ConfigurationError(
            "this terminal has no cursor (TERM=dumb): use `spear top --once` for plain text"
        )
    return _Screen(remote, options.interval, sort).run()


def _snapshots(remote: Remote, interval: float) -> Iterator[Document]:
    path = f"/v1/watch?interval={interval:g}"
    headers = {"Accept": "application/x-ndjson"}
    seconds = interval + ANSWER_SECONDS
    with remote.request("GET", path, headers=headers, seconds=seconds) as answer:
        yield from answer.documents()


def _take_two(remote: Remote, interval: float) -> Moment:
    """Return a snapshot and its predecessor, because rates are differences."""
    before: Document | None = None
    for snapshot in _snapshots(remote, interval):
        if before is not None:
            return Moment(snapshot, before)
        before = snapshot
    raise NoHost(f"{remote.where} has stopped")


def _as_text(moment: Moment, sort: str) -> str:
    width = shutil.get_terminal_size((WIDTH, 0)).columns if sys.stdout.isatty() else WIDTH
    lines = lay_out(moment, width=max(width, WIDTH), height=None, sort=sort)
    return "\n".join(line.text for line in lines)


class _Signalled(BaseException):
    """A signal that ends the command has arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Screen:
    """The terminal while the screen is shown."""

    def __init__(self, remote: Remote, interval: float, sort: str) -> None:
        self._remote = remote
        self._interval = interval
        self._sort = sort
        self._has_colours = not os.environ.get("NO_COLOR")
        self._arrivals: SimpleQueue[StatusArrival] = SimpleQueue()
        self._moment: Moment | None = None
        # HTTP chunks cannot be polled for. So a thread reads them, and writes to this pipe for each one.
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> int:
        """Show the screen until the user quits; return the exit status."""
        reader = threading.Thread(target=self._read, name="snapshots", daemon=True)
        try:
            with _own_terminal(self._wake_write):
                start_thread(reader)
                self._work()
        except _Signalled as signalled:
            return 128 + signalled.number
        return 0

    def _read(self) -> None:
        try:
            for snapshot in _snapshots(self._remote, self._interval):
                self._arrivals.put(snapshot)
                os.write(self._wake_write, b"\0")
            self._arrivals.put(NoHost(f"{self._remote.where} has stopped"))
        except Exception as error:  # whatever the error, the terminal must be restored
            self._arrivals.put(error)
        os.write(self._wake_write, b"\0")

    def _work(self) -> None:
        keyboard = sys.stdin.fileno()
        poll = select.poll()  # select.select refuses descriptors above 1,023
        poll.register(keyboard, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if keyboard in ready:
                keys = os.read(keyboard, 64).decode("ascii", "ignore").lower()
                if not keys or "q" in keys or "\x03" in keys:
                    return
                self._sort = next((key for key in keys if key in SORTS), self._sort)
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                self._take()
            self._draw()

    def _take(self) -> None:
        while True:
            try:
                arrival = self._arrivals.get_nowait()
            except Empty:
                return
            if isinstance(arrival, Exception):
                raise arrival
            self._moment = Moment(arrival, self._moment.now if self._moment else None)

    def _draw(self) -> None:
        width, height = shutil.get_terminal_size((WIDTH, 24))
        lines: list[Line] = []
        if self._moment is not None:
            lines = lay_out(self._moment, width=width, height=height - 1, sort=self._sort)
        marked = {key: f"[{name}]" if key == self._sort else name for key, name in SORTS.items()}
        keys = "  ".join(f"{key} {name}" for key, name in marked.items())
        while len(lines) < height - 1:
            lines.append(Line(""))
        lines.append(Line(f"q quit   sort by: {keys}"[:width], "title"))
        shown = f"{TO_LINE_END}\r\n".join(self._paint(line, width) for line in lines)
        _write(f"{HOME}{shown}{TO_LINE_END}{TO_SCREEN_END}")

    def _paint(self, line: Line, width: int) -> str:
        said = printable(line.text, keep="")
        if not self._has_colours or not said:
            return said
        if line.style:
            filled = said.ljust(width) if line.style == "head" else said
            return f"{COLOURS[line.style]}{filled}{PLAIN}"
        word, means = line.state
        if not word or f"  {word}" not in said:
            return said
        # Look for the state after the name, which may be the same word.
        front, _, rest = said.partition(f"  {word}")
        return f"{front}  {COLOURS[means]}{word}{PLAIN}{rest}"


@contextmanager
def _own_terminal(wake: int) -> Iterator[None]:
    """Take over the terminal while the block runs, and restore it, however the block ends."""

    def end(number: int, _: object) -> None:
        raise _Signalled(number)

    def redraw(number: int, _: object) -> None:
        os.write(wake, b"\0")

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    handlers = {each: signal.signal(each, end) for each in SIGNALS}
    handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, redraw)
    handlers[signal.SIGTTOU] = signal.getsignal(signal.SIGTTOU)
    has_entered = False
    try:
        try:
            tty.setcbreak(keyboard)
            ours = termios.tcgetattr(keyboard)
            ours[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the shell on the alternate screen
            termios.tcsetattr(keyboard, termios.TCSADRAIN, ours)
            has_entered = True
            _write(ENTER)
            yield
        finally:
            try:
                # A second signal must not prevent the restoring, nor SIGTTOU stop us in the background,
                # where `timeout` puts its command.
                for each in (*SIGNALS, signal.SIGTTOU):
                    signal.signal(each, signal.SIG_IGN)
            finally:
                with suppress(OSError, termios.error):  # the terminal may be gone
                    termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
                    if has_entered:
                        _write(LEAVE)
    except termios.error as error:
        raise SpearError(f"this terminal cannot be used: {error.args[-1]}") from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _write(said: str) -> None:
    sys.stdout.write(said)
    sys.stdout.flush()
