"""A process and its process group: waiting, signalling, reaping.

Invariant: no pid or process group id is signalled once another process may have it. The kernel does not
reuse the pid of a process, nor the id of the group that the process leads, until the process has been
reaped. The last signal to the group is therefore sent after the process has exited and before it is
reaped. This signal kills the processes of the group that are still running.

The host reaps a process that it spawned, and so knows how long the pid is valid. A process forked by a
zygote is reaped by the zygote, or by the process that adopts it if the zygote dies. The host signals such
a process through a pidfd, which never refers to another process.

A child that has created its own session has left the group, and is not killed.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from spear._forks import close, own
from spear.channels import protected_class

from .._body import InstanceBody, InstanceMetrics
from ._metrics import Pulse, read_metrics
from ._orphans import expect_exit, forget_exit

if TYPE_CHECKING:
    from ._output import Output

Collect: TypeAlias = Callable[[int], Awaitable[int | None]]
"""A function that has the exited process of this pid reaped and the rest of its group killed, and returns
the exit status, or None if it is not known."""

_PIDFD_SIGNAL_PROCESS_GROUP: Final = 4  # <linux/pidfd.h>, since Linux 6.9


@protected_class
class ProcessBody(InstanceBody):
    """A process that leads its own session, or is about to.

    Attributes:
        pid: the pid of the process, and the id of its process group.
    """

    pid: int

    def __init__(self, pid: int, pidfd: int, outputs: Sequence[Output]) -> None:
        self.pid = pid
        self.description = f"pid {pid}"
        self._pidfd = own(pidfd)
        expect_exit(pid)
        self._outputs = outputs
        self._handled = 0  # bytes of all outputs handled at the last call of is_busy
        self._is_collected = False
        self._pulse = Pulse(pid)

    async def wait_exited(self) -> None:
        """Wait until the process has exited, reap it, and read the rest of its output."""
        await trio.lowlevel.checkpoint()
        if not self._is_collected:
            await trio.lowlevel.wait_readable(self._pidfd)
            self.has_ended = True
            await self._collect()
            forget_exit(self.pid)
        for output in self._outputs:
            await output.finish()

    @abstractmethod
    async def _collect(self) -> None:
        """Kill the rest of the group of the exited process, and reap the process."""

    async def watch(self) -> None:
        """Read the output of the process."""
        async with trio.open_nursery() as nursery:
            for output in self._outputs:
                nursery.start_soon(output.drain)

    async def terminate(self) -> None:
        """Send SIGTERM to the group before the checkpoint."""
        self._signal(signal.SIGTERM)
        await trio.lowlevel.checkpoint()

    async def kill(self) -> None:
        """Send SIGKILL to the group before the checkpoint."""
        self.kill_now()
        await trio.lowlevel.checkpoint()

    def kill_now(self) -> None:
        """Send SIGKILL to the group."""
        self._signal(signal.SIGKILL)

    @abstractmethod
    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the group, if the group id still belongs to the process."""

    async def metrics(self) -> InstanceMetrics | None:
        """Return the resource usage of the process without its children; None if it has ended."""
        await trio.lowlevel.checkpoint()
        return None if self._is_collected else read_metrics(self.pid)

    def is_busy(self) -> bool:
        """Return whether the process has used CPU time since the last call, or waits for a processor now.

        The process is also busy if the host has handled output of it since the last call: a process that
        writes faster than the host reads uses no CPU time, because it waits at a full pipe.
        """
        before, self._handled = self._handled, sum(each.handled for each in self._outputs)
        return not self._is_collected and (self._pulse.is_busy() or self._handled != before)

    def close(self) -> None:
        """Close the file descriptors."""
        forget_exit(self.pid)
        trio.lowlevel.notify_closing(self._pidfd)
        close(self._pidfd)
        for output in self._outputs:
            output.close()


@final
class SpawnedBody(ProcessBody):
    """A process that is a child of the host."""

    def __init__(self, process: subprocess.Popen[bytes], outputs: Sequence[Output]) -> None:
        self._process = process
        self._parent = os.getpid()
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError as error:  # no free descriptor, or a kernel without pidfd_open
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise OSError(error.errno, f"{error.strerror} (pidfd_open)") from error
        super().__init__(process.pid, pidfd, outputs)

    async def _collect(self) -> None:
        if not self._is_collected:
            self.kill_now()
            self.exit_status = self._process.wait()  # does not block: the process has exited
            self._is_collected = True

    def _signal(self, number: signal.Signals) -> None:
        # A forked child of the host that unwinds its stack must not kill the host's instances.
        if not self._is_collected and os.getpid() == self._parent:
            # A process that has changed its user may not be signalled any more.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


@final
class ForkedBody(ProcessBody):
    """A process that is a child of a zygote.

    Args:
        pid: the pid of the process.
        pidfd: a pidfd of the process; this object closes it.
        outputs: the pipes into which the process writes.
        collect: asks the zygote to reap the process.
    """

    def __init__(self, pid: int, pidfd: int, outputs: Sequence[Output], collect: Collect) -> None:
        super().__init__(pid, pidfd, outputs)
        self._ask_to_collect = collect

    async def _collect(self) -> None:
        # The zygote kills the group, too, but may be dead.
        self.kill_now()
        self.exit_status = await self._ask_to_collect(self.pid)
        if self.exit_status is None:
            self.exit_status = _adopted_status(self._pidfd)
        self._is_collected = True

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            try:
                _signal_through(self._pidfd, number, _PIDFD_SIGNAL_PROCESS_GROUP)
            except ProcessLookupError:  # the process does not lead a group yet
                _signal_through(self._pidfd, number)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise  # pragma: no cover  # no other error is possible
                # An older kernel. The rest of the group is killed when the process has exited.
                _signal_through(self._pidfd, number)


def _adopted_status(pidfd: int) -> int | None:
    """Reap the child of a dead zygote if this process, as a container's init, has adopted it."""
    with suppress(ChildProcessError):
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if found is not None:
            exited = found.si_code == os.CLD_EXITED
            return found.si_status if exited else -found.si_status
    return None


def _signal_through(pidfd: int, number: signal.Signals, flags: int = 0) -> None:
    signal.pidfd_send_signal(pidfd, number, None, flags)
