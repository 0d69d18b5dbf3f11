"""The screen of ``spear top``: snapshots in, lines of text out, without a terminal.

Rates are differences between the counters of two snapshots, so the first snapshot has none.
"""

from __future__ import annotations

import attrs

from ._documents import functions_of, inner, number, several, text, total
from ._ps import headline
from ._text import MISSING, age, amount, cell, seconds, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Final

    from ._documents import Document

SORTS: Final = {
    "c": "calls/s",
    "e": "errors/s",
    "l": "latency",
    "u": "CPU",
    "m": "memory",
    "n": "name",
}
"""Keys on the keyboard, and the columns that they sort by."""

GOOD: Final = ("ready", "running", "idle")
BAD: Final = ("unhealthy", "failed", "exited", "stopped", "deleted")

LEAST_ROWS: Final = 3
"""Minimum number of rows shown of each table, even if the screen has no room for them."""

MOST_NOTES: Final = 3
"""Maximum number of notes on unhealthy deployments; ``spear ps`` shows all."""


@attrs.frozen
class Line:
    """A line of the screen.

    Attributes:
        text: the text, at most as wide as the screen.
        style: ``title``, ``head`` or ``bad``, or empty.
        state: a word in the text to be coloured, and its meaning: ``good``, ``bad`` or ``so-so``.
    """

    text: str
    style: str = ""
    state: tuple[str, str] = ("", "")


@attrs.frozen(kw_only=True)
class Row:
    """A row of a table: its cells, and the values to sort by."""

    cells: tuple[str, ...]
    state: str = ""
    keys: dict[str, float]
    name: str


@attrs.frozen(kw_only=True)
class Table:
    """A table: titles, least widths of the columns, and rows. The first column takes the spare width.

    Notes on unhealthy deployments are shown below the table.
    """

    titles: tuple[str, ...]
    widths: tuple[int, ...]
    rows: list[Row]
    notes: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Rates:
    """The changes per second of a function's or instance's counters; None while they are unknown."""

    calls: float | None = None
    failures: float | None = None
    processor: float | None = None


def rates(now: Document, before: Document | None, elapsed: float | None) -> Rates:
    """Return the rates from the counters of two snapshots, ``elapsed`` seconds apart."""
    if before is None or not elapsed or elapsed <= 0:
        return Rates()

    def per_second(key: str) -> float:
        assert before is not None
        return max(0.0, total(now, key) - total(before, key)) / elapsed

    return Rates(
        calls=per_second("calls"),
        failures=per_second("failures"),
        processor=per_second("cpu_seconds"),
    )


@attrs.frozen
class Moment:
    """A snapshot and its predecessor."""

    now: Document
    before: Document | None = None

    @property
    def elapsed(self) -> float | None:
        """Seconds between the two snapshots; None if unknown."""
        then, now = number(self.before, "time"), number(self.now, "time")
        return None if then is None or now is None else now - then

    def tables(self) -> Iterator[Table]:
        """Yield the tables of deployments, functions and instances."""
        deployments = several(self.now, "deployments")
        earlier = {text(each, "name"): each for each in several(self.before, "deployments")}
        functions = {
            (text(each, "name"), name): (
                one,
                rates(one, self._function(earlier, text(each, "name"), name), self.elapsed),
            )
            for each in deployments
            for name, one in functions_of(each)
        }
        instances = [
            (one, rates(one, self._instance(earlier, one), self.elapsed))
            for each in deployments
            for one in several(each, "instances")
        ]
        yield _deployment_table(deployments, functions, instances)
        yield _function_table(functions)
        yield _instance_table(instances)

    @staticmethod
    def _function(earlier: dict[str, Document], deployment: str, name: str) -> Document | None:
        found = inner(earlier.get(deployment), "function_statistics", name)
        return found or ({} if deployment in earlier else None)

    @staticmethod
    def _instance(earlier: dict[str, Document], instance: Document) -> Document | None:
        for each in several(earlier.get(text(instance, "deployment")), "instances"):
            if text(each, "id") == text(instance, "id"):
                return each
        return None


