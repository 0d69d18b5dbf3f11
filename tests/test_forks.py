"""Forked children do not inherit the parent's exclusive resources."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(program: str) -> None:
    """Run a program of forking.py, which checks its own results."""
    with tempfile.TemporaryDirectory(
        prefix="rt-"
    ) as directory:  # short, because a socket's path has a length limit
        environment = os.environ | {"TMPDIR": directory}
        environment.pop("XDG_RUNTIME_DIR", None)
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", str(HERE / "forking.py"), program],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_forked_child_has_nothing_of_what_its_host_has_opened() -> None:
    run("a host and its child")


@pytest.mark.slow
def test_a_forked_child_that_unwinds_removes_and_kills_nothing() -> None:
    run("a child that unwinds")


@pytest.mark.slow
def test_a_forked_child_of_a_process_without_a_free_descriptor() -> None:
    run("a full table")


@pytest.mark.slow
def test_a_forked_child_keeps_what_has_the_number_of_a_closed_descriptor() -> None:
    run("a number that was closed")


@pytest.mark.slow
def test_a_signal_that_comes_before_a_forked_child_has_its_handlers_is_not_lost() -> None:
    """A pool that was left at once waited forever for a worker that had just been forked."""
    run("a signal that comes at once")
