"""The counts of ``spear map`` at the end of a run that fails; no process is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .helpers import Run

FULL = "spear: cannot write to /dev/full: No space left on device"


def test_a_run_that_ends_by_an_error_shows_what_it_has_done(run: Run, here: Path) -> None:
    (here / "items").write_text('"tea"\n')  # no list, and so a failure without a call
    words = ("shop.py:measure", "--input", "items", "--jsonl", "--starmap", "--output", "/dev/full")
    done = run("map", *words)
    assert done.status == 70
    counts, error = done.errors.splitlines()[-2:]
    assert counts.startswith("spear: ended by an error: 0 done, 1 failed, ")
    assert counts.endswith(" items/s; to go on, add --resume to the same command")
    assert error == FULL
    assert run("map", "--quiet", *words).errors.splitlines() == [FULL]


def test_a_run_that_has_done_nothing_has_no_counts(run: Run, here: Path) -> None:
    done = run("map", "shop.py:measure", "--input", "absent")
    assert done.status == 2
    assert done.errors.startswith("spear: --input absent: no such file")
    assert len(done.errors.splitlines()) == 1
