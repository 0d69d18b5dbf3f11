"""The host's side of the guard, a small process that kills the instances if the host dies.

The lifelines alone kill the instances in a few milliseconds, unless another process has a copy of their
write ends. A forked child of the host has copies. ``spear/_forks.py`` closes the copies in children that
Python forks, but cannot do so in children that C code forks. The guard covers this case: one process
(``_guard_program``) for all instances of a host.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, final

import trio

from spear._forks import own_socket
from spear.channels import protected_class

from ._guard_program import MOST_ENDS

logger: Final = logging.getLogger("spear.runtimes")

_PROGRAM: Final = Path(__file__).with_name("_guard_program.py")

RESTART_SECONDS: Final = 1.0
"""Seconds from the exit of a guard to the start of the next one."""

END_SECONDS: Final = 1.0
"""Seconds that a guard has to exit when it is no longer needed; it usually takes some milliseconds."""


@final
@protected_class
class Guard:
    """A handle on the process that kills the instances of this host if this host dies."""

    def __init__(self) -> None:
        self._ends: set[int] = set()  # write ends of lifelines, and of launchers' gates
        self._sock: socket.socket | None = None  # None while no process runs

    def watch(self, end: int) -> None:
        """Have the instance at the other end of a lifeline killed if this process dies from now on."""
        self._ends.add(end)
        self._send([end])

    def forget(self, end: int) -> None:
        """Forget a write end that is about to be closed.

        The guard's process keeps its copy until the read end is closed, too.
        """
        self._ends.discard(end)

    async def run(self, task_status: trio.TaskStatus[Guard]) -> None:
        """Keep a process running until cancelled."""
        task_status.started(self)
        has_complained = False
        while True:
            try:
                await self._run_process()
                problem = "has ended"
            except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
                problem = f"could not be started: {error}"
            if not has_complained:
                logger.warning("the guard of this host's instances %s; starting another", problem)
            has_complained = True
            await trio.sleep(RESTART_SECONDS)

    async def _run_process(self) -> None:
        sock, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own_socket(sock)
        sock.setblocking(False)
        with sock:
            try:
                with other:
                    self._sock = sock
                    ends = list(self._ends)
                    for start in range(0, len(ends), MOST_ENDS):
                        self._send(ends[start : start + MOST_ENDS])
                    await trio.to_thread.run_sync(_start, other.fileno())
                await trio.lowlevel.wait_readable(sock)
            finally:
                self._sock = None
                with suppress(OSError):
                    sock.send(b"E")
                with trio.CancelScope(shield=True, deadline=trio.current_time() + END_SECONDS):
                    await trio.lowlevel.wait_readable(sock)
                with suppress(OSError):  # also affects the socket's copies in other processes
                    sock.shutdown(socket.SHUT_RDWR)

    def _send(self, ends: list[int]) -> None:
        if self._sock is None:
            return
        try:
            socket.send_fds(self._sock, [b"L"], ends)
        except OSError:  # the guard has died or does not read; the next guard gets all ends
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


def _start(control: int) -> None:
    """Start the guard's process as an orphan, and reap the process that forked it."""
    host = os.pidfd_open(os.getpid())
    try:
        subprocess.run(  # noqa: S603  # a script of our own
            [sys.executable, "-I", "-S", str(_PROGRAM), str(control), str(host)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(control, host),
            start_new_session=True,
            cwd="/",
            check=False,
        )
    finally:
        os.close(host)
