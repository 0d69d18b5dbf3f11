"""The verdicts on the promises, computed from samples: as a table on the terminal, and as JSON."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Sequence

import attrs

from bench.model import UNITS, Figure
from bench.run import Results
from bench.table import Point, Row

_SHORT_UNITS = {"msgs/s": "/s", "µs/msg": " µs", "% of a core": " %"}


class Verdict(enum.StrEnum):
    AIM = "aim reached"
    MUST = "kept"
    MISSED = "MISSED"
    NONE = "not measured"


@attrs.frozen
class Outcome:
    """The result of a row.

    Ratios are `ours / reference`: `ratio` is the ratio of the medians over all rounds, `low` and `high`
    are the lowest and the highest ratio of a single round.
    """

    row: Row
    ours: float | None
    reference: float | None
    ratio: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    note: str

    @property
    def unit(self) -> str:
        return UNITS[self.row.ours.figure]


def outcomes(rows: Sequence[Row], results: Results) -> list[Outcome]:
    """Judge every row. The outcome of a row without figures has the reason as its note."""
    return [_outcome(row, results) for row in rows]


def _outcome(row: Row, results: Results) -> Outcome:
    ours = results.values(row.ours.case, row.ours.figure)
    if isinstance(row.reference, Point):
        reference = results.values(row.reference.case, row.reference.figure)
    else:
        reference = [row.reference] * len(ours) or [row.reference]
    ours_median = statistics.median(ours) if ours else None
    reference_median = statistics.median(reference) if reference else None
    ratio = low = high = None
    verdict = Verdict.NONE
    if ours_median is not None and reference_median:
        ratio = ours_median / reference_median
        by_round = [mine / other for mine, other in zip(ours, reference, strict=True)]
        low, high = min(by_round), max(by_round)
        verdict = _verdict(row, ratio)
    return Outcome(
        row, ours_median, reference_median, ratio, low, high, verdict, _note(row, results)
    )


def _verdict(row: Row, ratio: float) -> Verdict:
    if row.aim is not None and row.bound.holds(ratio, row.aim):
        return Verdict.AIM
    return Verdict.MUST if row.bound.holds(ratio, row.must) else Verdict.MISSED


def _note(row: Row, results: Results) -> str:
    notes = []
    for point in (row.ours, row.reference):
        if not isinstance(point, Point):
            continue
        if (problem := results.problem(point.case)) is not None:
            notes.append(f"{point.case.peer.name}: {problem}")
        elif not results.values(point.case, point.figure):
            notes.append(f"{point.case.peer.name}: no figure for {point.figure.value}")
        elif busy := results.busy.get(point.case, 0):
            of = len(results.samples[point.case])
            notes.append(f"{point.case.peer.name}: machine busy in {busy} of {of} rounds")
    return "; ".join(notes)


def to_json(judged: Sequence[Outcome]) -> list[dict[str, str | float | None]]:
    """Return the rows of the JSON file.

    metric     the compared figure, and after the slash the other system (or the fixed limit).
    ours       Spear's figure: the median over all rounds of this run.
    reference  the other system's figure in the same run, or the fixed limit.
    value      the number of `ours` again, for readers that look for one value per metric.
    unit       the unit of `ours`, `reference` and `value`.
    ratio      ours / reference. The promise is "at least" for rates, and "at most" for latency, CPU
               time and memory.
    note       present only if a figure is missing (null), with the reason, or if the machine was not
               idle.
    """
    rows: list[dict[str, str | float | None]] = []
    for outcome in judged:
        row: dict[str, str | float | None] = {
            "metric": outcome.row.metric,
            "ours": outcome.ours,
            "reference": outcome.reference,
            "value": outcome.ours,
            "unit": outcome.unit,
            "ratio": outcome.ratio,
        }
        if outcome.note:
            row["note"] = outcome.note
        rows.append(row)
    return rows


def to_text(judged: Sequence[Outcome]) -> str:
    """Return the rows as a table for the terminal."""
    head = ("metric", "ours", "reference", "unit", "ratio", "must", "aim", "verdict")
    lines = [head]
    lines += [
        (
            outcome.row.metric,
            number(outcome.ours),
            number(outcome.reference),
            outcome.unit,
            number(outcome.ratio),
            promise(outcome.row, outcome.row.must),
            promise(outcome.row, outcome.row.aim),
            outcome.verdict.value + (f" ({outcome.note})" if outcome.note else ""),
        )
        for outcome in judged
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def number(value: float | None) -> str:
    """Return a number with about three significant digits; numbers from 100 up as integers."""
    if value is None:
        return "-"
    for limit, digits in ((100, 0), (10, 1), (1, 2)):
        if value >= limit:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"


def quantity(value: float | None, figure: Figure) -> str:
    """Return a figure with its unit, in a few characters: 87,588/s, 21.8 µs, 5.2 MiB."""
    unit = UNITS[figure]
    if value is None:
        return "-"
    if unit == "bytes":
        return f"{value / (1 << 20):.2f} MiB" if value >= 1 << 20 else f"{value / 1024:.1f} KiB"
    return f"{number(value)}{_SHORT_UNITS.get(unit, f' {unit}')}"


def promise(row: Row, ratio: float | None) -> str:
    return "" if ratio is None else f"{row.bound.value} {ratio:.3g}"
