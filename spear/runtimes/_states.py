"""The states of an instance: the table of transitions, and the current state of one instance.

Only this module decides which state may follow another. It knows no processes and no channels. A
transition that is not in the table raises and changes nothing. Every transition is recorded and reported
to observers in order, so that an observer always sees an instance start before it exits, and exit before
it is deleted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from spear._errors import SpearError
from spear.channels import notify, notify_all
from spear.telemetry import InstanceEvent, InstanceState, Instruments

if TYPE_CHECKING:
    from spear._ids import InstanceId

logger: Final = logging.getLogger("spear.runtimes")

MAX_HISTORY: Final = 64
"""Most transitions that are kept; an unstable connection can cause any number of them."""


_S = InstanceState

MOVES: Final[Mapping[InstanceState, frozenset[InstanceState]]] = {
    _S.CREATED: frozenset({_S.STARTING, _S.FAILED}),
    _S.STARTING: frozenset({_S.READY, _S.STOPPING, _S.EXITED}),
    _S.READY: frozenset({_S.UNHEALTHY, _S.DRAINING, _S.STOPPING, _S.EXITED}),
    _S.UNHEALTHY: frozenset({_S.READY, _S.STOPPING, _S.EXITED}),
    _S.DRAINING: frozenset({_S.STOPPING, _S.EXITED}),
    _S.STOPPING: frozenset({_S.EXITED}),
    _S.EXITED: frozenset({_S.DELETED}),
    _S.FAILED: frozenset({_S.DELETED}),
    _S.DELETED: frozenset(),
}
"""The states that may follow each state."""

GONE: Final = frozenset({_S.EXITED, _S.FAILED, _S.DELETED})
"""The states in which an instance does not run, and will not run again."""


OnEvent: TypeAlias = Callable[[InstanceEvent], None]


@final
class Lifecycle:
    """A record of the state of one instance, and of its last transitions.

    Attributes:
        state: the current state.
    """

    def __init__(
        self,
        instance_id: InstanceId,
        on_event: OnEvent | None = None,
        instruments: Instruments | None = None,
    ) -> None:
        self.state = InstanceState.CREATED
        self._instance_id = instance_id
        self._instruments = instruments or Instruments()
        self._on_event = on_event
        self._history: deque[InstanceEvent] = deque(maxlen=MAX_HISTORY)
        self._moved = trio.Event()
        self._record("")

    @property
    def history(self) -> tuple[InstanceEvent, ...]:
        """The last states of the instance including the current one, oldest first."""
        return tuple(self._history)

    def move(self, to: InstanceState, reason: str = "") -> None:
        """Change to another state, wake waiting tasks and notify observers.

        Raises:
            SpearError: the table does not allow the transition; the state is unchanged.
        """
        if to not in MOVES[self.state]:
            raise SpearError(
                f"{self._instance_id} is {self.state.value} and cannot become {to.value}"
            )
        self.state = to
        # Waiters wake before observers are called, because Ctrl-C may interrupt an observer.
        moved, self._moved = self._moved, trio.Event()
        moved.set()
        self._record(reason)

    def _record(self, reason: str) -> None:
        event = InstanceEvent(self._instance_id, self.state, trio.current_time(), reason)
        self._history.append(event)
        logger.debug("%s is %s %s", self._instance_id, self.state.value, reason)
        if self._on_event is not None:
            # A bug of the observer must not keep a process alive.
            notify(logger, f"on_event of {self._instance_id}", self._on_event, event)
        if hooks := self._instruments.instance_changed:
            notify_all(logger, hooks, event)

    async def wait_for(self, *states: InstanceState) -> InstanceState:
        """Wait until the state is one of ``states`` or of :data:`GONE`, and return it. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while self.state not in states and self.state not in GONE:
            await self._moved.wait()
        return self.state
