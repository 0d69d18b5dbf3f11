"""Limits on what all clients, and each client, may hold at a time: bytes of bodies, open streams."""

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
    """An amount that clients share, such as bytes or streams. Refuses at once; never waits.

    Args:
        what: The plural noun of the unit, for messages.
        most: The amount that all clients together may hold at a time.
        share: The amount that one client may hold at a time.
        delivered: The ``delivered`` of the Problem for a refusal: "yes" if the function has run by then.

    Attributes:
        taken: The amount that all clients together hold now.
    """

    def __init__(self, what: str, most: int, share: int, delivered: Delivered = "no") -> None:
        self._what = what
        self._delivered: Delivered = delivered
        self._most = most
        self._share = share
        self._held: dict[Hashable, int] = {}
        self.taken = 0

    def take(self, amount: int, client: Hashable) -> None:
        """Take an amount for a client.

        Raises:
            Problem: the amount exceeds the rest for all clients or for this one; nothing is taken. The
                status is 503, or 507 if the function has run.
        """
        if not amount:
            return
        held = self._held.get(client, 0) + amount
        if self.taken + amount > self._most:
            self._refuse(f"all clients together hold {self.taken} of {self._most} {self._what}")
        if held > self._share:
            self._refuse(f"this client holds {held - amount} of its {self._share} {self._what}")
        self.taken += amount
        self._held[client] = held

    def _refuse(self, message: str) -> None:
        if self._delivered == "no":
            raise Problem(503, "Busy", f"{message}: try again later")
        # The function has run, so the status must be one that clients do not retry.
        raise Problem(507, "Busy", message, delivered=self._delivered)

    def give(self, amount: int, client: Hashable) -> None:
        """Give back an amount, at most as much as the client holds."""
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
        """Take an amount while the block runs, as :meth:`take` does."""
        self.take(amount, client)
        try:
            yield
        finally:
            self.give(amount, client)


@final
class Unverified:
    """A budget for the bytes of callers who are not verified yet. Verified callers never use it.

    If the bytes exceed ``most``, callers are evicted, oldest first. The evicted caller may be the one
    that takes the bytes. So bodies that never end cannot shut other callers out.

    Args:
        most: Bytes that all unverified callers together may hold at a time.

    Attributes:
        taken: Bytes that all unverified callers together hold now.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[Callable[[], None], int] = {}  # in the order of arrival
        self.taken = 0

    def take(self, amount: int, evict: Callable[[], None]) -> None:
        """Take bytes for a caller.

        Args:
            amount: Bytes. One caller must not take more than ``most`` in all.
            evict: The caller's identity. Called when the caller is evicted, after its bytes were given
                back; must make the caller stop.
        """
        self._held[evict] = self._held.get(evict, 0) + amount
        self.taken += amount
        while self.taken > self._most:
            oldest = next(iter(self._held))
            self.give(oldest)
            oldest()

    def give(self, evict: Callable[[], None]) -> int:
        """Give back all bytes that a caller holds; return how many. 0 after an eviction."""
        amount = self._held.pop(evict, 0)
        self.taken -= amount
        return amount


@final
@attrs.frozen
class Budgets:
    """The budgets of a gateway.

    Attributes:
        bodies: bytes of the bodies of verified callers, and of submitted calls that have not ended.
        unverified: bytes of bodies that must be complete before their callers can be verified.
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
        Budget("bytes of request bodies", size, share),
        Unverified(largest),
        Budget("bytes of results", size, share, "yes"),
        Budget("streams", settings.max_streams, (settings.max_streams + 1) // 2),
    )
