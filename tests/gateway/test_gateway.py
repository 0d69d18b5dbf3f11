"""A gateway as a block: opening, closing, statistics."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints

import spear
from spear.gateway import GatewaySettings, open_gateway

from .helpers import (
    PATIENCE_SECONDS,
    Probe,
    ask,
    call,
    closing_clients,
    connect,
    open_site,
    wait_until,
)

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "wsproto":
            raise ModuleNotFoundError("No module named 'wsproto'", name="wsproto")

sys.meta_path.insert(0, Missing())
try:
    import spear.gateway
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_missing_library_is_named_and_so_is_the_extra_that_has_it() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True
    )
    assert run.stdout == (
        "ConfigurationError the HTTP gateway needs wsproto: install the extra spearlet[http]\n"
    )


async def test_r6_a_gateway_opens_and_closes_with_checkpoints() -> None:
    async with spear.open_spearlet() as spearlet:
        opening = open_gateway(spearlet, GatewaySettings(port=0))
        with assert_checkpoints():
            gateway = await opening.__aenter__()
        with assert_no_checkpoints():
            gateway.statistics()
        with assert_checkpoints():
            await opening.__aexit__(None, None, None)


async def test_leaving_the_block_lets_calls_finish_and_closes_what_is_idle() -> None:
    probe = Probe()
    async with closing_clients(), spear.open_spearlet() as spearlet:
        await spearlet.deploy(probe.agent)
        settings = GatewaySettings(port=0)
        async with trio.open_nursery() as nursery, open_gateway(spearlet, settings) as gateway:
            idle, stranger, busy = [await connect(gateway) for _ in range(3)]
            await idle.ask("GET", "/healthz")
            await busy.send("POST", "/v1/functions/wait/call", b"")
            await probe.begun.wait()

            async def go_on() -> None:
                assert not await idle.stream.receive_some(1)
                assert not await stranger.stream.receive_some(1)
                probe.release.set()

            nursery.start_soon(go_on)
        reply = await busy.receive()
        assert (reply.status, reply.body) == (200, b'"released"')
        assert not await busy.stream.receive_some(1)


async def test_leaving_the_block_does_not_wait_for_a_client_to_close_behind_its_stream() -> None:
    """The stream's head was sent before the gateway knew that it would close."""
    headers = {"accept": "text/event-stream"}
    async with open_site(GatewaySettings(close_seconds=1000.0)) as site:
        client = await connect(site.gateway)
        await client.send("POST", "/v1/functions/ticks/stream", b"1", headers)
        await client.receive_head()
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                while await client.stream.receive_some(65536):
                    pass
                await client.aclose()

            nursery.start_soon(read)
            with trio.fail_after(PATIENCE_SECONDS):
                await site.gateway._finish()
            assert site.gateway.statistics().connections == 0


async def test_leaving_the_block_waits_so_long_and_no_longer() -> None:
    """The call is not ended, and its own deadline is a minute away."""
    async with open_site(GatewaySettings(close_seconds=0.05)) as site:
        client = await connect(site.gateway)
        await client.send("POST", "/v1/functions/wait/call", b"")
        await site.probe.begun.wait()
        left = trio.current_time()
    assert 0.05 <= trio.current_time() - left < PATIENCE_SECONDS
    assert site.probe.cancelled.is_set()


async def test_leaving_the_block_by_an_exception_cuts_everything() -> None:
    class Stop(Exception):
        pass

    probe = Probe()
    async with closing_clients(), spear.open_spearlet() as spearlet:
        await spearlet.deploy(probe.agent)

        async def fail() -> None:
            async with open_gateway(spearlet, GatewaySettings(port=0)) as gateway:
                client = await connect(gateway)
                await client.send("POST", "/v1/functions/wait/call", b"")
                await probe.begun.wait()
                raise Stop

        with pytest.raises(Stop):
            await fail()
        await probe.cancelled.wait()


async def test_two_gateways_cannot_have_one_port() -> None:
    async with open_site() as site:
        port = int(site.gateway.urls[0].rpartition(":")[2])
        with pytest.raises(spear.ConfigurationError, match=f"port {port}"):
            async with open_gateway(site.spearlet, GatewaySettings(port=port)):
                pass  # pragma: no cover


async def test_a_gateway_counts() -> None:
    async with open_site() as site:
        await call(site.gateway, "add", 1)
        await ask(site.gateway, "GET", "/nothing")
        await wait_until(lambda: site.gateway.statistics().connections == 0)
        statistics = site.gateway.statistics()
        assert (statistics.requests, statistics.streams) == (2, 0)
        assert statistics.responses == {200: 1, 404: 1}
        assert statistics.refused == {}


async def test_a_bug_in_a_connection_ends_that_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_site() as site:
        with monkeypatch.context() as patch:
            patch.setattr("spear.gateway._app.identify", lambda _: 1 / 0)
            client = await connect(site.gateway)
            await client.send("GET", "/healthz")
            assert (await client.receive()).status == 500
            assert "division by zero" in caplog.text
        assert (await call(site.gateway, "add", 1)).status == 200
