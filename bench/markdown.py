"""The page in the documentation. The text between the two marker comments is generated."""

from __future__ import annotations

import pathlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from bench.model import Case, Figure, Workload, size_label
from bench.registry import PEERS
from bench.report import Outcome, Verdict, number, promise, quantity
from bench.run import Results
from bench.table import (
    CONNECTIONS,
    IN_FLIGHT,
    SIZES,
    SUBJECTS,
    Point,
    connections,
    http_peers,
    pipelined,
    sequential,
)

BEGIN = "<!-- bench: written by `python -m bench`, do not edit -->"
END = "<!-- bench: end -->"
HEAD = ("what", "against", "ours", "theirs", "ratio", "bound")
"""The columns of each table of promises."""

_COLUMNS = 118
_EMPTY_PAGE = f"# Performance\n\n{BEGIN}\n{END}\n"


def write_page(page: pathlib.Path, body: str) -> None:
    """Write `body` between the markers of `page`; create the page if it does not exist."""
    text = page.read_text() if page.exists() else _EMPTY_PAGE
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the marker comments {BEGIN} and {END}")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{BEGIN}\n\n{body.strip()}\n\n{END}{after}")


def page_body(
    judged: Sequence[Outcome], results: Results, *, machine: str, images: Mapping[str, str]
) -> str:
    """Return the whole generated part of the page."""
    about = textwrap.fill(
        f"Measured on {machine}. Medians of {results.rounds} rounds; rows with a promise have the most. "
        "Compare figures only within this page. A *ratio* is our figure divided by theirs, in brackets "
        "its lowest and highest value in a single round. The last column has the bound that is kept: "
        "the aim, or what is promised (*must*), or MISSED and the promise.",
        _COLUMNS,
    )
    parts = [
        about,
        *_promises(judged),
        *(f"![{caption}](images/{name})" for name, caption in images.items()),
        f"## All systems, {IN_FLIGHT} calls in flight",
        "Calls per second; in brackets the CPU µs of a call, at the client + at the server.",
        _matrix(results, pipelined, _rate_cell),
        "## All systems, one call at a time",
        "p50 / p99 in µs, the scheduler free to use all cores:",
        _matrix(results, sequential, _latency_cell),
        "p50 / p99 in µs, client and server on one core:",
        _matrix(results, lambda size: sequential(size, pinned=True), _latency_cell),
        "## HTTP servers",
        "POST of 1 KiB, by the number of connections: requests per second, and p50 / p99 in µs.",
        _http(results),
    ]
    return "\n\n".join(parts)


def _promises(judged: Sequence[Outcome]) -> Iterator[str]:
    """Yield the parts of the page about promises: for each subject a heading, a table and notes."""
    by_metric = {outcome.row.metric: outcome for outcome in judged}
    for subject, rows in SUBJECTS.items():
        found = [by_metric[row.metric] for row in rows if row.metric in by_metric]
        yield f"## {subject}"
        yield _table(HEAD, [_promise_cells(outcome) for outcome in found])
        if notes := [f"* {each.row.what}: {each.note}" for each in found if each.note]:
            yield "\n".join(textwrap.fill(note, _COLUMNS, subsequent_indent="  ") for note in notes)


def _promise_cells(outcome: Outcome) -> Sequence[str]:
    row, figure = outcome.row, outcome.row.ours.figure
    against = row.against
    if not against:
        against = row.reference.case.peer.title if isinstance(row.reference, Point) else "a limit"
    spread = ""
    if outcome.low is not None and outcome.high is not None:
        spread = f" ({number(outcome.low)} to {number(outcome.high)})"
    return (
        row.what,
        against,
        quantity(outcome.ours, figure),
        quantity(outcome.reference, figure),
        number(outcome.ratio) + spread,
        _verdict(outcome),
    )


def _verdict(outcome: Outcome) -> str:
    row = outcome.row
    if outcome.verdict is Verdict.AIM:
        return f"aim {promise(row, row.aim)}"
    words = {Verdict.MUST: "must", Verdict.MISSED: "MISSED", Verdict.NONE: "not measured"}
    return f"{words[outcome.verdict]} {promise(row, row.must)}"


class _LoadOfSize(Protocol):
    def __call__(self, size: int, /) -> Workload: ...


class _Cell(Protocol):
    def __call__(self, results: Results, case: Case, /) -> str: ...


def _matrix(results: Results, load_of_size: _LoadOfSize, cell: _Cell) -> str:
    """Return a table of systems by payload size."""
    rows = []
    for peer in PEERS.values():
        if peer.matrix and load_of_size(1).kind in peer.kinds:
            cases = [Case(peer, load_of_size(size)) for size in SIZES]
            rows.append((peer.title, *(cell(results, case) for case in cases)))
    return _table(("system", *map(size_label, SIZES)), rows)


def _http(results: Results) -> str:
    """Return a table of HTTP servers by connections."""
    rows = []
    for peer in http_peers():
        cases = [Case(peer, connections(count)) for count in CONNECTIONS]
        rows.append((peer.title, *(_http_cell(results, case) for case in cases)))
    return _table(("server", *map(str, CONNECTIONS)), rows)


def _http_cell(results: Results, case: Case) -> str:
    rate = results.median(case, Figure.RATE)
    latency = _latency_cell(results, case)
    return latency if rate is None else f"{rate:,.0f}, {latency}"


def _rate_cell(results: Results, case: Case) -> str:
    rate = results.median(case, Figure.RATE)
    if rate is None:
        return results.problem(case) or "-"
    client = number(results.median(case, Figure.CLIENT_CPU))
    server = number(results.median(case, Figure.SERVER_CPU))
    return f"{rate:,.0f} [{client} + {server}]"


def _latency_cell(results: Results, case: Case) -> str:
    p50, p99 = results.median(case, Figure.P50), results.median(case, Figure.P99)
    if p50 is None:
        return results.problem(case) or "-"
    return f"{number(p50)} / {number(p99)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
