"""Orphans: what instances leave behind becomes a child of the first process of a container.

A host that is this first process has to collect orphans that have ended, or they remain as zombies. Every
other child is collected by the code that has started it and waits for its exit status. Nothing tells
the two kinds apart for certain, so a child is taken for an orphan only if one of these holds:

* Its session is neither ours nor its own. A process that we start is in our session, or leads its own.
* It was seen as a child of another process before.
* Nothing but this runtime starts children in this process (:func:`own_all_children`), and the runtime
  does not wait for this one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple, final

import trio

from spear.channels import protected_class

SWEEP_SECONDS: Final = 1.0
"""Seconds between two looks at all processes, which take some 20 us each."""

_awaited: Final[set[int]] = set()
_owns_all: list[bool] = []


def expect_exit(pid: int) -> None:
    """Exclude a child from the sweeps, because the caller waits for it."""
    _awaited.add(pid)


def forget_exit(pid: int) -> None:
    """End the exclusion of a child: the caller has collected it, or no longer waits for it."""
    _awaited.discard(pid)


def own_all_children() -> None:
    """State that no other code in this process starts children, from now on."""
    _owns_all.append(True)


def inherits_orphans() -> bool:
    """Whether this is the first process of its namespace, and ``/proc`` shows that namespace."""
    try:
        return os.getpid() == 1 and os.readlink("/proc/self") == "1"
    except OSError:  # pragma: no cover  # no /proc
        return False


class _Process(NamedTuple):
    pid: int
    started: int  # in ticks since boot: who has the same number later has another time
    is_zombie: bool
    parent: int
    session: int


@final
@protected_class
class Orphans:
    """Collects orphans that have ended."""

    def __init__(self) -> None:
        self._seen_elsewhere: set[tuple[int, int]] = set()
        self._seen_dead: set[tuple[int, int]] = set()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Collect orphans until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(SWEEP_SECONDS)
            await trio.to_thread.run_sync(self.sweep)

    def sweep(self) -> None:
        """Look at all processes, and collect the orphans that have ended."""
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
            # The second time: code that has just started a child may not have called expect_exit() yet.
            is_left = bool(_owns_all) and key in self._seen_dead
            if is_left or key in elsewhere or each.session not in (session, each.pid):
                with suppress(ChildProcessError):
                    os.waitid(os.P_PID, each.pid, os.WEXITED | os.WNOHANG)
        self._seen_elsewhere, self._seen_dead = elsewhere, dead


def _processes() -> Iterator[_Process]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):  # it has been collected this very moment
                with open(f"/proc/{name}/stat", "rb") as file:
                    # See _metrics.
                    fields = file.read().rpartition(b")")[2].split()
                yield _Process(
                    int(name), int(fields[19]), fields[0] == b"Z", int(fields[1]), int(fields[3])
                )
