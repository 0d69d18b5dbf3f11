"""What all processes that a host starts have in common: their guard, and how many start at once.

It belongs to the host, as its factory does, and not to a runtime: several runtimes may start processes.
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
"""Processes that are being forked; more of them at once would be ready no earlier."""

_known: Final[WeakKeyDictionary[CommunicationFactory, HostChildren]] = WeakKeyDictionary()


@final
class HostChildren:
    """The processes of one host.

    Attributes:
        starters: bounds how many are being started.
    """

    def __init__(self) -> None:
        self.starters = trio.CapacityLimiter(MAX_STARTS_AT_ONCE)
        self._has_swept = False
        self._guard: Guard | None = None
        self._getting_guard = trio.Lock()

    @staticmethod
    def of(factory: CommunicationFactory) -> HostChildren:
        """Return those of the host that a factory belongs to."""
        found = _known.get(factory)
        if found is None:
            found = _known[factory] = HostChildren()
        return found

    async def get_guard(self, factory: CommunicationFactory) -> Guard:
        """The guard of this host's instances, which ends with the factory."""
        async with self._getting_guard:
            if self._guard is None:
                if inherits_orphans():  # pragma: no cover  # where coverage measures nothing
                    await factory.start(Orphans().run)
                self._guard = await factory.start(Guard().run)
        return self._guard

    async def sweep(self) -> None:
        """Remove, once, the working directories that killed hosts have left behind."""
        if not self._has_swept:
            parent = temporary_directory()
            self._has_swept = True
            await sweep_working_directories(parent)
