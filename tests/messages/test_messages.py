"""Messages are for people: with all messages changed, Spear behaves the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from .noise import NOISE

TESTS = Path(__file__).resolve().parent.parent

PATIENCE_SECONDS = 55.0


@attrs.frozen
class Run:
    """The output of a run of ``everything.py``."""

    outcomes: dict[str, dict[str, object]]
    said: list[str]


def run_beside(*modes: str, reader: bool = False) -> list[Run]:
    """Start a run in each mode, all at once."""
    words = ["reader"] if reader else []
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "messages.everything", mode, *words],
            cwd=TESTS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for mode in modes
    ]
    runs = []
    try:
        for process in running:
            output, errors = process.communicate(timeout=PATIENCE_SECONDS)
            assert process.returncode == 0, errors.decode()
            runs.append(Run(**json.loads(output)))
    finally:
        for process in running:
            process.kill()
            process.communicate()
    return runs


@pytest.mark.slow
def test_with_other_words_in_every_message_all_else_is_the_same() -> None:
    plain, noisy = run_beside("plain", "noisy")
    for part, outcomes in plain.outcomes.items():
        for name, outcome in outcomes.items():
            assert noisy.outcomes[part][name] == outcome, (part, name)
    assert noisy.outcomes.keys() == plain.outcomes.keys()
    # All messages differed, except those of the functions themselves.
    assert not any(NOISE in each for each in plain.said)
    assert len(plain.said) == len(noisy.said) > 30
    assert {each for each in noisy.said if NOISE not in each} <= {"'nothing there'", "later"}
    # All attributes for decisions were present.
    shown = json.dumps(plain.outcomes)
    for hint in ("extra quotes", "pass true", "@FILE", "cannot send items", "--timeout is an"):
        assert hint in shown
    for code in ("argument_type", "head_too_large", "stalled", "key_reused", "worker_died"):
        assert code in shown


@pytest.mark.slow
def test_code_that_reads_a_message_again_is_found_by_other_words() -> None:
    plain, noisy = run_beside("plain", "noisy", reader=True)
    assert "extra quotes" in json.dumps(plain.outcomes)
    assert "extra quotes" not in json.dumps(noisy.outcomes)
