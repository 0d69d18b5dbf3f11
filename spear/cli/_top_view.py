"""The screen of ``spear top``: snapshots in, lines of text out, without a terminal."""

from __future__ import annotations

import attrs

from ._documents import inner, number, several, text, total
from ._ps import headline
from ._rates import sum_of
from ._text import MISSING, age, amount, cell, seconds, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Final

    from ._documents import Document
    from ._rates import Moment, Rates

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


def tables_of(moment: Moment) -> Iterator[Table]:
    """Yield the tables of deployments, functions and instances."""
    deployments = several(moment.now, "deployments")
    functions = {
        (text(each, "name"), name): (one, rate)
        for each in deployments
        for name, one, rate in moment.functions(each)
    }
    instances = [one for each in deployments for one in moment.instances(each)]
    yield _deployment_table(deployments, functions, instances)
    yield _function_table(functions)
    yield _instance_table(instances)


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
        calls = sum_of(rate.calls for rate in mine)
        failures = sum_of(rate.failures for rate in mine)
        processor = sum_of(rate.processor for _, rate in own)
        memory = sum_of(number(one, "memory_bytes") for one, _ in own)
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
    tables = list(tables_of(moment))
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
    calls = sum_of(each.keys.get("c") for each in functions)
    failures = sum_of(each.keys.get("e") for each in functions)
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
