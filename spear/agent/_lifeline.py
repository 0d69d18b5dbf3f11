"""The pipe over which a process receives its bootstrap record, and which kills it when the host dies.

The host writes one record into the pipe and keeps the write end open for as long as it lives. When the
host dies in any way, the kernel closes the write end. The signal armed here then kills this process and,
if it leads a process group, all its children: in 3 ms, even while C code holds the GIL. (Two alternatives
do not work: PR_SET_PDEATHSIG counts the *thread* that spawned this process as the parent, and a watching
thread has to wait for the GIL.) Each process has its own pipe, because a pipe signals one owner only.

This module runs before any large module is imported, and imports no large module itself.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import time

from spear._forks import own

MAX_RECORD_BYTES = 64 * 1024

# Linux's numbers, because the signal module takes a millisecond to build its enums.
_SIGKILL = 9
_F_SETSIG = 10

_ARMING_PAUSES = (*(0.0,) * 20, *(0.001,) * 20)
"""Seconds of each pause while a process waits for its host to arm the lifeline; 20 ms in all."""

HOST_GONE = 1
"""The exit status if the host has died before this process was ready."""


def tie_to(fd: int) -> None:
    """Make the pipe's read end ``fd`` the lifeline, without a record. Exits if the host has died."""
    os.set_inheritable(fd, False)
    _arm(fd)


def take_record(fd: int) -> bytes:
    """Read the bootstrap record from the pipe's read end ``fd``, and make ``fd`` the lifeline.

    If ``fd`` is 0, an empty standard input replaces it for the program. Exits if the host has died.

    Raises:
        OSError: ``fd`` is not readable.
        ValueError: ``fd`` is not a pipe, or its content is not a record.
    """
    mode = os.fstat(fd).st_mode
    # Sockets are accepted because sshd connects its children by sockets. Other files may not signal.
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        raise ValueError("the file is not a pipe")
    if fd == 0:
        fd = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
    # Children do not inherit the pipe; they are killed with the process group.
    os.set_inheritable(own(fd), False)
    record = _read_record(fd)
    _wait_until_armed(fd)
    _arm(fd)
    return record


def _read_record(fd: int) -> bytes:
    size = int.from_bytes(_read_exactly(fd, 4), "little")
    if size > MAX_RECORD_BYTES:
        raise ValueError(
            f"the bootstrap record has {size} bytes; at most {MAX_RECORD_BYTES} are allowed"
        )
    return _read_exactly(fd, size)


def _read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        some = os.read(fd, size - len(data))
        if not some:
            raise ValueError("the pipe ended before the end of the bootstrap record")
        data += some
    return data


def _wait_until_armed(fd: int) -> None:
    """Wait until the host has armed the pipe, which it does when its write of the record has returned.

    A write signals the data after the reader can already read it. If this process armed the pipe between
    the two, the record's own signal would kill this process. A pipe that another program copies from the
    host's, as ssh does, is never armed by the host, so the wait ends after 20 ms.
    """
    for seconds in _ARMING_PAUSES:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ASYNC:
            return
        time.sleep(seconds)


def _arm(fd: int) -> None:
    """Have the kernel kill this process, or the group that it leads, when the pipe ends or gets data.

    Exits with ``HOST_GONE`` if either has happened already.
    """
    fcntl.fcntl(fd, _F_SETSIG, _SIGKILL)
    process = os.getpid()
    fcntl.fcntl(fd, fcntl.F_SETOWN, -process if os.getpgrp() == process else process)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    # No signal reports an earlier event: the end of the pipe, or a message of the host's guard.
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if poll.poll(0):
        os._exit(HOST_GONE)
