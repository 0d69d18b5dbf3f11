"""Streams from plain generators, which run in a thread while a Trio task sends the items.

The generator runs in one thread from its first item to its last. A :class:`Handover` passes the items to
the task that sends them. The thread wakes the task only if the task is not awake: a fast generator causes
few wake-ups, and each item of a slow one is sent at once. The thread waits while too much is unsent.
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
"""Limits of a handover's queue, large enough that thread and task rarely wait for each other."""


@final
@protected_class
class Handover:
    """A queue of items from a producer in another thread to a Trio task.

    Args:
        token: the token of the task's Trio loop.
        on_room: called in Trio's thread when the producer may continue, or must stop.
    """

    def __init__(self, token: trio.lowlevel.TrioToken, on_room: Callable[[], object]) -> None:
        self._token = token
        self._on_room = on_room
        self._lock = threading.Lock()
        self._items: list[Item] = []  # guarded by the lock, as are the next three attributes
        self._bytes = 0
        self._waking = False  # whether the task is awake or about to wake, and will check the queue
        self._ended = False
        self._task: Task | None = None  # the parked task
        self.stopped = False
        self.failure: BaseException | None = None

    # -- the producer's side ------------------------------------------------------------------------

    def put(self, item: Item) -> bool:
        """Add an item; return whether the queue has capacity for the next one without waiting."""
        with self._lock:
            self._items.append(item)
            self._bytes += len(item[0])
            wake, self._waking = not self._waking, True
            has_room = len(self._items) < MAX_ITEMS and self._bytes < MAX_BYTES
        if wake:
            self._token.run_sync_soon(self._wake)
        return has_room

    def end(self, failure: BaseException | None = None) -> None:
        """Mark the end of the items, with the producer's failure if any."""
        with self._lock:
            self._ended, self.failure = True, failure
        self._token.run_sync_soon(self._wake)

    # -- the task's side ----------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._task is not None:
            reschedule(self._task)
            self._task = None

    async def take(self) -> list[Item]:
        """Wait for items and return them; return an empty list after the last one."""
        while True:
            with self._lock:
                items, self._items, self._bytes = self._items, [], 0
                ended = self._ended
                self._waking = bool(items)  # after items, the task calls take() again
            if items or ended:
                self._on_room()
                return items
            self._task = current_task()
            await wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED

    def stop(self) -> None:
        """Take no more items, and have the producer stop after its next one."""
        self.stopped = True
        self._on_room()


@final
class PlainStream(Stream):
    """A generator, which runs in a worker thread, somewhat ahead of the caller."""

    __slots__ = ()
    needs_thread = True
    can_run_inline = False

    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Send the items of the generator, and wait for it to end, even if cancelled."""
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
        await service.in_thread(call, self._produce, call, handover, room, is_first=True)
        if handover.failure is not None and call.cancelled is not None:
            raise handover.failure  # the call is cancelled, so send_all() does not return it

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
                    # Checked after clear(): a stop that comes later sets the event again.
                    if handover.stopped:
                        break
                    if not has_room:
                        room.wait()
            finally:
                generator.close()
        except BaseException as error:
            failure = error  # raised in the task that handles the call
        finally:
            handover.end(failure)


async def send_all(call: InboundCall, handover: Handover) -> BaseException | None:
    """Send all items of a stream, and return the failure, if any.

    The failure is not raised, because the surrounding nursery would wrap it in a group.
    """
    try:
        while batch := await handover.take():
            for payload, is_cbor in batch:
                await call.send(payload, is_cbor=is_cbor)
    except Exception as error:
        return error
    return handover.failure
