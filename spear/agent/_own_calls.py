"""Stalls of functions that wait for other functions of the same process.

A waiting function holds a slot of its process, and also a thread if it is a plain function. The function
for which it waits needs a slot, and a thread if it is plain. The process stalls until a deadline passes
if such functions hold all slots, or if plain functions that wait for plain ones hold all threads. The
DeadlineExceeded then contains the reason.
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
    """A record of the functions of this process that wait for functions of this process.

    Args:
        find: returns a function of this process by name, or None.
        threads: most plain functions that run at a time.

    Attributes:
        slots: most calls that the process handles at a time.
    """

    def __init__(self, find: Callable[[str], RegisteredFunction | None], threads: int) -> None:
        self.slots = 0
        self._find = find
        self._threads = threads
        self._waiting: set[WaitingCall] = set()
        self._held_threads = 0
        self._held_slots: dict[InboundCall, int] = {}  # one call may wait for several others

    def waiting(self, call: InboundCall, function: str, *, holds_thread: bool) -> WaitingCall:
        """Return a block in which a call waits for a function.

        Args:
            call: the call that waits.
            function: the name of the function, as sent to the host.
            holds_thread: whether the waiting call is handled by a plain function.
        """
        found = self._find(function)
        if found is None:
            deployment, _, name = function.rpartition(".")
            if deployment == call.channel.instance_id.name.rpartition("-")[0]:
                found = self._find(name)
        return WaitingCall(self, call, found, holds_thread=holds_thread)

    def enter(self, waiting: WaitingCall) -> None:
        """Record that a call has begun to wait, and detect a stall."""
        self._waiting.add(waiting)
        self._held_threads += waiting.wants_second_thread
        self._held_slots[waiting.call] = self._held_slots.get(waiting.call, 0) + 1
        if self._held_threads >= self._threads:
            waiting.stalls = "threads"
            what = f"all {self._threads} threads of this process wait for plain functions of this process"
        elif len(self._held_slots) >= self.slots:
            waiting.stalls = "calls"
            what = f"all {self.slots} calls of this process wait for functions of this process"
        else:
            return
        for each in self._waiting:
            each.stuck = f"{what}: {ADVICE}"

    def leave(self, waiting: WaitingCall) -> None:
        """Record that a call has stopped waiting."""
        self._waiting.remove(waiting)
        self._held_threads -= waiting.wants_second_thread
        self._held_slots[waiting.call] -= 1
        if not self._held_slots[waiting.call]:
            del self._held_slots[waiting.call]


@final
class WaitingCall:
    """A block in which a call waits for a function; counted only if the function is of this process.

    Attributes:
        call: the call that waits.
        stuck: the reason of a stall of the process since the block was entered; empty if none.
        stalls: "threads" or "calls" if this call took the last thread or slot and stalls the process;
            otherwise empty.
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
        """Metadata that report a stall to the host; None if this call does not stall the process."""
        return {STALLED: self.stalls} if self.stalls else None

    def __enter__(self) -> WaitingCall:
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
