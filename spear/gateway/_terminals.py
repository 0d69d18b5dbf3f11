"""Terminals of developers, which debug instances of a development host: messages out, lines in.

A developer with such a terminal can run any code as the host's user. It is therefore attached through the
control socket only, which no other user can open, and never over TCP, whatever the settings are.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from spear._errors import Rejected

from ._errors import Problem
from ._exchange import bad, parse_json, path_part, respond_json
from ._streams import ItemSource, send_head, send_items

if TYPE_CHECKING:
    from ._app import App
    from ._request import Request


class DebugTerminals(Protocol):
    """The terminals of a development host."""

    def attach(self, name: str) -> AbstractAsyncContextManager[ItemSource]:
        """Attach a terminal to an instance while the block runs; it iterates over the messages for it.

        Raises NotFound, or Rejected if another terminal is attached.
        """

    async def enter(self, name: str, line: str) -> None:
        """Pass a line to the debugger of an instance. Raises NotFound if no terminal is attached."""


async def attach(app: App, request: Request, name: str) -> None:
    """Handle ``GET /v1/instances/{name}/attach``: attach a terminal, and respond with its messages."""
    terminals = _expect_terminals(app, request)
    if request.method == "HEAD":
        await send_head(request)
        return
    with app.budgets.streams.taking(1, request.client):
        async with terminals.attach(path_part(name)) as terminal:
            await send_items(app, request, terminal)


async def enter(app: App, request: Request, name: str) -> None:
    """Handle ``POST /v1/instances/{name}/attach``: pass a line to the debugger."""
    terminals = _expect_terminals(app, request)
    wanted = parse_json(await request.body(), "the body")
    line = wanted.get("line") if isinstance(wanted, dict) and len(wanted) == 1 else None
    if not isinstance(line, str):
        raise bad('the body must be {"line": "..."}')
    await terminals.enter(path_part(name), line)
    await respond_json(request, {})


def _expect_terminals(app: App, request: Request) -> DebugTerminals:
    if not request.is_local:
        raise Problem(
            403,
            "Forbidden",
            "a debugger runs any code: attach terminals through the control socket, not over TCP",
        )
    if app.terminals is None:
        raise Rejected(
            "this host has no debugger: serve the program with `spear dev` to debug it",
            code="no_debugger",
        )
    return app.terminals
