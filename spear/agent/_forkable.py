"""Whether a process that has loaded a program can be forked safely, and what stands against it.

A fork copies memory and the one thread that forks. What a program has at work besides is lost (threads,
with the locks they hold) or shared by all copies (connections, positions in files, processes). So a
program that has any of it when its import is over is not forked.

What cannot be seen here, such as a number that was made from the pid, is the program's affair.
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
"""Of a hundred threads or files, so many are named."""

ENDING_SECONDS = 0.1
"""Before Python 3.13, who has joined a thread may find it still there, for some milliseconds."""

LOOK_SECONDS = 0.001


def find_obstacle(known: frozenset[int]) -> str:
    """What stands against forking this process, as the end of "it ..."; empty if nothing does.

    Args:
        known: descriptors that were there before the program was loaded.
    """
    obstacles = (_threads(), _loops(), _children(), _descriptors(known))
    return ", and ".join(filter(None, obstacles))


def open_descriptors() -> frozenset[int]:
    """The numbers of all descriptors."""
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
            return (
                f"has other threads, of a library in C: {_listed(list(map(_name_of_task, native)))}"
            )
        time.sleep(LOOK_SECONDS)
    return ""


def _name_of_task(task: str) -> str:
    with suppress(OSError), open(f"/proc/self/task/{task}/comm") as file:
        return file.read().strip()
    return task  # pragma: no cover  # it has ended this very moment


def _loops() -> str:
    """An event loop of asyncio has an epoll descriptor, which would be one and the same in all copies."""
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
    return ""  # pragma: no cover  # a kernel that does not tell


def _descriptors(known: frozenset[int]) -> str:
    found = sorted(open_descriptors() - known)
    names = [name for each in found if (name := _shared_name(each))]
    return f"has left open what copies would share: {_listed(names)}" if names else ""


def _status(number: int) -> os.stat_result | None:
    try:
        return os.fstat(number)
    except OSError:  # the one that listed the others
        return None


def _shared_name(number: int) -> str:
    """What a descriptor leads to, if copies of it would disturb each other."""
    status = _status(number)
    if status is None or stat.S_ISCHR(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return ""
    if stat.S_ISREG(status.st_mode):
        # There is one position for all who share an open file, unless every write goes to its end.
        import fcntl

        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        if flags & os.O_APPEND and flags & os.O_ACCMODE == os.O_WRONLY:
            return ""
    with suppress(OSError):
        return os.readlink(f"/proc/self/fd/{number}")
    return str(number)  # pragma: no cover  # closed meanwhile, by whom?


def _listed(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    shown = ", ".join(names[:MOST_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown


@final
class Files:
    """The files that the program consists of, as they were when it was loaded.

    Args:
        target: the program, which has yet to be loaded.
    """

    def __init__(self, target: str) -> None:
        program, _ = split_target(target)
        path = absolute(file_of(program))
        # A change while it is loaded is one, too. A module's file is not known yet.
        self._states = {path: _state_of(path)} if is_file(program) else {}

    def add_modules(self) -> None:
        """Add the files of all modules that have been loaded, but those of installed packages."""
        kinds = ("stdlib", "platstdlib", "purelib", "platlib")
        ours = os.path.dirname(os.path.dirname(__file__))
        installed = tuple(os.path.join(sysconfig.get_path(each), "") for each in kinds)
        installed += (os.path.join(ours, ""),)
        paths = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        for path in paths:
            if isinstance(path, str) and not path.startswith(installed):
                self._states.setdefault(path, _state_of(path))

    def have_changed(self) -> bool:
        """Whether one of them is another one now."""
        return any(_state_of(path) != state for path, state in self._states.items())


def _state_of(path: str) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    # The time of change is the kernel's own: a build that sets all other times cannot set that.
    return status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_ino
