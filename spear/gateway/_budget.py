"""How much all clients may take together, and how much each: bytes of bodies, open streams."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import attrs

from ._errors import Problem

if TYPE_CHECKING:
    from spear._errors import Delivered

    from ._settings import GatewaySettings


@final
class Budget:
    """An amount that clients share.

    Args:
        what: the plural noun of what is shared, for messages.
        most: what all clients may hold at a time.
        share: what one client may hold at a time.
        delivered: whether the function has run when too little is left.

    Attributes:
        taken: what all clients hold now.
    """

    def __init__(self, what: str, most: int, share: int, delivered: Delivered = "no") -> None:
        self._what = what
        self._delivered: Delivered = delivered
        self._most = most
        self._share = share
        self._held: dict[Hashable, int] = {}
        self.taken = 0

    def take(self, amount: int, client: Hashable) -> None:
        """Take an amount for a client. Raises Problem if too little is left."""
        held = self._held.get(client, 0) + amount
        if self.taken + amount > self._most:
            self._refuse(f"all clients together hold {self.taken} of {self._most} {self._what}")
        if held > self._share:
            self._refuse(f"this client holds {held - amount} of its {self._share} {self._what}")
        self.taken += amount
        self._held[client] = held

    def _refuse(self, message: str) -> None:
        raise Problem(503, "Busy", f"{message}: try again later", delivered=self._delivered)

    def give(self, amount: int, client: Hashable) -> None:
        """Give back an amount that a client holds."""
        if not amount:
            return
        self.taken -= amount
        held = self._held[client] - amount
        if held:
            self._held[client] = held
        else:
            del self._held[client]

    @contextmanager
    def taking(self, amount: int, client: Hashable) -> Iterator[None]:
        """Take an amount while the block runs. Raises Problem if too little is left."""
        self.take(amount, client)
        try:
            yield
        finally:
            self.give(amount, client)


@final
class Unverified:
    """The bytes that callers may send before they are verified. Others never compete for them.

    The caller who began first makes room for a new one: a body that never ends shuts no other caller out.

    Args:
        most: bytes that all such callers may hold at a time.

    Attributes:
        taken: bytes that they hold now.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[Callable[[], None], int] = {}  # in the order of arrival
        self.taken = 0

    def take(self, amount: int, evict: Callable[[], None]) -> None:
        """Take bytes for a caller.

        Args:
            amount: bytes, at most as many as all may hold.
            evict: names the caller; called when it has to give back what it holds.
        """
        self._held[evict] = self._held.get(evict, 0) + amount
        self.taken += amount
        while self.taken > self._most:
            oldest = next(iter(self._held))
            self.give(oldest)
            oldest()

    def give(self, evict: Callable[[], None]) -> int:
        """Give back all that a caller holds; returns how much that was."""
        amount = self._held.pop(evict, 0)
        self.taken -= amount
        return amount


@final
@attrs.frozen
class Budgets:
    """The budgets of a gateway.

    Attributes:
        bodies: bytes of the bodies of verified callers, and of submitted calls that have not ended.
        unverified: bytes of bodies whose callers only the whole body can prove.
        results: bytes of large responses that are being sent.
        streams: open streams and WebSockets.
    """

    bodies: Budget
    unverified: Unverified
    results: Budget
    streams: Budget


def make_budgets(settings: GatewaySettings) -> Budgets:
    """Return the budgets that a gateway's settings ask for."""
    size, largest = settings.body_bytes_in_flight, settings.max_body_bytes
    share = min(size, max(size // 2, largest))
    return Budgets(
        Budget("bytes of bodies", size, share),
        Unverified(largest),
        Budget("bytes of results", size, share, "yes"),
        Budget("streams", settings.max_streams, (settings.max_streams + 1) // 2),
    )
