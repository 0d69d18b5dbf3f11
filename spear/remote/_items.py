"""The calls of a map at a host: one request for each item, on as many connections as the map may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from spear._errors import SpearError
from spear.calls import AssignedInstance, MapItem, arguments_of_item
from spear.channels import protected_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear.calls import Result

    from ._calls import RemoteCalls

T = TypeVar("T")

MAX_ITEMS_AT_A_TIME: Final = 32
"""Most calls of a map at a time by default: the client does not know how many slots the host has."""


@final
@protected_class
class RemoteItemCalls(Generic[T]):
    """A maker of calls for items, each alone.

    Attributes:
        on_assigned: not called: the number of calls at a time does not change.
    """

    def __init__(
        self, calls: RemoteCalls, limit: int | None, *, unpack: bool, keeps_items: bool
    ) -> None:
        self._calls = calls
        most = calls.client.pool.max_connections
        self._limit = min(MAX_ITEMS_AT_A_TIME if limit is None else limit, most)
        self._unpack = unpack
        self._keeps_items = keeps_items
        self.on_assigned: Callable[[], object] = bool

    def limit(self) -> int:
        """Return how many calls may run at a time."""
        return self._limit

    def batch_size(self) -> int:
        """Return 1: each item is a call."""
        return 1

    async def run(self, first: int, items: list[T]) -> list[Result | MapItem[T]]:
        """Return the outcome of an item: its result, or a :class:`MapItem`."""
        return [await self._run(first + at, item) for at, item in enumerate(items)]

    async def _run(self, index: int, item: T) -> Result | MapItem[T]:
        calls, assigned = self._calls, AssignedInstance()
        result: Result = None
        error: SpearError | None = None
        made = 0
        try:
            payload, is_cbor = calls.encode(arguments_of_item(item, unpack=self._unpack), {})
            attempts = calls.attempts(execution=assigned, is_item=True)
            try:
                response = await calls.repeat(attempts, payload, is_cbor)
                made = attempts.count + 1
            except SpearError:
                made = attempts.count
                raise
            result = calls.read(response.payload, response.is_cbor)
        except SpearError as failure:
            error = failure
        if error is None and not self._keeps_items:
            return result
        return MapItem(index, item, result, error, made, assigned.instance)
