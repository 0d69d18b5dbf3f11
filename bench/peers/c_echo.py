"""An echo in C (echo.c), ping-pong, spinning and pipelined: the limits that the kernel sets.

The latency between two blocking processes on several cores depends mostly on the scheduler's placement
and on the sleep states of the cores: one machine gave 4 to 70 µs. Therefore promises compare with both
processes on one core, or with both spinning.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import subprocess

from bench.model import BenchError, Effort, Figure, Pattern, Sample, Unavailable, Workload
from bench.process import BUILD, command

_SOURCE = pathlib.Path(__file__).with_name("echo.c")
_MODES = {Pattern.SEQUENTIAL: "pingpong", Pattern.PIPELINED: "pipelined"}


def measure(load: Workload, effort: Effort) -> Sample:
    return _measure(_MODES[load.kind], load, effort)


def measure_spinning(load: Workload, effort: Effort) -> Sample:
    """Measure one call after another while both sides spin instead of sleeping."""
    if len(os.sched_getaffinity(0)) < 2:
        raise Unavailable("spinning needs two cores")
    return _measure("spinning", load, effort)


def _measure(mode: str, load: Workload, effort: Effort) -> Sample:
    program = _build()
    arguments = (mode, load.size, load.count, effort.warmup_seconds, effort.seconds)
    done = subprocess.run(
        command("exec", str(program), *map(str, arguments)), stdout=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"{program.name} ended with status {done.returncode}")
    return {Figure(name): float(value) for name, value in json.loads(done.stdout).items()}


def _build() -> pathlib.Path:
    """Return the path of the compiled program; compile it first if the source has changed."""
    version = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    program = BUILD / f"echo-{version}"
    if program.exists():
        return program
    compiler = shutil.which("gcc")
    if compiler is None:
        raise Unavailable("gcc is not installed on this machine")
    BUILD.mkdir(exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")  # two runs may compile at once
    subprocess.run([compiler, "-O2", "-Wall", "-o", unfinished, _SOURCE], check=True)
    unfinished.rename(program)
    return program
