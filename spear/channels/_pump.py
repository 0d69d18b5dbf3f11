"""Reading and writing once per scheduler pass, without a task for each connection.

Trio calls its instruments when all runnable tasks have run and it is about to wait for I/O. This is the
moment to write: sixty tasks that each sent a small frame then cost one system call. Trio calls them again
when the wait is over, before it runs the tasks that became runnable. This is the moment to read: tasks
that waited for the input run in the same pass. Measured, with 1 KiB each way:

* 64 calls in flight: 1.4 times the rate of one send for each frame, 1.3 times that of a task that writes.
* One call at a time: 0.75 of the instructions of a task that reads (which needs a pass of its own).
* A heartbeat of an idle channel: a third of the time of a task that reads.

One epoll of our own watches all sockets, and Trio's epoll watches ours. A single socket, as in an agent,
is read without asking the epoll.

The low-latency mode uses the same moments: before the process goes to sleep, the pump polls for a moment
whether an answer is already there. Waking a sleeping core costs more than polling.
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
"""Seconds of polling: more than the peer needs for a small call, or both sides fall asleep each time. A
round trip of 90 us took 215 us with a limit of 60 us, and no less than 90 us with one of 300 us."""


class Flushable(Protocol):
    """A pipe with bytes to write."""

    def flush(self) -> None:
        """Write as much as possible without waiting. Must not raise."""


@final
class Pump(trio.abc.Instrument):
    """A Trio instrument that reads and writes for all sockets of channels in one Trio run.

    Attributes:
        pending: the pipes to flush in this pass; append to it.
    """

    def __init__(self) -> None:
        self.pending: list[Flushable] = []
        self._users = 0
        self._epoll: select.epoll  # open while there are users
        self._trio_epoll: TrioEpoll | None  # set while used; None if a task waits for our epoll
        self._readers: dict[int, Callable[[], None]] = {}
        self._spinning_users = 0

    # -- the two moments of a pass --------------------------------------------------------------

    def before_io_wait(self, timeout: float) -> None:
        """Flush all pending pipes; in low-latency mode, then poll for input before Trio sleeps."""
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
        """Call the readers of all descriptors that have input."""
        readers = self._readers
        if len(readers) == 1:
            (read,) = readers.values()
            read()
            return
        for fileno, _ in self._epoll.poll(0):
            on_readable = readers.get(fileno)
            if on_readable is not None:  # None if an earlier reader in this pass has stopped it
                on_readable()

    async def _wake_up(self, epoll: select.epoll) -> None:
        """Make Trio end its wait when there is input, which :meth:`after_io_wait` then reads."""
        with suppress(trio.ClosedResourceError):
            while not epoll.closed:
                await trio.lowlevel.wait_readable(epoll)

    # -- readers and users ----------------------------------------------------------------------

    def start_reading(self, fileno: int, on_readable: Callable[[], None]) -> None:
        """Call ``on_readable()`` whenever a descriptor has input, from now on.

        The function runs outside of any task. It must not raise.
        """
        self._epoll.register(fileno, select.EPOLLIN)
        self._readers[fileno] = on_readable

    def stop_reading(self, fileno: int, on_readable: Callable[[], None]) -> None:
        """Stop calling ``on_readable()``, if started; preferably before the descriptor is closed."""
        if self._readers.get(fileno) == on_readable:  # otherwise a later reader uses the number
            del self._readers[fileno]
            with suppress(OSError):  # the descriptor was closed, which has unregistered it, too
                self._epoll.unregister(fileno)

    def start_spinning(self) -> None:
        """Poll for input for a moment before each sleep, on behalf of this caller."""
        self._spinning_users += 1

    def stop_spinning(self) -> None:
        """Stop polling on behalf of this caller."""
        self._spinning_users -= 1

    def acquire(self) -> None:
        """Add a user; the first one starts the pump. Raises ChannelBroken if no descriptor is left."""
        if self._users == 0:
            try:
                self._epoll = select.epoll()
            except OSError as error:
                message = f"cannot create an epoll instance: {error}"
                raise ChannelBroken(message, delivered="no") from error
            self._trio_epoll = trio_epoll()
            if self._trio_epoll is not None:
                self._trio_epoll.register(self._epoll.fileno())
            else:
                trio.lowlevel.spawn_system_task(self._wake_up, self._epoll, name="spear pump")
            trio.lowlevel.add_instrument(self)
        self._users += 1

    def release(self) -> None:
        """Release the pump. The last release removes the instrument."""
        self._users -= 1
        if self._users == 0:
            with suppress(KeyError):  # Trio removes an instrument that has failed
                trio.lowlevel.remove_instrument(self)
            self.pending.clear()  # only closed pipes are left
            if self._trio_epoll is not None:
                self._trio_epoll.unregister(self._epoll.fileno())
            else:
                trio.lowlevel.notify_closing(self._epoll)
            self._epoll.close()


_pump: Final[trio.lowlevel.RunVar[Pump]] = trio.lowlevel.RunVar("spear-pump")


def current_pump() -> Pump:
    """Return the pump of this Trio run; make it on the first call."""
    try:
        return _pump.get()
    except LookupError:
        pump = Pump()
        _pump.set(pump)
        return pump
