"""Streams from plain generators: run in a thread, sent from Trio.

The generator runs in one thread from its first item to its last. Its items go through a
:class:`Handover` to the task that sends them. The thread wakes that task only if it is not awake already,
so that a fast generator pays for few wake-ups and a slow one has each item sent at once; and it waits
while too much lies there unsent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from spear.channels import protected_class
from spear.wire import NONE

from ._functions import Stream

if TYPE_CHECKING:
    from spear.channels import InboundCall
    from spear.wire import Payload

    from ._service import AgentService

Item: TypeAlias = "tuple[Payload, bool]"

MAX_ITEMS: Final = 256
MAX_BYTES: Final = 256 * 1024
"""What may lie between the thread and the task: enough that neither waits for each other's every step."""


@final
@protected_class
class Handover:
    """Items on their way from a producer in another thread to a task.

    Args:
        token: of the task's Trio.
        on_room: called in Trio's thread when the producer may go on, or must stop.
    """

    def __init__(self, token: trio.lowlevel.TrioToken, on_room: Callable[[], object]) -> None:
        self._token = token
        self._on_room = on_room
        self._lock = threading.Lock()
        self._items: list[Item] = []  # this and the next three are guarded by the lock
        self._bytes = 0
        self._waking = False  # the task will look, or is looking
        self._ended = False
        self._task: Task | None = None  # parked
        self.stopped = False
        self.failure: BaseException | None = None

    # -- the producer's side ------------------------------------------------------------------------

    def put(self, item: Item) -> bool:
        """Hand over an item; False means to wait for room before the next one."""
        with self._lock:
            self._items.append(item)
            self._bytes += len(item[0])
            wake, self._waking = not self._waking, True
            has_room = len(self._items) < MAX_ITEMS and self._bytes < MAX_BYTES
        if wake:
            self._token.run_sync_soon(self._wake)
        return has_room

    def end(self, failure: BaseException | None = None) -> None:
        """There will be no more."""
        with self._lock:
            self._ended, self.failure = True, failure
        self._token.run_sync_soon(self._wake)

    # -- the task's side ----------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._task is not None:
            reschedule(self._task)
            self._task = None

    async def take(self) -> list[Item]:
        """Items, as soon as there are any; none if there will be no more."""
        while True:
            with self._lock:
                items, self._items, self._bytes = self._items, [], 0
                ended = self._ended
                self._waking = bool(items)  # whoever gets items comes again
            if items or ended:
                self._on_room()
                return items
            self._task = current_task()
            await wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED

    def stop(self) -> None:
        """Nobody takes items any more: have the producer give up at its next one."""
        self.stopped = True
        self._on_room()


@final
class PlainStream(Stream):
    """A generator: runs in a worker thread, somewhat ahead of what the caller takes."""

    __slots__ = ()
    needs_thread = True
    can_run_inline = False

    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Send its items; waits for the generator to end, also when cancelled."""
        self.check_wanted(call)
        room = threading.Event()
        handover = Handover(service.token, room.set)
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_in_thread, call, service, handover, room)
            try:
                failure = await send_all(call, handover)
            finally:
                handover.stop()
        if failure is not None:
            raise failure
        return NONE, True

    @trio.lowlevel.enable_ki_protection
    async def _run_in_thread(
        self, call: InboundCall, service: AgentService, handover: Handover, room: threading.Event
    ) -> None:
        await service.in_thread(call, self._produce, call, handover, room)
        if handover.failure is not None and call.cancelled is not None:
            raise handover.failure  # the call is cancelled, so no caller takes it from there

    def _produce(self, call: InboundCall, handover: Handover, room: threading.Event) -> None:
        failure: BaseException | None = None
        try:
            positional, keywords = self.bind(call)
            generator = cast(
                "Generator[object, None, None]", self.function(*positional, **keywords)
            )
            try:
                for item in generator:
                    room.clear()
                    has_room = handover.put(self.encode_item(item))
                    # Looked at behind clear(): a stop that is not seen here sets the event again.
                    if handover.stopped:
                        break
                    if not has_room:
                        room.wait()
            finally:
                generator.close()
        except BaseException as error:
            failure = error  # raised where the call is handled
        finally:
            handover.end(failure)


async def send_all(call: InboundCall, handover: Handover) -> BaseException | None:
    """Send all items of a stream; returns why it failed, if it did.

    Returns it because the nursery around would wrap it in a group.
    """
    try:
        while batch := await handover.take():
            for payload, is_cbor in batch:
                await call.send(payload, is_cbor=is_cbor)
    except Exception as error:
        return error
    return handover.failure
