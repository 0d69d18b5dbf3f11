"""`python -m bench.handover`: large arguments of several sizes, by every way of sending them.

Prints a table on the terminal. The default of the limit `segment_threshold_bytes` is chosen from it.
"""

from __future__ import annotations

import sys

from bench import machine
from bench.model import Effort, Figure, size_label
from bench.run import run_rounds
from bench.table import HANDOVER_SIZES, handover_cases


def main() -> int:
    """Measure and print the table; return 1 if a measurement failed."""
    effort = Effort(warmup_seconds=0.1, seconds=0.3)
    cases = handover_cases()
    results = run_rounds(cases, effort, rounds=3, gate=machine.IdleGate(1.0))
    peers = list(dict.fromkeys(case.peer for case in cases))
    print(f"{machine.describe()}\np50 in us, median of {results.rounds} rounds\n")
    print("| size | " + " | ".join(peer.title.removeprefix("Spear, ") for peer in peers) + " |")
    print("|---" * (len(peers) + 1) + "|")
    for size in HANDOVER_SIZES:
        found = [results.median(case, Figure.P50) for case in cases if case.load.size == size]
        cells = ["-" if each is None else f"{each:,.0f}" for each in found]
        print(f"| {size_label(size)} | " + " | ".join(cells) + " |")
    for case in results.failures:
        print(f"{case}: {results.problem(case)}", file=sys.stderr)
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
