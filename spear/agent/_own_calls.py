"""Functions that wait for functions of their own process.

A function that waits holds a slot of its process, and a plain one holds a thread. The function that it
waits for needs a slot, and a thread if it is plain. The process stalls until a deadline has passed when
such functions hold all slots, or when plain functions that wait for plain ones hold all threads. The
failure then says why.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, final

from spear._stalls import ADVICE, STALLED

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear.channels import InboundCall, Metadata

    from ._functions import RegisteredFunction


@final
class OwnCalls:
    """The calls of this process for which functions of this process wait.

    Args:
        find: a function of this process by its name, if there is one.
        threads: how many plain functions run at a time.

    Attributes:
        slots: how many calls the process takes at a time.
    """

    def __init__(self, find: Callable[[str], RegisteredFunction | None], threads: int) -> None:
        self.slots = 0
        self._find = find
        self._threads = threads
        self._waiting: set[Waiting] = set()
        self._held_threads = 0
        self._held_slots: dict[InboundCall, int] = {}  # one call may wait for several others

    def waiting(self, call: InboundCall, function: str, *, holds_thread: bool) -> Waiting:
        """Return a block in which a call waits for a function.

        Args:
            call: the call that waits.
            function: the name of the function, as it is given to the host.
            holds_thread: whether the call is one of a plain function.
        """
        found = self._find(function)
        if found is None:
            deployment, _, name = function.rpartition(".")
            if deployment == call.channel.instance_id.name.rpartition("-")[0]:
                found = self._find(name)
        return Waiting(self, call, found, holds_thread=holds_thread)

    def enter(self, waiting: Waiting) -> None:
        """A call waits from now on."""
        self._waiting.add(waiting)
        self._held_threads += waiting.wants_second_thread
        self._held_slots[waiting.call] = self._held_slots.get(waiting.call, 0) + 1
        if self._held_threads >= self._threads:
            waiting.stalls = "threads"
            what = (
                f"all {self._threads} threads of this process wait for plain functions of its own"
            )
        elif len(self._held_slots) >= self.slots:
            waiting.stalls = "calls"
            what = f"all {self.slots} calls of this process wait for functions of its own"
        else:
            return
        for each in self._waiting:
            each.stuck = f"{what}: {ADVICE}"

    def leave(self, waiting: Waiting) -> None:
        """A call waits no more."""
        self._waiting.remove(waiting)
        self._held_threads -= waiting.wants_second_thread
        self._held_slots[waiting.call] -= 1
        if not self._held_slots[waiting.call]:
            del self._held_slots[waiting.call]


@final
class Waiting:
    """A block in which a call waits for a function; counted only if the function is of this process.

    Attributes:
        call: the call that waits.
        stuck: why all calls were stalled at some time since the block was entered; empty if never.
        stalls: "threads" or "calls" if this call took the last one and stalls the process; or empty.
        wants_second_thread: whether the call holds a thread, and waits for a function that needs one.
    """

    __slots__ = ("_calls", "_is_own", "call", "stalls", "stuck", "wants_second_thread")

    def __init__(
        self,
        calls: OwnCalls,
        call: InboundCall,
        function: RegisteredFunction | None,
        *,
        holds_thread: bool,
    ) -> None:
        self._calls = calls
        self._is_own = function is not None
        self.call = call
        self.wants_second_thread = holds_thread and function is not None and function.needs_thread
        self.stuck = self.stalls = ""

    @property
    def metadata(self) -> Metadata | None:
        """The metadata that reports a stall to the host; None if this call does not stall the process."""
        return {STALLED: self.stalls} if self.stalls else None

    def __enter__(self) -> Waiting:
        if self._is_own:
            self._calls.enter(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_own:
            self._calls.leave(self)
