"""The pipe on which a host tells a function's process where to connect, and that ties their lives.

The host writes one record into the pipe and keeps its end open for as long as it lives. The kernel
closes that end when the host dies, however it dies, and the signal armed here then kills this process
and, if it leads a process group, all its children: in 3 ms, even while C code holds the GIL. (What
does not work: PR_SET_PDEATHSIG counts the *thread* that spawned us as the parent, and a watching
thread has to wait for the GIL.) One pipe serves one process: it has one owner to signal.

This runs before anything heavy is imported, and imports nothing heavy itself.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat

from spear._forks import own

MAX_RECORD_BYTES = 64 * 1024

# The signal module builds its enums for a millisecond; these are Linux's numbers.
_SIGKILL = 9
_F_SETSIG = 10

HOST_GONE = 1
"""The exit status when there was no host any more to wait for."""


def tie_to(fd: int) -> None:
    """Make the pipe's read end ``fd`` the lifeline, without a record. Exits if the host has died."""
    os.set_inheritable(fd, False)
    _arm(fd)


def take_record(fd: int) -> bytes:
    """The bootstrap record from the pipe's read end ``fd``, which from then on is the lifeline.

    If ``fd`` is 0, a standard input without content takes its place, for the program to read. Exits at
    once if the host has died meanwhile.

    Raises:
        OSError: ``fd`` is no pipe that we can read.
        ValueError: what it holds is no record.
    """
    mode = os.fstat(fd).st_mode
    # sshd connects its children by sockets. Anything else may never send the signal.
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        raise ValueError("it is not the end of a pipe")
    if fd == 0:
        fd = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
    # Our children die with the process group, not by this.
    os.set_inheritable(own(fd), False)
    record = _read_record(fd)
    _arm(fd)
    return record


def _read_record(fd: int) -> bytes:
    size = int.from_bytes(_read_exactly(fd, 4), "little")
    if size > MAX_RECORD_BYTES:
        raise ValueError(f"a bootstrap record of {size} bytes")
    return _read_exactly(fd, size)


def _read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        some = os.read(fd, size - len(data))
        if not some:
            raise ValueError("the bootstrap pipe ended before the record did")
        data += some
    return data


def _arm(fd: int) -> None:
    """Have the kernel kill us when the last write end is closed."""
    fcntl.fcntl(fd, _F_SETSIG, _SIGKILL)
    process = os.getpid()
    fcntl.fcntl(fd, fcntl.F_SETOWN, -process if os.getpgrp() == process else process)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    # No signal tells of what came before it was armed: the pipe's end, or the host's guard.
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if poll.poll(0):
        os._exit(HOST_GONE)
