"""Checks of ``spear doctor``: the limits and features of the system, sockets, and left-over files."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path
from typing import Final

from spear._errors import ConfigurationError
from spear._places import SUFFIX, check_directory, is_alive, socket_path
from spear._places import directory as place_of_sockets

from ._claim import MAX_PATH_BYTES
from ._findings import Finding, fail, ok, warn
from ._text import size

FEW_FILES: Final = 1024
"""Descriptors below which a warning makes sense: an instance takes about six of its host's."""

LEAST_FILES: Final = 128
FEW_PROCESSES: Final = 256
LITTLE_MEMORY: Final = 256 << 20
"""Free memory for a handful of instances of 30 MB each, with room for their payloads."""

SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108  # nothing is created there
LITTLE_SHM: Final = 64 << 20
"""The size of /dev/shm in a container of Docker, unless it is set."""

MANY_CORES: Final = 8

SLOW_CLOCKS: Final = ("acpi_pm", "hpet", "jiffies", "refined-jiffies")
OLDEST_TIME: Final = 1_767_225_600
"""The beginning of 2026, before which no release of Spear existed."""

_SYS_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_VERSION: Final = 1

THREAD_VARIABLE: Final = "OPENBLAS_NUM_THREADS"


def check_limits() -> Iterator[Finding]:
    """Yield the findings about limits of this user and this container."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files < LEAST_FILES:
        yield fail("open files", f"ulimit -n is {files}", f"ulimit -n {FEW_FILES}, or more")
    elif files < FEW_FILES:
        yield warn(
            "open files",
            f"ulimit -n is {files}, enough for about {files // 6} instances",
            f"ulimit -n {FEW_FILES}, or more",
        )
    else:
        yield ok("open files", f"ulimit -n is {files}")
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if processes == resource.RLIM_INFINITY or processes >= FEW_PROCESSES:
        shown = "unlimited" if processes == resource.RLIM_INFINITY else processes
        yield ok("processes", f"ulimit -u is {shown}")
    else:
        yield warn(
            "processes", f"ulimit -u is {processes}, threads included", f"ulimit -u {FEW_PROCESSES}"
        )
    yield from _check_memory()
    with suppress(OSError):
        found = os.statvfs(SHARED_MEMORY)
        total = found.f_blocks * found.f_frsize
        if total < LITTLE_SHM:
            yield warn(
                SHARED_MEMORY,
                f"has {size(total)}; Spear does not use it, but multiprocessing and PyTorch do",
                "docker run --shm-size=1g",
            )
        else:
            yield ok(SHARED_MEMORY, f"has {size(total)}")


def _check_memory() -> Iterator[Finding]:
    limit, used = (
        _cgroup("memory.max", "memory.limit_in_bytes"),
        _cgroup("memory.current", "memory.usage_in_bytes"),
    )
    free = _meminfo("MemAvailable")
    if limit is not None and limit < 1 << 60:
        left = limit - (used or 0)
        free = left if free is None else min(free, left)
    if free is None:
        return
    whole = "" if limit is None or limit >= 1 << 60 else f", of {size(limit)} of this cgroup"
    if free < LITTLE_MEMORY:
        yield warn("memory", f"{size(max(free, 0))} free{whole}", "an instance needs 30M and more")
    else:
        yield ok("memory", f"{size(free)} free{whole}")


def _cgroup(new: str, old: str) -> int | None:
    """Return a figure of this process's cgroup; None if it is not known, or unlimited."""
    for path in (f"/sys/fs/cgroup/{new}", f"/sys/fs/cgroup/memory/{old}"):
        with suppress(OSError, ValueError):
            return int(Path(path).read_text(encoding="ascii"))
    return None


def _meminfo(key: str) -> int | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) << 10
    return None


