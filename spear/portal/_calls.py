"""A call that another thread makes into Trio's thread: what it runs, and how it ended."""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Final, Generic, TypeVar, cast

import trio

from spear._errors import Delivered, WorkerDied

T = TypeVar("T")

_ENDED: Final = "the spearlet has ended, or its connection to a host was closed"


class PortalCall(Generic[T]):
    """A call that another thread makes. A door derives its own class, with :meth:`end`.

    Args:
        function: runs in Trio's thread, with the context variables that the caller has now.
    """

    __slots__ = ("_context", "_function", "_is_cancelled", "_is_over", "_scope", "error", "value")

    def __init__(self, function: Callable[[], Coroutine[object, object, T]]) -> None:
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

    async def run(self) -> None:
        """Run it, in Trio's thread. Raises only Cancelled, if the task itself is cancelled."""
        with trio.CancelScope() as self._scope:
            if self._is_cancelled:
                self._scope.cancel()
            try:
                self.value = await _in_context(self._context, self._function())
            except trio.Cancelled:  # by its caller, who knows it, or with the whole portal
                self.give_up("maybe")
                raise
            except BaseException as error:
                self.error = error
            finally:
                self._scope = None
                del self._function  # with its arguments
                if not self._is_over:
                    self._is_over = True
                    self.end()

    def give_up(self, delivered: Delivered) -> None:
        """End it without running it further: the thread has ended."""
        if not self._is_over:
            self.error = WorkerDied(_ENDED, code="stopped", delivered=delivered)
            self._is_over = True
            self.end()


@types.coroutine
def _in_context(
    context: Context, coroutine: Coroutine[object, object, T]
) -> Generator[object, object, T]:
    """Run a coroutine with context variables of its own, in a task that has others."""
    outcome: object = None
    while True:
        try:
            trap = context.run(coroutine.send, outcome)
        except StopIteration as stop:
            return cast("T", stop.value)
        outcome = yield trap  # Trio always sends; what failed is in what it sends
