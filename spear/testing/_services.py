"""Services made of handlers, for tests of channels without an agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, final

from spear._errors import CallFailed, NotFound

if TYPE_CHECKING:
    from spear.channels import InboundCall
    from spear.wire import Head, Payload

CallHandler: TypeAlias = "Callable[[InboundCall], Awaitable[Payload]]"


@final
class Functions:
    """A service that looks its handlers up by name. Results are raw bytes.

    Attributes:
        names: names of the functions, in the order in which they must be announced.
        running: handlers that run now.
        started: handlers started so far.
        cancelled: handlers whose call was cancelled before they had ended.
    """

    def __init__(self, handlers: dict[str, CallHandler]) -> None:
        self.names = tuple(handlers)
        self._handlers = handlers
        self.running = 0
        self.started = 0
        self.cancelled = 0

    def _name(self, function: int, head: Head | None) -> str | None:
        if 0 < function <= len(self.names):
            return self.names[function - 1]
        name = (head or {}).get("function")
        return name if isinstance(name, str) else None

    def refuse(self, function: int, head: Head | None) -> CallFailed | None:
        """Return NotFound for an unknown function, else None."""
        name = self._name(function, head)
        return None if name in self._handlers else NotFound(f"no function {name!r}")

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        """Run the handler of the call, and return its result with ``is_cbor=False``."""
        name = self._name(call.function, call.head)
        assert name is not None  # refuse() rejects calls without a name
        self.started += 1
        self.running += 1
        try:
            return await self._handlers[name](call), False
        finally:
            self.running -= 1
            self.cancelled += call.cancelled is not None
