"""Counters of a gateway."""

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
        connections: open connections.
        streams: open streams and WebSockets.
        requests: number of requests so far.
        responses: number of responses by status; 0 counts clients that disconnected before one.
        refused: number of refused connections, by reason.
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
        open: the open connections.
        acceptors: the acceptors of the gateway, which count refused connections.
    """

    def __init__(self) -> None:
        self.open: set[HttpConnection] = set()
        self.acceptors: list[Acceptor] = []

    def refused(self) -> dict[str, int]:
        """Return the number of connections refused, or cut before their first request, by reason."""
        counts: dict[str, int] = {}
        for acceptor in self.acceptors:
            for reason, count in acceptor.statistics().refused.items():
                name = str(reason)
                counts[name] = counts.get(name, 0) + count
        return counts
