"""A process and its group: waiting for it, signalling it, collecting it.

Invariant: nothing is signalled by its number once that number may belong to somebody else. The number
of a process is its own until it has been collected, and so is the number of the group that it leads;
therefore the last signal to the group is sent when the process has ended, before it is collected. That
signal takes along what the process left behind.

A child that made a session of its own has left the group, and is not found.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, final

import trio

from ._abc import InstanceBody, InstanceMetrics
from ._process_metrics import read_metrics

if TYPE_CHECKING:
    from ._process_output import Output


@final
class ProcessBody(InstanceBody):
    """A process that leads its own session.

    Attributes:
        pid: its number, and that of its group.
    """

    pid: int

    def __init__(self, process: subprocess.Popen[bytes], outputs: Sequence[Output]) -> None:
        self.pid = process.pid
        self.description = f"pid {process.pid}"
        self._process = process
        self._outputs = outputs
        self._is_collected = False
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except OSError:  # no descriptor left
            self.kill()
            process.wait()
            raise

    async def wait_exited(self) -> None:
        """Wait until it has ended, collect it, and take the rest of what it wrote."""
        await trio.lowlevel.checkpoint()
        if not self._is_collected:
            await trio.lowlevel.wait_readable(self._pidfd)
            self._collect()
        for output in self._outputs:
            await output.finish()

    def _collect(self) -> None:
        if not self._is_collected:
            self.kill()
            self.exit_status = self._process.wait()  # at once: it has ended
            self._is_collected = True

    async def watch(self) -> None:
        """Read what it writes."""
        async with trio.open_nursery() as nursery:
            for output in self._outputs:
                nursery.start_soon(output.drain)

    def terminate(self) -> None:
        """SIGTERM to the group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if not self._is_collected:
            # Not ours to signal any more, if it has become somebody else: nothing to be done.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def metrics(self) -> InstanceMetrics | None:
        """What the process uses, without its children."""
        return None if self._is_collected else read_metrics(self.pid)

    def close(self) -> None:
        """Release the descriptors."""
        trio.lowlevel.notify_closing(self._pidfd)
        os.close(self._pidfd)
        for output in self._outputs:
            output.close()
