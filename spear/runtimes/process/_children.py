"""The state that all processes of a host share: their guard, and the limit on simultaneous starts.

This state belongs to the host, like the factory of its channels. Several runtimes may start processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final
from weakref import WeakKeyDictionary

import trio

from spear._directories import temporary_directory

from ._directory import sweep_working_directories
from ._guard import Guard
from ._orphans import Orphans, inherits_orphans

if TYPE_CHECKING:
    from spear.channels import CommunicationFactory

MAX_STARTS_AT_ONCE: Final = 8
"""Most processes started at the same time; more would not be ready earlier."""

_known: Final[WeakKeyDictionary[CommunicationFactory, HostChildren]] = WeakKeyDictionary()


@final
class HostChildren:
    """A host's state that all of its processes share.

    Attributes:
        starters: the limit on simultaneous starts.
    """

    def __init__(self) -> None:
        self.starters = trio.CapacityLimiter(MAX_STARTS_AT_ONCE)
        self._has_swept = False
        self._guard: Guard | None = None
        self._getting_guard = trio.Lock()

    @staticmethod
    def of(factory: CommunicationFactory) -> HostChildren:
        """Return the object of the host to which a factory belongs."""
        found = _known.get(factory)
        if found is None:
            found = _known[factory] = HostChildren()
        return found

    async def get_guard(self, factory: CommunicationFactory) -> Guard:
        """Return the guard of this host's instances, starting it first; it ends with the factory."""
        async with self._getting_guard:
            if self._guard is None:
                if inherits_orphans():  # pragma: no cover  # where coverage measures nothing
                    await factory.start(Orphans().run)
                self._guard = await factory.start(Guard().run)
        return self._guard

    async def sweep(self) -> None:
        """Remove the working directories left behind by killed hosts, on the first call only."""
        if not self._has_swept:
            parent = temporary_directory()
            self._has_swept = True
            await sweep_working_directories(parent)