def _sum(values: Iterator[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) if known else None


def _deployment_table(
    deployments: list[Document],
    functions: dict[tuple[str, str], tuple[Document, Rates]],
    instances: list[tuple[Document, Rates]],
) -> Table:
    rows = []
    for each in deployments:
        name, statistics = text(each, "name"), inner(each, "statistics")
        mine = [rate for (home, _), (_, rate) in functions.items() if home == name]
        own = [(one, rate) for one, rate in instances if text(one, "deployment") == name]
        calls = _sum(rate.calls for rate in mine)
        failures = _sum(rate.failures for rate in mine)
        processor = _sum(rate.processor for _, rate in own)
        memory = _sum(number(one, "memory_bytes") for one, _ in own)
        cells = (
            name,
            text(each, "state"),
            f"{total(statistics, 'ready'):.0f}/{total(statistics, 'wanted'):.0f}",
            amount(number(statistics, "calls_in_flight")),
            amount(number(statistics, "waiting")),
            amount(calls),
            amount(failures),
            _percent(processor),
            size(memory),
        )
        keys = {"c": calls, "e": failures, "u": processor, "m": memory}
        rows.append(_row(name, cells, keys, text(each, "state")))
    titles = (
        "DEPLOYMENT", "STATE", "READY", "RUNNING", "WAITING", "CALLS/S", "ERRORS/S", "CPU", "MEMORY",
    )  # fmt: skip
    notes = [
        f"{text(each, 'name')}: {text(each, 'reason')}".partition("\n")[0]
        for each in deployments
        if text(each, "reason") and text(each, "state") not in GOOD
    ]
    widths = (10, 9, 5, 7, 7, 7, 8, 5, 6)
    return Table(titles=titles, widths=widths, rows=rows, notes=tuple(notes[:MOST_NOTES]))


def _function_table(functions: dict[tuple[str, str], tuple[Document, Rates]]) -> Table:
    rows = []
    for (deployment, function), (each, rate) in functions.items():
        latency = inner(each, "latency")
        was_called = bool(number(latency, "count"))
        times = [
            number(latency, key) if was_called else None
            for key in ("mean_seconds", "p50_seconds", "p99_seconds")
        ]
        name = f"{deployment}.{function}"
        cells = (
            name,
            amount(rate.calls),
            amount(rate.failures),
            amount(total(each, "calls")),
            amount(total(each, "failures")),
            *(seconds(one) for one in times),
        )
        keys = {"c": rate.calls, "e": rate.failures, "l": times[2]}
        rows.append(_row(name, cells, keys))
    titles = ("FUNCTION", "CALLS/S", "ERRORS/S", "CALLS", "ERRORS", "MEAN", "P50", "P99")
    return Table(titles=titles, widths=(16, 7, 8, 6, 6, 7, 7, 7), rows=rows)


def _instance_table(instances: list[tuple[Document, Rates]]) -> Table:
    rows = []
    for each, rate in instances:
        pid, memory = number(each, "pid"), number(each, "memory_bytes")
        name = text(each, "id").partition(":")[2] or text(each, "id")
        cells = (
            name,
            text(each, "state"),
            MISSING if pid is None else f"{pid:.0f}",
            age(number(each, "age_seconds")),
            amount(number(each, "calls_in_flight")),
            _percent(rate.processor),
            size(memory),
            amount(number(each, "threads")),
        )
        keys = {"u": rate.processor, "m": memory}
        rows.append(_row(name, cells, keys, text(each, "state")))
    titles = ("INSTANCE", "STATE", "PID", "AGE", "RUNNING", "CPU", "MEMORY", "THREADS")
    return Table(titles=titles, widths=(16, 9, 7, 6, 7, 5, 6, 7), rows=rows)


def _row(name: str, cells: Sequence[str], keys: dict[str, float | None], state: str = "") -> Row:
    known = {key: value for key, value in keys.items() if value is not None}
    return Row(
        cells=tuple(cell(each) for each in cells),
        state=cell(state) if state else "",
        keys=known,
        name=name,
    )


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{share * 100:.0f}%"


# -- lines --------------------------------------------------------------------------------------


def lay_out(moment: Moment, *, width: int, height: int | None, sort: str) -> list[Line]:
    """Return the lines of the screen.

    Args:
        moment: the snapshots to show.
        width: width of the screen, in characters.
        height: height of the screen, in lines; None to show every row.
        sort: one of the keys of :data:`SORTS`.
    """
    tables = list(moment.tables())
    for each in tables:
        each.rows.sort(key=_order(sort))
    lines = [*_headlines(moment, tables, width), Line("")]
    # Each table has a title and an empty line, except that the last one has no empty line.
    used = len(lines) + 2 * len(tables) - 1 + sum(len(each.notes) for each in tables)
    room = None if height is None else _share(height - used, tables)
    for index, each in enumerate(tables):
        lines += _table_lines(each, width, None if room is None else room[index])
        lines.append(Line(""))
    lines.pop()
    return lines if height is None else lines[:height]


def _order(sort: str) -> Callable[[Row], tuple[float, str]]:
    return lambda row: (-row.keys.get(sort, 0.0), row.name)


def _share(room: int, tables: list[Table]) -> list[int]:
    """Return the number of rows to show of each table; tables that fit are shown whole."""
    left = {index: len(each.rows) for index, each in enumerate(tables)}
    shares = dict.fromkeys(left, 0)
    while left:
        part = max(LEAST_ROWS, room // len(left))
        fitting = {index: count for index, count in left.items() if count <= part} or {
            next(iter(left)): part
        }
        for index, count in fitting.items():
            shares[index] = count
            room -= count
            del left[index]
    return [shares[index] for index in range(len(tables))]


def _headlines(moment: Moment, tables: list[Table], width: int) -> Iterator[Line]:
    yield Line(_fit(headline(moment.now), width), "title")
    functions, instances = tables[1].rows, tables[2].rows
    calls = _sum(each.keys.get("c") for each in functions)
    failures = _sum(each.keys.get("e") for each in functions)
    gateway = inner(moment.now, "gateway")
    parts = [
        f"calls/s {amount(calls)}",
        f"errors/s {amount(failures)}",
        f"instances {len(instances)}",
        f"submitted {amount(number(moment.now, 'executions'))}",
        f"connections {amount(number(gateway, 'connections'))}",
    ]
    yield Line(_fit("   ".join(parts), width))


def _table_lines(each: Table, width: int, room: int | None) -> Iterator[Line]:
    # If rows are left out, one line of the room says how many.
    shown = each.rows if room is None or len(each.rows) <= room else each.rows[: room - 1]
    widths = [
        max(least, *(len(row.cells[column]) for row in shown), 0) if column else least
        for column, least in enumerate(each.widths)
    ] if shown else list(each.widths)  # fmt: skip
    longest = max((len(row.cells[0]) for row in shown), default=0)
    spare = width - sum(widths[1:]) - 2 * (len(widths) - 1)
    widths[0] = max(each.widths[0], min(longest, spare))
    yield Line(_fit(_join(each.titles, widths), width), "head")
    for row in shown:
        colour = "good" if row.state in GOOD else "bad" if row.state in BAD else "so-so"
        line = _fit(_join(row.cells, widths), width)
        yield Line(line, state=(row.state, colour) if row.state else ("", ""))
    left = len(each.rows) - len(shown)
    if left:
        yield Line(_fit(f"... and {left} more", width))
    for note in each.notes:
        yield Line(_fit(note, width), "bad")


def _join(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Join cells into a line: the first column and states left-aligned, the others right-aligned."""
    parts = [_fit(cells[0], widths[0]).ljust(widths[0])]
    has_state = (
        len(cells) > 1 and not cells[1][:1].isdigit() and cells[1] not in (MISSING, "CALLS/S")
    )
    for column, each in enumerate(cells[1:], start=1):
        width = widths[column]
        parts.append(each.ljust(width) if column == 1 and has_state else each.rjust(width))
    return "  ".join(parts).rstrip()


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"
