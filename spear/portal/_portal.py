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
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Final, Generic, TypeVar, cast, final
from weakref import WeakSet

import trio

from spear._errors import ConfigurationError, Delivered, WorkerDied

T = TypeVar("T")

logger: Final = logging.getLogger("spear.portal")

_ENDED: Final = "the spearlet has ended, or its connection to a host was closed"


class PortalCall(Generic[T]):
    """A call that another thread makes. A door derives its own class, with :meth:`end`.

    Args:
        function: runs in Trio's thread, with the context variables that the caller has now.
    """

    __slots__ = ("_context", "_function", "_is_cancelled", "_is_over", "_scope", "error", "value")

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self._context: Context = copy_context()
        self._scope: trio.CancelScope | None = None  # while it runs
        self._is_cancelled = False
        self._is_over = False
        self.value: T | None = None
        self.error: BaseException | None = None

    def end(self) -> None:
        """Tell the caller that :attr:`value` or :attr:`error` is there. Runs in Trio's thread."""
        raise NotImplementedError

    def result(self) -> T:
        """Return the value, or raise the error. For the caller, after the end."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        return cast("T", self.value)

    def cancel(self) -> None:
        """Cancel it; in Trio's thread. Its end tells when it is over."""
        self._is_cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    def start(self, nursery: trio.Nursery, running: set[PortalCall[object]]) -> None:
        """Start it in a task, and keep it in a set while it runs. In Trio's thread."""
        running.add(cast("PortalCall[object]", self))  # first: the task may never run
        try:
            self._context.run(nursery.start_soon, self._run, running)
        except RuntimeError:  # the nursery is closed: the thread is ending
            self.give_up("no")

    def give_up(self, delivered: Delivered) -> None:
        """End it, as the thread has ended."""
        if not self._is_over:
            self.error = WorkerDied(_ENDED, code="stopped", delivered=delivered)
            self._is_over = True
            self.end()

    async def _run(self, running: set[PortalCall[object]]) -> None:
        with trio.CancelScope() as self._scope:
            if self._is_cancelled:
                self._scope.cancel()
            try:
                self.value = await self._function()
            except trio.Cancelled:  # by its caller, who knows it, or with the whole portal
                self.give_up("maybe")
                raise
            except BaseException as error:
                self.error = error
            finally:
                self._scope = None
                del self._function  # with its arguments
                running.discard(cast("PortalCall[object]", self))
                if not self._is_over:
                    self._is_over = True
                    self.end()


@final
class Portal(trio.abc.Instrument):
    """A thread that runs Trio until :meth:`close`; at the latest until the interpreter exits.

    It is made by :meth:`open`. In a forked child, every method raises ConfigurationError.
    """

    def __init__(self) -> None:
        self._calls: deque[PortalCall[object]] = deque()  # not started yet
        self._running: set[PortalCall[object]] = set()
        self._is_awake = False  # whether _start_all() will run
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
        self._calls.append(cast("PortalCall[object]", call))

    def wake(self) -> None:
        """Let Trio's thread start what was put off."""
        if self._has_ended:
            self._give_up()
        elif not self._is_awake:
            self._is_awake = True
            self.run_soon(self._start_all)

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
            for call in list(self._running):  # which Trio, having failed, has dropped
                call.give_up("maybe")
            self._give_up()
            _open.discard(self)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            self._started.set()
            await trio.sleep_forever()

    def _stop(self) -> None:
        self._nursery.cancel_scope.cancel()

    def _start_all(self) -> None:
        self._is_awake = False  # first: what is submitted from now on wakes the thread again
        while self._calls:
            self._calls.popleft().start(self._nursery, self._running)

    def _give_up(self) -> None:
        while self._calls:
            self._calls.popleft().give_up("no")
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
