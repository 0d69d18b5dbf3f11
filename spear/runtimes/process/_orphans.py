"""Orphans: processes left by instances, which become children of the first process of a container.

A host that is this first process has to reap orphans that have exited, or they remain as zombies. Every
other child is reaped by the code that has started it and waits for its exit status. The kernel does not
tell the two kinds apart, so a child counts as an orphan only if one of these conditions holds:

* The child's session is neither the host's nor its own. A child of the host is in the host's session, or
  leads its own.
* The child was seen as a child of another process before.
* Only this runtime starts children in this process (:func:`own_all_children`), and it does not wait for
  this child.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple, final

import trio

from spear.channels import protected_class

SWEEP_SECONDS: Final = 1.0
"""Seconds between two scans of all processes; a scan takes some 20 us a process."""

_awaited: Final[set[int]] = set()
_owns_all: list[bool] = []


def expect_exit(pid: int) -> None:
    """Exclude a child from the scans, because the caller waits for it."""
    _awaited.add(pid)


def forget_exit(pid: int) -> None:
    """End the exclusion of a child: the caller has reaped it, or no longer waits for it."""
    _awaited.discard(pid)


def own_all_children() -> None:
    """Declare that from now on no other code in this process starts children."""
    _owns_all.append(True)


def inherits_orphans() -> bool:
    """Return whether this is the first process of its namespace, and ``/proc`` shows this namespace."""
    try:
        return os.getpid() == 1 and os.readlink("/proc/self") == "1"
    except OSError:  # pragma: no cover  # no /proc
        return False


class _Process(NamedTuple):
    pid: int
    started: int  # in ticks since boot; distinguishes processes that have the same pid in turn
    is_zombie: bool
    parent: int
    session: int


@final
@protected_class
class Orphans:
    """A reaper of orphans."""

    def __init__(self) -> None:
        self._seen_elsewhere: set[tuple[int, int]] = set()
        self._seen_dead: set[tuple[int, int]] = set()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Reap orphans until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(SWEEP_SECONDS)
            await trio.to_thread.run_sync(self.sweep)

    def sweep(self) -> None:
        """Scan all processes, and reap the orphans that have exited."""
        us, session = os.getpid(), os.getsid(0)
        elsewhere: set[tuple[int, int]] = set()
        dead: set[tuple[int, int]] = set()
        for each in _processes():
            key = each.pid, each.started
            if each.parent != us or key in self._seen_elsewhere:
                elsewhere.add(key)
            if each.parent != us or not each.is_zombie or each.pid in _awaited:
                continue
            dead.add(key)
            # On the second scan: the starter of a new child may not have called expect_exit() yet.
            is_left = bool(_owns_all) and key in self._seen_dead
            if is_left or key in elsewhere or each.session not in (session, each.pid):
                with suppress(ChildProcessError):
                    os.waitid(os.P_PID, each.pid, os.WEXITED | os.WNOHANG)
        self._seen_elsewhere, self._seen_dead = elsewhere, dead


def _processes() -> Iterator[_Process]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):  # the process has just been reaped
                with open(f"/proc/{name}/stat", "rb") as file:
                    # See read_metrics for the split.
                    fields = file.read().rpartition(b")")[2].split()
                yield _Process(
                    int(name), int(fields[19]), fields[0] == b"Z", int(fields[1]), int(fields[3])
                )
