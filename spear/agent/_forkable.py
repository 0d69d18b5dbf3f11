"""The check whether a process that has loaded a program can be forked safely.

A fork copies the memory and the forking thread. Other threads are lost, with the locks they hold.
Connections, file positions and child processes are shared by all copies. A program that has any of these
after its import is therefore not forked.

State that cannot be seen from outside, such as a number made from the pid, is the program's own concern.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
import threading
import time
from contextlib import suppress
from typing import final

from spear._paths import absolute
from spear._targets import file_of, is_file, split_target

MOST_NAMED = 5
"""Most threads or files named in a message."""

ENDING_SECONDS = 0.1
"""Seconds to wait for ending threads. Before Python 3.13, a joined thread may exist some milliseconds."""

LOOK_SECONDS = 0.001


def find_obstacle(known: frozenset[int]) -> str:
    """Return why this process cannot be forked, as text to follow "it" ("runs Trio"); empty if it can.

    Args:
        known: file descriptors that were open before the program was loaded.
    """
    obstacles = (_threads(), _loops(), _children(), _descriptors(known))
    return ", and ".join(filter(None, obstacles))


def open_descriptors() -> frozenset[int]:
    """Return the numbers of all open file descriptors."""
    return frozenset(
        number for number in map(int, os.listdir("/proc/self/fd")) if _status(number) is not None
    )


def _threads() -> str:
    ours = threading.current_thread()
    names = [each.name for each in threading.enumerate() if each is not ours]
    if names:
        return f"has other threads: {_listed(names)}"
    # Some libraries start threads that Python does not know of.
    until = time.monotonic() + ENDING_SECONDS
    while native := [each for each in os.listdir("/proc/self/task") if int(each) != os.getpid()]:
        if time.monotonic() > until:
            names = list(map(_name_of_task, native))
            return f"has other threads, started by a library in C: {_listed(names)}"
        time.sleep(LOOK_SECONDS)
    return ""


def _name_of_task(task: str) -> str:
    with suppress(OSError), open(f"/proc/self/task/{task}/comm") as file:
        return file.read().strip()
    return task  # pragma: no cover  # the thread has just ended


def _loops() -> str:
    """Return the running event loop as an obstacle: all copies would share its epoll descriptor."""
    events = sys.modules.get("asyncio.events")
    if events is not None and events._get_running_loop() is not None:
        return "runs an asyncio loop"
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return "runs Trio"
    return ""


def _children() -> str:
    with suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = file.read().split()
        return f"has child processes: {_listed(children)}" if children else ""
    return ""  # pragma: no cover  # a kernel without this file


def _descriptors(known: frozenset[int]) -> str:
    found = sorted(open_descriptors() - known)
    names = [name for each in found if (name := _shared_name(each))]
    return f"has open files or sockets that forks would share: {_listed(names)}" if names else ""


def _status(number: int) -> os.stat_result | None:
    try:
        return os.fstat(number)
    except OSError:  # the descriptor of os.listdir() itself
        return None


def _shared_name(number: int) -> str:
    """Return the name of an open file whose copies would interfere with each other; empty if not."""
    status = _status(number)
    if status is None or stat.S_ISCHR(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return ""
    if stat.S_ISREG(status.st_mode):
        # All copies share the file position, which matters unless every write appends.
        import fcntl

        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        if flags & os.O_APPEND and flags & os.O_ACCMODE == os.O_WRONLY:
            return ""
    with suppress(OSError):
        return os.readlink(f"/proc/self/fd/{number}")
    return str(number)  # pragma: no cover  # the descriptor was closed meanwhile


def _listed(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    shown = ", ".join(names[:MOST_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown


@final
class Files:
    """A record of the program's files and their state when each was recorded.

    Args:
        target: the program, which must not be loaded yet.
    """

    def __init__(self, target: str) -> None:
        program, _ = split_target(target)
        path = absolute(file_of(program))
        # Recorded before the load, to notice a change during it. A module's file is not known yet.
        self._states = {path: _state_of(path)} if is_file(program) else {}

    def add_modules(self) -> None:
        """Add the files of all loaded modules except modules of installed packages."""
        kinds = ("stdlib", "platstdlib", "purelib", "platlib")
        ours = os.path.dirname(os.path.dirname(__file__))
        installed = tuple(os.path.join(sysconfig.get_path(each), "") for each in kinds)
        installed += (os.path.join(ours, ""),)
        paths = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        for path in paths:
            if isinstance(path, str) and not path.startswith(installed):
                self._states.setdefault(path, _state_of(path))

    def have_changed(self) -> bool:
        """Return whether any recorded file has changed since it was recorded."""
        return any(_state_of(path) != state for path, state in self._states.items())


def _state_of(path: str) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    # The kernel sets the ctime; a build that sets the other times cannot set it.
    return status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_ino
