"""The resource usage of a process, and whether the process is busy, as the kernel reports it."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from .._body import InstanceMetrics

BUSY_SECONDS: Final = 0.005
"""A process that has used more CPU time than this since the last check counts as busy."""


def read_metrics(pid: int) -> InstanceMetrics | None:
    """Return the current resource usage of the process ``pid``; None if it does not exist."""
    place = f"/proc/{pid}"
    try:
        memory_pages = int(_read(f"{place}/statm").split()[1])
        # Field 2, the name, is in parentheses and may contain any character, even parentheses.
        fields = _read(f"{place}/stat").rpartition(b")")[2].split()
        return InstanceMetrics(
            cpu_seconds=_cpu_seconds(pid),
            memory_bytes=memory_pages * resource.getpagesize(),
            descriptors=len(os.listdir(f"{place}/fd")),
            threads=int(fields[17]),  # num_threads, the 20th field
        )
    except OSError:
        return None


def _read(path: str) -> bytes:
    # A Path would take twice as long, and a host may have hundreds of processes.
    with open(path, "rb") as file:
        return file.read()


def _cpu_seconds(pid: int) -> float:
    # The clock of clock_getcpuclockid(3), which counts nanoseconds; /proc counts in ticks of 10 ms.
    return time.clock_gettime((~pid << 3) | 2)


class Pulse:
    """A check whether a process is busy.

    Args:
        pid: the pid of the process, which must not have been reaped.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu_seconds = 0.0

    def is_busy(self) -> bool:
        """Return whether the process has used CPU time since the last call, or is runnable now."""
        try:
            before, self._cpu_seconds = self._cpu_seconds, _cpu_seconds(self._pid)
        except OSError:
            return False
        return self._cpu_seconds - before > BUSY_SECONDS or is_runnable(self._pid)


def is_runnable(pid: int) -> bool:
    """Return whether any thread of a process runs or waits for a processor."""
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
