"""Child processes of the benchmark: start them, tie their lives to ours, read their CPU time.

Invariants: every process started here is stopped by its own pid, and dies with the process that
started it even if that one is killed with SIGKILL. Linux only, like Spear itself.
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
    """Have the kernel kill this process when `parent`, which must have started it, ends.

    EOF on a socket would do for a child that reads one, but not for a broker or a pool worker, and
    not while a child is busy. The setting survives exec, so it covers programs that are not ours.
    It is tied to the *thread* that started us: benchmark processes are started by main threads.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def become_subreaper() -> None:
    """Adopt all orphans among our descendants, instead of leaving them to init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def settle_gc() -> None:
    """Bring the garbage collector to the state every measured process starts from.

    What imports left behind is moved out of its sight, so a system with many modules is not
    charged for scanning them. Collection itself stays on, with the interpreter's thresholds.
    """
    gc.collect()
    gc.freeze()


def command(entry: str, *args: str) -> list[str]:
    """Return the command that runs `entry` ("module:function") with `args` in a child of ours."""
    return [sys.executable, "-m", "bench.child", str(os.getpid()), entry, *args]


def load_entry(entry: str) -> Callable[[], object]:
    """Import the function that "module:function" names; the caller knows its signature."""
    module, _, name = entry.partition(":")
    return cast("Callable[[], object]", getattr(importlib.import_module(module), name))


@contextlib.contextmanager
def serving(
    entry: str, *args: str, sock: socket.socket | None = None, announces: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server side as a child while the block lasts.

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
                sock.close()  # else the child's end stays open here, and we never see its EOF
            if process.stdout is not None and not process.stdout.readline():
                raise BenchError(f"{entry} ended before it was ready")
            yield process
            if process.poll() is not None:
                raise BenchError(f"{entry} died with status {process.returncode}")
        finally:
            stop(process)


def announce() -> None:
    """Tell the process that started this server that it can connect now."""
    print("ready", flush=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a child of ours, politely if it lets us, and reap it."""
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
    # The last one: the first usually handles the machine's interrupts.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def cpu_seconds(pid: int) -> float:
    """Return the CPU time process `pid` has used, all its threads included, to the nanosecond.

    /proc/PID/stat counts in ticks of 10 ms, too coarse for windows of a third of a second. The
    number is what clock_getcpuclockid(3) computes, which Python does not offer.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    """Return how much memory process `pid` occupies, with what it shares with others."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def allow_descriptors(wanted: int) -> int:
    """Have so many, if they can be had; returns how many there are."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < wanted:  # root may raise the hard limit, too
        with contextlib.suppress(ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
    allowed = min(wanted, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    return allowed
