"""A bare interpreter that imports Trio and writes a byte: no spawned Python instance starts faster.

(An instance that is forked from a process with all imports done may start faster.)
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from bench import drive
from bench.model import BenchError, Effort, Sample, Workload
from bench.process import stop

_PROGRAM = "import os, trio; os.write(1, b'!'); os.read(0, 1)"  # exits at EOF of its stdin


def measure(load: Workload, effort: Effort) -> Sample:
    return drive.starts(_started, effort)


@contextlib.contextmanager
def _started() -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.read(1) != b"!":
                raise BenchError("the interpreter did not answer")
            yield
        finally:
            stop(process)
