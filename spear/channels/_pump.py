"""Reading and writing once per scheduler pass, without a task for each connection.

Trio tells its instruments when all runnable tasks have run and it is about to wait for I/O: that is the
moment to write. Sixty tasks that each sent a small frame then cost one system call. And it tells them
when the wait is over, before it runs the tasks that became runnable: that is the moment to read, and
whoever waited for what has come runs in this very pass. Measured, with 1 KiB each way:

* 64 calls in flight: 1.4 times the rate of one send for each frame, 1.3 times that of a task that writes.
* One call at a time: 0.75 of the instructions of a task that reads (which needs a pass of its own).
* A heartbeat of an idle channel: a third of the time of a task that reads.

One epoll of our own knows what is to be read, and Trio's epoll waits for ours. If there is one socket
only, as in an agent, it is read without asking.

The same moments serve the low-latency mode: before the process goes to sleep, look for a moment whether
an answer is already coming. Waking a sleeping core costs more than that.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Final, Protocol, final

import trio

from spear._errors import ChannelBroken

from ._trio_epoll import TrioEpoll, trio_epoll

SPIN_SECONDS: Final = 150e-6
"""How long to look: longer than the peer needs for a small call, or both sides fall asleep each time. A
round trip of 90 us took 215 with a limit of 60 us, and no less with one of 300."""


class Flushable(Protocol):
    """Something with bytes to write."""

    def flush(self) -> None:
        """Write what can be written without waiting. Must not raise."""


@final
class Pump(trio.abc.Instrument):
    """The one instrument of a Trio run that moves bytes for all sockets of channels in it.

    Attributes:
        pending: what wants to be flushed in this pass; append to it.
    """

    def __init__(self) -> None:
        self.pending: list[Flushable] = []
        self._users = 0
        self._epoll: select.epoll  # while there are users
        self._trio_epoll: TrioEpoll | None  # likewise; None: a task makes Trio wait for ours
        self._readers: dict[int, Callable[[], None]] = {}
        self._spinning_users = 0

    # -- the two moments of a pass --------------------------------------------------------------

    def before_io_wait(self, timeout: float) -> None:
        """Write for everything that asked since the last pass."""
        if self.pending:
            pending, self.pending = self.pending, []
            for pipe in pending:
                pipe.flush()
        if self._spinning_users and timeout > 0:
            # sched_yield, because the peer may need this very core to answer.
            poll, pause, stop = self._epoll.poll, os.sched_yield, perf_counter() + SPIN_SECONDS
            while not poll(0) and perf_counter() < stop:
                pause()

    def after_io_wait(self, timeout: float) -> None:
        """Read for everybody for whom something is there."""
        readers = self._readers
        if len(readers) == 1:
            (read,) = readers.values()
            read()
            return
        for fileno, _ in self._epoll.poll(0):
            on_readable = readers.get(fileno)
            if on_readable is not None:  # or what came before has ended that one
                on_readable()

    async def _wake_up(self, epoll: select.epoll) -> None:
        """Make Trio end its wait when there is something to read; the reading is done above."""
        with suppress(trio.ClosedResourceError):
            while not epoll.closed:
                await trio.lowlevel.wait_readable(epoll)

    # -- who takes part -------------------------------------------------------------------------

    def start_reading(self, fileno: int, on_readable: Callable[[], None]) -> None:
        """From now on, call ``on_readable()`` when there is input.

        No task runs then. It must not raise.
        """
        self._epoll.register(fileno, select.EPOLLIN)
        self._readers[fileno] = on_readable

    def stop_reading(self, fileno: int, on_readable: Callable[[], None]) -> None:
        """Stop that, if it was started; best before the descriptor is closed."""
        if self._readers.get(fileno) == on_readable:  # and not one that got the same number later
            del self._readers[fileno]
            with suppress(OSError):  # it was closed first, which is the same to the kernel
                self._epoll.unregister(fileno)

    def start_spinning(self) -> None:
        """From now on, look for input for a moment before going to sleep."""
        self._spinning_users += 1

    def stop_spinning(self) -> None:
        """Stop that, unless others want it, too."""
        self._spinning_users -= 1

    def acquire(self) -> None:
        """Somebody uses it: see that it runs. Raises ChannelBroken if there is no descriptor left."""
        if self._users == 0:
            try:
                self._epoll = select.epoll()
            except OSError as error:
                raise ChannelBroken(f"cannot watch sockets: {error}", delivered="no") from error
            self._trio_epoll = trio_epoll()
            if self._trio_epoll is not None:
                self._trio_epoll.register(self._epoll.fileno())
            else:
                trio.lowlevel.spawn_system_task(self._wake_up, self._epoll, name="spear pump")
            trio.lowlevel.add_instrument(self)
        self._users += 1

    def release(self) -> None:
        """The opposite. The last one out takes the instrument away."""
        self._users -= 1
        if self._users == 0:
            with suppress(KeyError):  # Trio takes away an instrument that has failed
                trio.lowlevel.remove_instrument(self)
            self.pending.clear()  # of pipes that are closed
            if self._trio_epoll is not None:
                self._trio_epoll.unregister(self._epoll.fileno())
            else:
                trio.lowlevel.notify_closing(self._epoll)
            self._epoll.close()


_pump: Final[trio.lowlevel.RunVar[Pump]] = trio.lowlevel.RunVar("spear-pump")


def current_pump() -> Pump:
    """The pump of this Trio run."""
    try:
        return _pump.get()
    except LookupError:
        pump = Pump()
        _pump.set(pump)
        return pump
