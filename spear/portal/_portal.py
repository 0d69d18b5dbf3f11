"""A thread that runs Trio, and calls that other threads make into it.

A call costs two wake-ups of a thread, and little else: callers put it into a queue, and wake the thread
only if it is not awake already. Ends of calls are delivered once per pass of Trio's scheduler, so that a
program with many calls in flight is woken once for all that ended in the pass.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar, cast, final
from weakref import WeakSet

import trio

from spear._errors import ConfigurationError

from ._workers import PortalWorkers

if TYPE_CHECKING:
    from ._calls import PortalCall

T = TypeVar("T")

logger: Final = logging.getLogger("spear.portal")


@final
class Portal(trio.abc.Instrument):
    """A thread that runs Trio until :meth:`close`; at the latest until the interpreter exits.

    It is made by :meth:`open`. In a forked child, every method raises ConfigurationError.
    """

    def __init__(self) -> None:
        self._workers = PortalWorkers()
        self._at_end_of_pass: list[Callable[[], object]] = []
        self._has_ended = False
        self._process = os.getpid()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._token: trio.lowlevel.TrioToken
        self._nursery: trio.Nursery
        self._thread = threading.Thread(target=self._run, name="spear", daemon=True)

    @classmethod
    def open(cls) -> Portal:
        """Start the thread; returns when it runs."""
        portal = cls()
        portal._thread.start()
        portal._started.wait()
        if portal._failure is not None:
            raise portal._failure
        _open.add(portal)
        return portal

    # -- in other threads ---------------------------------------------------------------------

    def expect_usable(self) -> None:
        """Raise ConfigurationError in a forked child, and in Trio's thread, which would wait in vain."""
        if os.getpid() != self._process:
            raise ConfigurationError(
                "this spearlet was opened before the process was forked, and its thread stayed with the "
                "parent: open one in each process, after the fork",
                code="forked",
            )
        if threading.get_ident() == self._thread.ident:
            raise ConfigurationError(
                "a callback or an agent in the spearlet's own thread cannot wait for the same spearlet: "
                "use the asynchronous functions of spear in it",
                code="own_thread",
            )

    def submit(self, call: PortalCall[T]) -> None:
        """Start a call. Returns at once; :meth:`PortalCall.end` tells of its end."""
        self.put_off(call)
        self.wake()

    def put_off(self, call: PortalCall[T]) -> None:
        """Let a call start at the next :meth:`wake`, or earlier."""
        self._workers.put(cast("PortalCall[object]", call))

    def wake(self) -> None:
        """Let Trio's thread start what was put off."""
        self._workers.ring()
        if self._has_ended:
            self._give_up()

    def run_soon(self, function: Callable[[], object]) -> None:
        """Run a plain function in Trio's thread; after the thread's end, do nothing but give up calls."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)
        if self._has_ended:  # even if Trio has taken the function: it may have failed
            self._give_up()

    def close(self) -> None:
        """End the thread; calls that run are cancelled. Returns when it has ended."""
        if os.getpid() == self._process:
            self.run_soon(self._stop)
            self._thread.join()

    # -- in Trio's thread ---------------------------------------------------------------------

    def at_end_of_pass(self, function: Callable[[], object]) -> None:
        """Call a function once, when all tasks have run that can run now."""
        self._at_end_of_pass.append(function)

    def before_io_wait(self, timeout: float) -> None:
        """Tell callers what has ended; Trio calls this before it waits for anything."""
        if self._at_end_of_pass:
            functions, self._at_end_of_pass = self._at_end_of_pass, []
            for each in functions:
                each()

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery of calls and of blocks that are held open."""
        return self._nursery

    def _run(self) -> None:
        try:
            trio.run(self._main, instruments=[self])
        except BaseException as error:
            self._failure = error
            if self._started.is_set():  # or else open() raises it
                logger.critical("a spearlet's thread has failed", exc_info=error)
        finally:
            self._has_ended = True
            self._started.set()
            self._workers.close()
            self.before_io_wait(0)
            _open.discard(self)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            self._started.set()
            await self._workers.run()

    def _stop(self) -> None:
        self._nursery.cancel_scope.cancel()

    def _give_up(self) -> None:
        self._workers.give_up_waiting()
        self.before_io_wait(0)


_open: Final[WeakSet[Portal]] = WeakSet()


@atexit.register
def _close_all() -> None:
    for portal in list(_open):
        portal.close()


def expect_outside() -> None:
    """Raise ConfigurationError in a thread where Trio runs: waiting there would stop all of its tasks."""
    if trio.lowlevel.in_trio_run():
        raise ConfigurationError(
            "this thread runs Trio: use `async with spear.open_spearlet()` instead"
        )
