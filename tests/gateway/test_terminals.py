"""Terminals for debugging: through the control socket only, and only if the host has a debugger."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

import spear
from spear import NotFound
from spear.gateway import GatewaySettings, open_gateway

from .helpers import TOKEN, Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Messages:
    """Two messages."""

    def __init__(self) -> None:
        self._left: list[object] = [{"text": "one"}, {"prompt": "two"}]

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> object:
        await trio.lowlevel.checkpoint()
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop(0)


class Terminals:
    """Terminals of another host than ours: attached to any instance but one, with what was entered."""

    def __init__(self) -> None:
        self.attached: list[str] = []
        self.entered: list[tuple[str, str]] = []

    @asynccontextmanager
    async def attach(self, name: str) -> AsyncIterator[Messages]:
        if name == "nothing":
            raise NotFound("there is no instance")
        self.attached.append(name)
        yield Messages()
        self.attached.remove(name)

    async def enter(self, name: str, line: str) -> None:
        await trio.lowlevel.checkpoint()
        self.entered.append((name, line))


async def test_messages_go_out_and_lines_come_in(tmp_path: Path) -> None:
    path = "/v1/instances/shop-1/attach"
    terminals = Terminals()
    settings = GatewaySettings(
        port=0, control_socket=str(tmp_path / "private" / "s"), token=TOKEN, allow_control=True
    )
    async with (
        spear.open_spearlet() as spearlet,
        open_gateway(spearlet, settings, terminals=terminals) as gateway,
    ):
        assert settings.control_socket is not None
        local = Client(await trio.open_unix_socket(settings.control_socket), "localhost")
        reply = await local.ask("GET", path, None, {})
        assert [json.loads(line) for line in reply.body.splitlines()] == [
            {"text": "one"},
            {"prompt": "two"},
        ]
        assert (await local.ask("HEAD", path, None, {})).status == 200
        assert (await local.ask("GET", path.replace("shop-1", "nothing"), None, {})).status == 404
        for body, status in (
            ({"line": "p x"}, 200), ({"line": 7}, 400), ({}, 400), (["line"], 400),
            ({"line": "", "more": 1}, 400),
        ):  # fmt: skip
            json_type = {"content-type": "application/json"}
            reply = await local.ask("POST", path, json.dumps(body).encode(), json_type)
            assert reply.status == status, reply.body
        assert (terminals.attached, terminals.entered) == ([], [("shop-1", "p x")])
        port = int(gateway.urls[0].rpartition(":")[2])
        remote = Client(await trio.open_tcp_stream("127.0.0.1", port), "localhost")
        known = {"authorization": f"Bearer {TOKEN}"}
        for method in ("GET", "POST"):
            reply = await remote.ask(method, path, b"", known)
            assert (reply.status, json.loads(reply.body)["error"]["code"]) == (403, "forbidden")
        await local.aclose()
        await remote.aclose()


async def test_a_host_without_a_debugger_refuses_terminals(tmp_path: Path) -> None:
    settings = GatewaySettings(host=None, control_socket=str(tmp_path / "private" / "s"))
    async with spear.open_spearlet() as spearlet, open_gateway(spearlet, settings):
        assert settings.control_socket is not None
        local = Client(await trio.open_unix_socket(settings.control_socket), "localhost")
        reply = await local.ask("GET", "/v1/instances/shop-1/attach", None, {})
        assert (reply.status, json.loads(reply.body)["error"]["code"]) == (409, "no_debugger")
        await local.aclose()
