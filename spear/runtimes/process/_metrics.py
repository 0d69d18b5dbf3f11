"""What a process uses, as the kernel's accounts say."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from pathlib import Path

from .._body import InstanceMetrics


def read_metrics(pid: int) -> InstanceMetrics | None:
    """What the process ``pid`` uses now; None if there is no such process."""
    place = Path("/proc") / str(pid)
    try:
        memory_pages = int((place / "statm").read_text().split()[1])
        # The name, field 2, is in parentheses and may contain anything, these too.
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        return InstanceMetrics(
            # The clock of clock_getcpuclockid(3): nanoseconds, where /proc counts in ticks of 10 ms.
            cpu_seconds=time.clock_gettime((~pid << 3) | 2),
            memory_bytes=memory_pages * resource.getpagesize(),
            descriptors=len(os.listdir(place / "fd")),
            threads=int(fields[17]),  # num_threads, the 20th field
            is_runnable=_is_runnable(place / "task"),
        )
    except OSError:
        return None


def _is_runnable(tasks: Path) -> bool:
    for name in os.listdir(tasks):
        with suppress(OSError):  # the thread has ended
            if (tasks / name / "stat").read_text().rpartition(")")[2].split()[0] == "R":
                return True
    return False
