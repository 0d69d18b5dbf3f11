"""What a process uses, and whether it is at work, as the kernel's accounts say."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from .._body import InstanceMetrics

BUSY_SECONDS: Final = 0.005
"""A process that has used more CPU time than this since it was last asked counts as busy."""


def read_metrics(pid: int) -> InstanceMetrics | None:
    """What the process ``pid`` uses now; None if there is no such process."""
    place = Path("/proc") / str(pid)
    try:
        memory_pages = int((place / "statm").read_text().split()[1])
        # The name, field 2, is in parentheses and may contain anything, these too.
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        return InstanceMetrics(
            cpu_seconds=_cpu_seconds(pid),
            memory_bytes=memory_pages * resource.getpagesize(),
            descriptors=len(os.listdir(place / "fd")),
            threads=int(fields[17]),  # num_threads, the 20th field
        )
    except OSError:
        return None


def _cpu_seconds(pid: int) -> float:
    # The clock of clock_getcpuclockid(3): nanoseconds, where /proc counts in ticks of 10 ms.
    return time.clock_gettime((~pid << 3) | 2)


class Pulse:
    """Tells whether a process is at work.

    Args:
        pid: of the process, which must not have been collected.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu_seconds = 0.0

    def is_busy(self) -> bool:
        """Whether it has used the processor since this was last asked, or waits for it now."""
        try:
            before, self._cpu_seconds = self._cpu_seconds, _cpu_seconds(self._pid)
        except OSError:
            return False
        return self._cpu_seconds - before > BUSY_SECONDS or is_runnable(self._pid)


def is_runnable(pid: int) -> bool:
    """Whether a thread of a process runs, or waits for a processor."""
    try:
        return _has_runnable(Path("/proc") / str(pid) / "task")
    except OSError:
        return False


def _has_runnable(tasks: Path) -> bool:
    for name in os.listdir(tasks):
        with suppress(OSError):  # the thread has ended
            if (tasks / name / "stat").read_text().rpartition(")")[2].split()[0] == "R":
                return True
    return False
