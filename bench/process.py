"""Child processes of the benchmark: start and stop them, and read their CPU time.

Invariants: every process started here is stopped by its own pid, and dies with the process that
started it, even if the latter is killed with SIGKILL. Linux only, like Spear itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import cast

from bench.model import BenchError

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "bench" / "build"

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PR_SET_CHILD_SUBREAPER = 36
_STOP_SECONDS = 3.0


def die_with(parent: int) -> None:
    """Make the kernel kill this process when `parent`, which must have started it, ends.

    EOF on a socket would suffice for a child that reads from one, but not for a broker or a pool worker,
    and not while a child is busy. The setting survives exec, so it works for any program. The kernel
    ties it to the *thread* that started this process: only main threads start benchmark processes.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the call
        os._exit(1)


def become_subreaper() -> None:
    """Make this process adopt all orphans among its descendants, in place of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def settle_gc() -> None:
    """Collect garbage, and freeze the remaining objects, before a measurement.

    The collector no longer scans objects that imports have created, so a system with many modules is not
    charged for them. Collection stays on, with the interpreter's thresholds.
    """
    gc.collect()
    gc.freeze()


def command(entry: str, *args: str) -> list[str]:
    """Return the command that runs `entry` ("module:function") with `args` in a child process."""
    return [sys.executable, "-m", "bench.child", str(os.getpid()), entry, *args]


def load_entry(entry: str) -> Callable[[], object]:
    """Import the function that "module:function" names; the caller knows its signature."""
    module, _, name = entry.partition(":")
    return cast("Callable[[], object]", getattr(importlib.import_module(module), name))


@contextlib.contextmanager
def serving(
    entry: str, *args: str, sock: socket.socket | None = None, announces: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server as a child process while the block lasts.

    Args:
      entry: "module:function", or "exec" to replace the child by the program that `args` names.
      sock: one end of a connected pair; the child gets its descriptor number as last argument.
      announces: wait until the child writes a line to its stdout (see `announce`).

    Raises:
      BenchError: the child never became ready, or had died before the block was over.
    """
    descriptors = [] if sock is None else [sock.fileno()]
    with subprocess.Popen(
        command(entry, *args, *map(str, descriptors)),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if announces else None,
        pass_fds=descriptors,
    ) as process:
        try:
            if sock is not None:
                sock.close()  # otherwise the child's end stays open here, and no EOF ever arrives
            if process.stdout is not None and not process.stdout.readline():
                raise BenchError(f"{entry} ended before it was ready")
            yield process
            if process.poll() is not None:
                raise BenchError(f"{entry} died with status {process.returncode}")
        finally:
            stop(process)


def announce() -> None:
    """Tell the process that started this server that the server is ready for connections."""
    print("ready", flush=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate a child process, kill it if that does not help, and reap it."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected unix stream sockets with the kernel's default buffers."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def inherited_socket(descriptor: str) -> socket.socket:
    """Return the socket that `serving` passed to this child."""
    return socket.socket(fileno=int(descriptor))


def pin_to_one_core() -> None:
    """Keep this process, and the children it starts from now on, on a single core."""
    # Choose the last core: the first one usually handles the machine's interrupts.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of process `pid` with all its threads, to the nanosecond.

    /proc/PID/stat counts in ticks of 10 ms, too coarse for windows of a third of a second. The clock id
    is computed like in clock_getcpuclockid(3), which Python does not offer.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of process `pid`, including memory shared with other processes."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def allow_descriptors(wanted: int) -> int:
    """Raise the limit of open file descriptors to `wanted` if possible; return the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < wanted:  # root may raise the hard limit, too
        with contextlib.suppress(ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
    allowed = min(wanted, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    return allowed
