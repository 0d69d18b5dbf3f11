"""Progress bars: of a function that reports its progress, and of a run over many items.

The library rich draws them, if the extra ``spearlet[cli]`` is installed. Without it, a bar is only text.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Final, final

from spear._errors import FunctionRaised
from spear._json import dump_json

from ._text import age, amount, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear._errors import SpearError
    from spear.calls import Result

    DrawBar = Callable[[float, str, int], str]
    """Returns a row: a bar of a share from 0 to 1, a text beside it, in so many columns."""

MAX_TEXT: Final = 200
"""Maximum number of characters of a progress report that are shown."""

MAX_KINDS: Final = 20
"""Maximum number of kinds of failures that are counted apart; a function may make up new ones."""

OTHERS: Final = "of other kinds"

MIN_BAR: Final = 4
"""Columns of the smallest bar; a terminal with less room beside the text shows the text alone."""

WITHOUT_RICH: Final = "spear: a progress bar needs rich: install the extra spearlet[cli]"


def can_draw() -> bool:
    """Return whether the library that draws bars is installed."""
    try:
        import rich  # noqa: F401  # takes a millisecond; its parts are loaded for the first bar
    except ImportError:
        return False
    return True


class ProgressBar(ABC):
    """A progress bar: what it shows of a progress."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self._draw: DrawBar | None = None

    @property
    @abstractmethod
    def share(self) -> float | None:
        """The share that is done, from 0 to 1; None if that is not known."""

    @abstractmethod
    def summary(self) -> str:
        """Return the progress as text."""

    @property
    def seconds_left(self) -> float:
        """Seconds until the end, if the work goes on as fast as before; ``math.inf`` if not known."""
        share = self.share
        if not share:
            return inf
        return (time.monotonic() - self.begun) * (1 - share) / share

    def row(self, columns: int) -> str:
        """Return the bar as a row of a terminal, with escape sequences for colours."""
        share, text = self.share, printable(self.summary(), keep="")
        if share is None:
            return text
        if self._draw is None:
            self._draw = _drawing()
        return self._draw(share, text, columns)


def _drawing() -> DrawBar:
    """Return the function that draws bars; it loads when the first bar is drawn."""
    try:
        from rich.console import Console
        from rich.progress_bar import ProgressBar as RichBar
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return lambda _share, text, _columns: text
    console = Console(stderr=True, force_terminal=True)

    def draw(share: float, text: str, columns: int) -> str:
        width = min(40, columns // 3, columns - len(text) - len("  "))
        if width < MIN_BAR:
            return text[:columns]
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_row(RichBar(1.0, share, width=width), Text(text, no_wrap=True))
        with console.capture() as captured:
            console.print(row, width=columns, end="", no_wrap=True, overflow="ellipsis")
        return captured.get().rstrip("\n")

    return draw


@final
class CallProgress(ProgressBar):
    """The progress that a function reports of one call.

    Args:
        function: the function's name.
        on_first: called with this object at the first report.
    """

    def __init__(self, function: str, on_first: Callable[[CallProgress], object]) -> None:
        super().__init__()
        self._function = function
        self._on_first: Callable[[CallProgress], object] | None = on_first
        self._share: float | None = None
        self._figures = ""
        self._text = ""
        self._counts = False  # whether plain numbers are counts

    @property
    def share(self) -> float | None:
        """The share that is done, as last reported."""
        return self._share

    def report(self, value: Result) -> None:
        """Show a progress report.

        A number from 0 to 1 is the share that is done; ``[done, total]`` are two numbers, to which a text
        may be added; a text tells what goes on. Any other value is shown as it is.
        """
        match value:
            case bool():
                self._text = _shown(value)
            case int() | float() if 0 <= value <= 1 and not self._counts:
                self._share, self._figures = float(value), f"{value:.0%}"
            case int() | float():
                self._counts, self._share, self._figures = True, None, _shown(value)
            case [int() | float() as done, int() | float() as total, *rest] if (
                0 <= done < inf and 0 < total < inf and len(rest) <= 1
            ):
                self._share = min(done / total, 1.0)
                self._figures = f"{done:g}/{total:g}" if total < 1e5 else f"{done:.0f}/{total:.0f}"
                if rest:
                    self._text = _shown(rest[0])
            case _:
                self._text = _shown(value)
        if self._on_first is not None:
            self._on_first(self)
            self._on_first = None

    def summary(self) -> str:
        """Return the progress as text."""
        left = self.seconds_left
        parts = [self._figures, self._text]
        if left < inf and left >= 1:
            parts.append(f"{age(left)} left")
        return "  ".join([f"{self._function}:", *filter(None, parts)])


def _shown(value: Result) -> str:
    text = ""
    if isinstance(value, str):
        text = value
    else:
        with suppress(TypeError, ValueError):
            text = dump_json(value)
    return f"{text[:MAX_TEXT]}..." if len(text) > MAX_TEXT else text


@final
class MapProgress(ProgressBar):
    """The progress of a run over many items.

    Attributes:
        total: the number of items; None if it is not known yet.
        done: items that have a result, or a failure that is final.
        failed: those of them that failed.
        retrying: items that have failed, and will be called again.
        skipped: items that an earlier run has done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total: int | None = None
        self.done = self.failed = self.retrying = self.skipped = 0
        self._kinds: Counter[str] = Counter()  # of final failures

    @property
    def share(self) -> float | None:
        """The share of items that are done, skipped ones included."""
        if not self.total:
            return None
        return min((self.done + self.skipped) / self.total, 1.0)

    @property
    def seconds_left(self) -> float:
        """Seconds until the end, if further items take as long as those of this run."""
        left = self.left
        if left is None or not self.done:
            return inf
        return self.seconds * left / self.done

    @property
    def left(self) -> int | None:
        """The number of items without an outcome; None if it is not known."""
        return None if self.total is None else max(self.total - self.done - self.skipped, 0)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning of the run."""
        return time.monotonic() - self.begun

    @property
    def rate(self) -> str:
        """Items a second, as text."""
        return amount(round(self.done / max(self.seconds, 1e-3), 1))

    def start(self) -> None:
        """Measure the time from now on."""
        self.begun = time.monotonic()

    def summary(self) -> str:
        """Return the progress as text."""
        parts = [self.counts(), f"{self.rate} items/s"]
        left = self.seconds_left
        if left < inf:
            parts.append(f"{age(left)} left")
        return ", ".join(parts)

    def counts(self) -> str:
        """Return the numbers of items as text: at the end, those done and failed make up the total."""
        succeeded = self.done - self.failed + self.skipped
        of_all = "" if self.total is None else f" of {self.total}"
        before = f" ({self.skipped} by an earlier run)" if self.skipped else ""
        parts = [f"{succeeded}{of_all} done{before}", f"{self.failed} failed"]
        if self.retrying:
            parts.append(f"{self.retrying} to retry")
        return ", ".join(parts)

    def note_failure(self, error: SpearError) -> None:
        """Count a failure that is final."""
        self.done += 1
        self.failed += 1
        kind = error.type_name if isinstance(error, FunctionRaised) else type(error).__name__
        self._kinds[kind if kind in self._kinds or len(self._kinds) < MAX_KINDS else OTHERS] += 1

    def kinds(self) -> str:
        """Return the numbers of failures of each kind as text."""
        return ", ".join(f"{number} {kind}" for kind, number in self._kinds.most_common())
