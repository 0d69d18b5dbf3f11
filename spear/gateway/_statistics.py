"""What a gateway counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

if TYPE_CHECKING:
    from spear.transports import Acceptor

    from ._connection import HttpConnection


@final
@attrs.frozen(kw_only=True)
class GatewayStatistics:
    """A gateway's counters.

    Attributes:
        connections: that are open.
        streams: responses without end, and WebSockets, that are open.
        requests: how many there were.
        responses: how many there were, by status; 0 counts clients that left before.
        refused: connections that were not let in, by reason.
    """

    connections: int
    streams: int
    requests: int
    responses: dict[int, int]
    refused: dict[str, int]


@final
class Connections:
    """The connections of a gateway.

    Attributes:
        open: those that exist.
        acceptors: who let them in.
    """

    def __init__(self) -> None:
        self.open: set[HttpConnection] = set()
        self.acceptors: list[Acceptor] = []

    def refused(self) -> dict[str, int]:
        """How many were not let in, or were cut before their first request, by reason."""
        counts: dict[str, int] = {}
        for acceptor in self.acceptors:
            for reason, count in acceptor.statistics().refused.items():
                name = str(reason)
                counts[name] = counts.get(name, 0) + count
        return counts
