"""The command line: choose cases, run them, print and write the results."""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import sys
from collections.abc import Sequence
from fnmatch import fnmatch

from bench import machine, markdown
from bench.model import Case, Effort
from bench.process import ROOT
from bench.registry import missing
from bench.report import Outcome, outcomes, to_json, to_text
from bench.run import Results, run_rounds
from bench.table import ROWS, Point, Row, matrix_cases, row_cases

_FULL = Effort(warmup_seconds=0.3, seconds=0.8)
_QUICK = Effort(warmup_seconds=0.1, seconds=0.35, share=0.25)
_ROUNDS = 5
_TABLE_ROUNDS = 3  # rounds of cases that no promise needs
_FULL_PATIENCE_SECONDS = 120.0
_QUICK_PATIENCE_SECONDS = 10.0
_QUICK_LIMIT_SECONDS = 105.0  # leaves 15 s of the two minutes that a quick run may take


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a measurement failed. A missed promise is no failure."""
    options = _parse(argv)
    rows = tuple(row for row in ROWS if _row_matches(row, options.only))
    promised = row_cases(rows)
    others = [
        case
        for case in ([] if options.quick else matrix_cases())
        if case not in promised and _matches(str(case), options.only)
    ]
    if options.list:
        _show_plan(rows, [*promised, *others])
        return 0
    if not promised and not others:
        print(f"no row or case matches {options.only!r}; --list shows all", file=sys.stderr)
        return 2
    effort = _QUICK if options.quick else _FULL
    gate = machine.IdleGate(_QUICK_PATIENCE_SECONDS if options.quick else _FULL_PATIENCE_SECONDS)
    limit = _QUICK_LIMIT_SECONDS if options.quick else None
    # Cases that are compared run next to each other, so that the machine's state affects both alike.
    results = run_rounds(promised, effort, rounds=options.rounds, gate=gate, limit_seconds=limit)
    results.add(run_rounds(others, effort, rounds=min(options.rounds, _TABLE_ROUNDS), gate=gate))
    judged = outcomes(rows, results)
    _publish(judged, results, options)
    for case in results.failures:
        print(f"{case}: {results.problem(case)}", file=sys.stderr)
    return 1 if results.failures else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Spear beside its peers, in alternating rounds of one run.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="measure only rows with a promise, in under two minutes; write no documentation",
    )
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="write the results of the rows to FILE"
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="PATTERN",
        help="measure only rows and cases whose name contains or matches PATTERN",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=_ROUNDS,
        metavar="N",
        help="rounds for cases of rows with a promise (default: %(default)s); other cases get at "
        f"most {_TABLE_ROUNDS}",
    )
    parser.add_argument("--list", action="store_true", help="show rows and cases, and exit")
    parser.add_argument(
        "--docs",
        type=pathlib.Path,
        default=ROOT / "docs",
        metavar="DIR",
        help="directory for performance.md and images/ of a full run (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def _matches(name: str, pattern: str) -> bool:
    return pattern in name or fnmatch(name, pattern)


def _row_matches(row: Row, pattern: str) -> bool:
    points = [point for point in (row.ours, row.reference) if isinstance(point, Point)]
    return any(_matches(name, pattern) for name in (row.metric, *(str(p.case) for p in points)))


def _show_plan(rows: Sequence[Row], cases: Sequence[Case]) -> None:
    print("rows:")
    for row in rows:
        print(f"  {row.metric:36} {row.what}")
    print("cases:")
    for case in cases:
        reason = missing(case.peer)
        print(f"  {case}" + (f"  ({reason})" if reason else ""))


def _publish(judged: Sequence[Outcome], results: Results, options: argparse.Namespace) -> None:
    print(f"{machine.describe()}\n{results.rounds} rounds\n")
    print(to_text(judged))
    if options.json is not None:
        text = json.dumps(to_json(judged), indent=1, ensure_ascii=False)
        options.json.write_text(text + "\n")
    if options.quick:
        return
    if options.only:
        print("\nThe documentation is unchanged, because --only has left out cases.")
        return
    images: dict[str, str] = {}
    if importlib.util.find_spec("matplotlib") is None:
        print("\nNo plots: matplotlib is not installed (install the extra spearlet[bench]).")
    else:
        from bench import plots

        images = plots.draw(results, options.docs / "images")
    body = markdown.page_body(judged, results, machine=machine.describe(), images=images)
    markdown.write_page(options.docs / "performance.md", body)
    print(f"\nWritten: {options.docs / 'performance.md'}")