def check_kernel() -> Iterator[Finding]:
    """Yield the findings about features of the kernel."""
    try:
        os.close(os.pidfd_open(os.getpid()))
        yield ok("pidfd", "available")
    except OSError as error:
        yield fail("pidfd", f"not available: {error.strerror}", "use Linux 5.3 or later")
    yield _check_memfd()
    yield _check_landlock()
    spaces = _text("/proc/sys/user/max_user_namespaces")
    clone = _text("/proc/sys/kernel/unprivileged_userns_clone")
    allowed = spaces not in ("", "0") and clone != "0"
    yield ok("user namespaces", "available" if allowed else "not for this user; Spear needs none")
    scope = _text("/proc/sys/kernel/yama/ptrace_scope")
    if scope not in ("", "0"):
        yield ok("ptrace", f"ptrace_scope is {scope}: py-spy dump needs root")
    source = _text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    if source in SLOW_CLOCKS:
        yield warn(
            "clock source",
            f"{source} takes microseconds a reading, and Trio reads the clock often",
            "use tsc or the clock of the hypervisor, if the machine has one",
        )
    if time.time() < OLDEST_TIME:
        yield warn("clock", "the system time is in the past", "set it: TLS and logs depend on it")
    governor = _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor == "powersave":
        yield warn(
            "cpu governor",
            "powersave: latencies are longer, and benchmarks vary",
            "cpupower frequency-set -g performance",
        )
    if os.geteuid() == 0:
        yield warn(
            "user",
            "root: functions may do anything on this machine",
            "run hosts as a user of their own",
        )
    cores = os.cpu_count() or 1
    if cores >= MANY_CORES and THREAD_VARIABLE not in os.environ and _is_installed("numpy"):
        yield warn(
            "threads",
            f"each spawned instance that imports numpy starts {cores} threads",
            f"spear serve --env {THREAD_VARIABLE}=1",
        )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _check_memfd() -> Finding:
    import fcntl

    advice = "large payloads are copied through sockets; allow memfd_create"
    try:
        memory = os.memfd_create("doctor", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    except OSError as error:
        return warn("memfd", f"not available: {error.strerror}", advice)
    try:
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except OSError as error:
        return warn("memfd", f"cannot be sealed: {error.strerror}", advice)
    finally:
        os.close(memory)
    return ok("memfd", "available, with seals")


def _check_landlock() -> Finding:
    call = ctypes.CDLL(None, use_errno=True).syscall
    version = call(_SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        return ok("landlock", "not available; Spear does not need it")
    return ok("landlock", f"version {version}")


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


# -- sockets ------------------------------------------------------------------------------------


def check_sockets(listen: str) -> Iterator[Finding]:
    """Yield the findings about the places where hosts listen.

    Args:
        listen: HOST:PORT of the gateway, as ``spear serve --listen`` takes it.
    """
    yield from _check_place()
    yield _check_temporary()
    try:
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            socket.create_connection(server.getsockname(), 5).close()
        yield ok("loopback", "connections to 127.0.0.1 work")
    except OSError as error:
        yield fail("loopback", f"127.0.0.1 cannot be used: {error.strerror}", "ip link set lo up")
    yield from _check_port(listen)


def _check_place() -> Iterator[Finding]:
    place = place_of_sockets()
    longest = socket_path("default")
    if len(os.fsencode(longest)) > MAX_PATH_BYTES:
        yield fail(
            "control socket",
            f"{longest} is longer than {MAX_PATH_BYTES} bytes",
            "set XDG_RUNTIME_DIR to a shorter path",
        )
    try:
        check_directory(place)
    except FileNotFoundError:
        above = os.path.dirname(place)
        if os.access(above, os.W_OK | os.X_OK):
            yield ok("control socket", f"{place} will be created")
        else:
            yield fail(
                "control socket",
                f"{above} does not exist or is not writable",
                "set XDG_RUNTIME_DIR to a directory of this user",
            )
        return
    except ConfigurationError as error:
        yield fail("control socket", str(error), f"remove {place}, or set XDG_RUNTIME_DIR")
        return
    names = sorted(each for each in os.listdir(place) if each.endswith(SUFFIX))
    alive = [each.removesuffix(SUFFIX) for each in names if is_alive(os.path.join(place, each))]
    yield ok("control socket", f"in {place}; running hosts: {', '.join(alive) or 'none'}")
    for each in names:
        if each.removesuffix(SUFFIX) not in alive:
            yield warn(
                "left over",
                f"{os.path.join(place, each)} belongs to a host that was killed",
                f"rm {os.path.join(place, each)}; the next host of that name removes it, too",
            )


def _check_temporary() -> Finding:
    try:
        place = tempfile.gettempdir()
    except OSError:
        return fail("temporary files", "no directory is writable", "set TMPDIR")
    if os.statvfs(place).f_flag & os.ST_NOEXEC:
        return warn(
            "temporary files",
            f"{place} is mounted with noexec: libraries that compile code there fail",
            "set TMPDIR to another directory",
        )
    if len(os.fsencode(place)) > MAX_PATH_BYTES - 40:
        return fail(
            "temporary files",
            f"the path of {place} is too long for sockets in it",
            "set TMPDIR to a shorter path",
        )
    return ok("temporary files", place)


def _check_port(listen: str) -> Iterator[Finding]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) >= 1 << 16:
        return  # "off", or a fault that `spear serve --check` reports
    try:
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
        yield ok("gateway", f"{listen} is free")
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "another program listens there" if taken else error.strerror or str(error)
        yield warn(
            "gateway", f"{listen} cannot be used: {reason}", "spear serve --listen 127.0.0.1:0"
        )
