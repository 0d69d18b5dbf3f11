"""A process and its group: waiting for it, signalling it, collecting it.

Invariant: nothing is signalled by its number once that number may belong to somebody else. The number
of a process is its own until it has been collected, and so is the number of the group that it leads;
therefore the last signal to the group is sent when the process has ended, before it is collected. That
signal takes along what the process left behind.

A process that we started is collected by us, so that we know until when its number is good. One that was
forked by a zygote is collected by that, or by whoever inherits it if the zygote dies: it is signalled
through its pidfd, which never means another process.

A child that made a session of its own has left the group, and is not found.
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
"""Has a process of this number collected that has ended, and what is left of its group killed; returns
its exit status, None if nobody knows it."""

_PIDFD_SIGNAL_PROCESS_GROUP: Final = 4  # <linux/pidfd.h>, since Linux 6.9


@protected_class
class ProcessBody(InstanceBody):
    """A process that leads its own session, or is about to.

    Attributes:
        pid: its number, and that of its group.
    """

    pid: int

    def __init__(self, pid: int, pidfd: int, outputs: Sequence[Output]) -> None:
        self.pid = pid
        self.description = f"pid {pid}"
        self._pidfd = own(pidfd)
        expect_exit(pid)
        self._outputs = outputs
        self._handled = 0  # bytes of them, when somebody last asked whether it is busy
        self._is_collected = False
        self._pulse = Pulse(pid)

    async def wait_exited(self) -> None:
        """Wait until it has ended, collect it, and take the rest of what it wrote."""
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
        """Kill what is left of its group, and collect it, which has ended."""

    async def watch(self) -> None:
        """Read what it writes."""
        async with trio.open_nursery() as nursery:
            for output in self._outputs:
                nursery.start_soon(output.drain)

    async def terminate(self) -> None:
        """SIGTERM to the group, at once."""
        self._signal(signal.SIGTERM)
        await trio.lowlevel.checkpoint()

    async def kill(self) -> None:
        """SIGKILL to the group, at once."""
        self.kill_now()
        await trio.lowlevel.checkpoint()

    def kill_now(self) -> None:
        """SIGKILL to the group."""
        self._signal(signal.SIGKILL)

    @abstractmethod
    def _signal(self, number: signal.Signals) -> None:
        """A signal to the group, if that is still its own."""

    async def metrics(self) -> InstanceMetrics | None:
        """What the process uses, without its children."""
        await trio.lowlevel.checkpoint()
        return None if self._is_collected else read_metrics(self.pid)

    def is_busy(self) -> bool:
        """Whether it has used the processor since this was last asked, or waits for it now.

        It is busy, too, if the host has handled output of it meanwhile: a process that writes faster
        than its host reads uses no processor, because it waits at a full pipe.
        """
        before, self._handled = self._handled, sum(each.handled for each in self._outputs)
        return not self._is_collected and (self._pulse.is_busy() or self._handled != before)

    def close(self) -> None:
        """Release the descriptors."""
        forget_exit(self.pid)
        trio.lowlevel.notify_closing(self._pidfd)
        close(self._pidfd)
        for output in self._outputs:
            output.close()


@final
class SpawnedBody(ProcessBody):
    """A child of ours."""

    def __init__(self, process: subprocess.Popen[bytes], outputs: Sequence[Output]) -> None:
        self._process = process
        self._parent = os.getpid()
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError as error:  # no descriptor left, or the system has none for processes
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise OSError(error.errno, f"{error.strerror} (pidfd_open)") from error
        super().__init__(process.pid, pidfd, outputs)

    async def _collect(self) -> None:
        if not self._is_collected:
            self.kill_now()
            self.exit_status = self._process.wait()  # at once: it has ended
            self._is_collected = True

    def _signal(self, number: signal.Signals) -> None:
        # A forked child of ours that unwinds must not take our instances along.
        if not self._is_collected and os.getpid() == self._parent:
            # Not ours to signal any more, if it has become somebody else: nothing to be done.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


@final
class ForkedBody(ProcessBody):
    """A child of a zygote.

    Args:
        pid: its number.
        pidfd: of it; from now on ours to close.
        outputs: what it writes.
        collect: asks the zygote.
    """

    def __init__(self, pid: int, pidfd: int, outputs: Sequence[Output], collect: Collect) -> None:
        super().__init__(pid, pidfd, outputs)
        self._ask_to_collect = collect

    async def _collect(self) -> None:
        # The zygote kills the group, too; but it may be dead.
        self.kill_now()
        self.exit_status = await self._ask_to_collect(self.pid)
        if self.exit_status is None:
            self.exit_status = _adopted_status(self._pidfd)
        self._is_collected = True

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            try:
                _signal_through(self._pidfd, number, _PIDFD_SIGNAL_PROCESS_GROUP)
            except ProcessLookupError:  # it does not lead a group yet
                _signal_through(self._pidfd, number)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise  # pragma: no cover  # there is no such reason
                # An older kernel. Its children get the last signal, when it has ended.
                _signal_through(self._pidfd, number)


def _adopted_status(pidfd: int) -> int | None:
    """Collect a process whose zygote has died, if it was left to us, as to the first of a container."""
    with suppress(ChildProcessError):
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if found is not None:
            exited = found.si_code == os.CLD_EXITED
            return found.si_status if exited else -found.si_status
    return None


def _signal_through(pidfd: int, number: signal.Signals, flags: int = 0) -> None:
    signal.pidfd_send_signal(pidfd, number, None, flags)
