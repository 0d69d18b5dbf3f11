"""Instruments that record their events."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from spear import Instrument

if TYPE_CHECKING:
    from spear.telemetry import ConnectionEvent, Instruments


@final
class WatchedConnections(Instrument):
    """A record of the connections of a host, in order."""

    def __init__(self, instruments: Instruments) -> None:
        self.events: list[ConnectionEvent] = []
        instruments.add(self)

    def connection_changed(self, event: ConnectionEvent) -> None:
        self.events.append(event)

    @property
    def told(self) -> list[tuple[str, int, str]]:
        """The events: (kind, connection, reason)."""
        return [(each.kind, each.connection, each.reason) for each in self.events]

    @property
    def refusals(self) -> list[str]:
        """The reasons of refused logins."""
        return [each.reason for each in self.events if each.kind == "authentication_failed"]
