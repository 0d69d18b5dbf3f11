"""The behaviour of conftest.py, tested with a small test suite of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def run_pytest(folder: Path, tests: str, *arguments: str) -> str:
    """Run pytest on some tests with this project's configuration; return its output."""
    shutil.copy(HERE / "conftest.py", folder)
    shutil.copy(HERE.parent / "pyproject.toml", folder)
    (folder / "test_some.py").write_text(tests, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "test_some.py", *arguments]
    run = subprocess.run(
        # Run as in the background of a shell without job control, where SIGINT is ignored.
        ["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command],
        cwd=folder,
        # With these variables, pytest prints everything twice.
        env={name: each for name, each in os.environ.items() if name not in {"CI", "BUILD_NUMBER"}},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout + run.stderr


@pytest.mark.slow
def test_r30_a_test_that_takes_too_long_fails_and_the_others_go_on(tmp_path: Path) -> None:
    hang = """
import time, trio

def test_blocking():
    time.sleep(60)

async def test_trio():
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever, name="the one that hangs")
    finally:
        print("cleaned up")

def test_swallowing():
    try:
        time.sleep(60)
    except BaseException:
        pass

async def test_other():
    await trio.sleep(0)
"""
    output = run_pytest(tmp_path, hang, "--time-limit", "0.2")
    assert "3 failed, 1 passed" in output
    assert "OutOfTime: the test took longer than 0.2 s, and then ended by itself" in output
    assert "cleaned up" in output
    assert "task <test 'test_trio'>" in output


@pytest.mark.slow
def test_r29_the_seed_of_a_failure_brings_it_back(tmp_path: Path) -> None:
    fails = """
import pytest

@pytest.mark.parametrize("n", [1, 2])
def test_fault(seed, n):
    raise RuntimeError(f"drew {seed.random()}")
"""
    first = run_pytest(tmp_path, fails)
    drawn = re.findall(r"E +RuntimeError: drew (0\.\d+)", first)
    assert len(set(drawn)) == 2, first
    replay = re.search(r"to replay: pytest '(test_some.py::test_fault\[2\])' (--seed) (\d+)", first)
    assert replay, first
    again = run_pytest(tmp_path, fails, *replay.groups()[1:])
    assert re.findall(r"E +RuntimeError: drew (0\.\d+)", again) == drawn


@pytest.mark.slow
def test_an_interrupt_ends_the_run(tmp_path: Path) -> None:
    interrupted = """
import signal, trio

async def test_first():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 60)
        signal.raise_signal(signal.SIGINT)

async def test_second():
    print("not reached")
"""
    output = run_pytest(tmp_path, interrupted, "-s")
    assert "KeyboardInterrupt" in output
    assert "not reached" not in output


@pytest.mark.slow
def test_s14_a_secret_in_its_output_fails_a_test(tmp_path: Path) -> None:
    careless = """
import logging, sys
import pytest
from spear._ids import Secret

@pytest.mark.parametrize("form", [bytes.hex, repr, list])
@pytest.mark.parametrize("tell", [print, logging.warning, lambda x: print(x, file=sys.stderr)])
def test_careless(form, tell):
    tell(f"the secret is {form(Secret.generate().reveal())}")

def test_careful():
    print(Secret.generate())
    logging.warning("the secret is %r", Secret.generate())
"""
    output = run_pytest(tmp_path, careless)
    assert "9 failed, 1 passed" in output
    assert output.count("a secret is in the output of the call of test_some.py::test_careless") == 9
