"""A bare interpreter that imports Trio and says a byte: no Python instance can start faster.

(Unless it is forked from one that has imported everything, which is why the aim is not a limit.)
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from bench import drive
from bench.model import BenchError, Effort, Sample, Workload
from bench.process import stop

_PROGRAM = "import os, trio; os.write(1, b'!'); os.read(0, 1)"  # ends with its stdin, so with us


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
