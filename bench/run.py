"""Rounds: every case once per round, each in a new process, in reversed order every other round.

A case that fails is reported at once and is not tried again. Its samples of earlier rounds are ignored.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

import attrs

from bench.machine import ForeignLoad, IdleGate
from bench.model import UNITS, BenchError, Case, Effort, Figure, Sample, Unavailable
from bench.process import ROOT, stop
from bench.registry import missing

_CASE_SECONDS = 120.0  # a longer case hangs; ten thousand logins take 30 s
_ERROR_TAIL = 2_000


@attrs.define
class Results:
    """The results of a run. `run_rounds` fills them; `add` merges the results of other cases."""

    samples: dict[Case, list[Sample]] = attrs.field(factory=dict)
    busy: dict[Case, int] = attrs.field(factory=dict)  # samples taken while the machine was busy
    unavailable: dict[Case, str] = attrs.field(factory=dict)
    failures: dict[Case, str] = attrs.field(factory=dict)

    def values(self, case: Case, figure: Figure) -> list[float]:
        """Return the figure in each round, or nothing if the case has no valid measurement."""
        if self.problem(case) is not None:
            return []
        return [sample[figure] for sample in self.samples.get(case, ()) if figure in sample]

    def median(self, case: Case, figure: Figure) -> float | None:
        values = self.values(case, figure)
        return statistics.median(values) if values else None

    @property
    def rounds(self) -> str:
        """The number of rounds of the cases, as text: "3", or "3 to 5"."""
        counts = {len(samples) for samples in self.samples.values()} or {0}
        return " to ".join(str(count) for count in sorted({min(counts), max(counts)}))

    def add(self, other: Results) -> None:
        """Merge the results of other cases into these."""
        self.samples |= other.samples
        self.busy |= other.busy
        self.unavailable |= other.unavailable
        self.failures |= other.failures

    def problem(self, case: Case) -> str | None:
        """Return why there are no figures for this case, or None if there are."""
        if case in self.failures:
            return "FAILED: " + _last_words(self.failures[case])
        return self.unavailable.get(case)


def _last_words(error: str) -> str:
    """Return the line of a traceback, or of other output, that says what went wrong."""
    lines = [line.strip(" |+-") for line in error.splitlines()]
    return next((line for line in reversed(lines) if line), "no reason given")


def run_rounds(
    cases: Sequence[Case],
    effort: Effort,
    *,
    rounds: int,
    gate: IdleGate,
    limit_seconds: float | None = None,
) -> Results:
    """Measure `cases` in rounds and return the results.

    Args:
      limit_seconds: start no further round that would, at the pace so far, end later than this.
    """
    results = Results()
    for case in cases:
        if (reason := missing(case.peer)) is not None:
            results.unavailable[case] = reason
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sb-", ignore_cleanup_errors=True) as directory:
        for number in range(1, rounds + 1):
            round_begun = time.monotonic()
            order = cases if number % 2 else list(reversed(cases))
            _run_round(order, effort, results, gate, directory, f"round {number}/{rounds}")
            now = time.monotonic()
            if limit_seconds is not None and 2 * now - round_begun - begun > limit_seconds:
                break
    return results


def _run_round(
    cases: Sequence[Case],
    effort: Effort,
    results: Results,
    gate: IdleGate,
    directory: str,
    title: str,
) -> None:
    for number, case in enumerate(cases, 1):
        if results.problem(case) is not None:
            continue
        idle = gate.wait()
        window = ForeignLoad()
        try:
            sample = measure(case, effort, directory)
        except Unavailable as reason:
            results.unavailable[case] = str(reason)
            outcome = str(reason)
        except BenchError as error:
            results.failures[case] = str(error)
            outcome = f"FAILED\n{error}"
        else:
            results.samples.setdefault(case, []).append(sample)
            quiet = idle and (case.peer.daemons or window.is_quiet())
            results.busy[case] = results.busy.get(case, 0) + (not quiet)
            outcome = _one_line(sample) + ("" if quiet else "  (machine busy)")
        _say(f"{title}, {number}/{len(cases)}  {case!s:44} {outcome}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _one_line(sample: Mapping[Figure, float]) -> str:
    return "  ".join(f"{figure} {value:,.1f} {UNITS[figure]}" for figure, value in sample.items())


def measure(case: Case, effort: Effort, directory: str) -> Sample:
    """Measure one case once, in its own process, with temporary files below `directory`.

    Output goes through files, not pipes: a daemon that outlives the worker would keep a pipe open, and
    this function would wait for EOF.

    Raises:
      Unavailable: this machine lacks something the system needs.
      BenchError: anything else that is not a valid measurement.
    """
    arguments = (case.peer.name, case.load.to_json(), effort.to_json())
    with (
        tempfile.TemporaryFile("w+", dir=directory) as output,
        tempfile.TemporaryFile("w+", dir=directory) as errors,
        subprocess.Popen(
            [sys.executable, "-m", "bench.guardian", str(os.getpid()), *arguments],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": directory},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        ) as process,
    ):
        try:
            status = process.wait(_CASE_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{case} took longer than {_CASE_SECONDS:g} s") from None
        finally:
            stop(process)
        output.seek(0)
        errors.seek(0)
        if status != 0:
            raise BenchError(f"{case} ended with status {status}\n{errors.read()[-_ERROR_TAIL:]}")
        return _sample_from(output.read())


def _sample_from(text: str) -> Sample:
    reply = json.loads(text)
    if "unavailable" in reply:
        raise Unavailable(reply["unavailable"])
    return {Figure(name): float(value) for name, value in reply["sample"].items()}
