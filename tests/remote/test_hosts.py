"""Real hosts: ``spear serve`` by name, socket and URL; TLS; hosts that end; what is loaded."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trustme
from cli.serving import serving
from gateway.helpers import TOKEN, open_site

import spear
from spear.gateway import GatewaySettings

if TYPE_CHECKING:
    from pathlib import Path

    from cli.serving import Host


def url_of(host: Host) -> str:
    urls = host.said["urls"]
    assert isinstance(urls, list)
    return str(urls[0])


@pytest.mark.slow
async def test_a_served_host_is_found_by_name_socket_and_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, "till.py", "--name", "evening") as served:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
        socket = tmp_path / "run" / "spear" / "evening.sock"
        for address in (None, "evening", socket, str(socket), url_of(served)):
            async with spear.connect(address) as host:
                till = await host.deployment("till")
                assert await till.greet("Ada") == "hello Ada"
                async with till.ticks.stream(3) as ticks:
                    assert [tick async for tick in ticks] == [0, 1, 2]
                with pytest.raises(spear.WorkerDied) as caught:
                    await till.crash()
                assert caught.value.exit_status == 3
                if address is not None and "://" not in str(address):
                    assert "last words" in caught.value.stderr_tail
        async with spear.connect("evening") as host:
            till = await host.deployment("till")
            with pytest.raises(spear.HostLost):
                await take_ticks(till.endless, served)
            with pytest.raises(spear.NoHost, match="is not running"):
                await till.greet()


async def take_ticks(endless: spear.Function, served: Host) -> None:
    """Kill the host after the first item of a stream, and take all others."""
    async with endless.stream() as ticks:
        assert await anext(ticks) == "tick"
        served.send(signal.SIGKILL)
        async for _ in ticks:
            pass


async def test_tls_is_checked_by_the_context(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "certificate.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    settings = GatewaySettings(tls_cert=str(certificate), token=TOKEN)
    async with open_site(settings) as site:
        port = site.gateway.urls[0].rpartition(":")[2]
        async with spear.connect(f"https://localhost:{port}/", token=TOKEN, tls=trusting) as host:
            add = host.find_function("add")
            assert [await add(1), await add(2)] == [2, 3]
            with trio.move_on_after(0.05):
                await host.find_function("wait")()
            await site.probe.cancelled.wait()
        for address, tls, message in (
            (f"https://localhost:{port}", None, "its certificate is not trusted.*pass tls="),
            (f"http://localhost:{port}", None, "if it uses TLS, use https://"),
        ):
            with pytest.raises(spear.NoHost, match=message):
                async with spear.connect(address, token=TOKEN, tls=tls):
                    pytest.fail("connected")
    async with open_site() as site:
        port = site.gateway.urls[0].rpartition(":")[2]
        with pytest.raises(spear.NoHost, match="if it does not use TLS, use http://"):
            async with spear.connect(f"https://localhost:{port}"):
                pytest.fail("connected")
    with pytest.raises(spear.ConfigurationError, match="must begin with https"):
        async with spear.connect("http://localhost", tls=trusting):
            pytest.fail("connected")


async def test_a_host_behind_a_path_has_the_path_in_all_requests() -> None:
    async with open_site() as site:
        with pytest.raises(spear.ConfigurationError, match="the address a path too many"):
            async with spear.connect(f"{site.gateway.urls[0]}/tools/"):
                pytest.fail("there is nothing at this path")


async def test_a_host_that_does_not_shake_hands_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spear.remote._address.CONNECT_SECONDS", 0.05)
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(spear.NoHost, match="did not accept a connection in time"):
            async with spear.connect(url):
                pytest.fail("connected")


@pytest.mark.slow
def test_without_the_extra_the_error_names_it() -> None:
    code = (
        "import sys; sys.modules['h11'] = None; import spear\n"
        "try: spear.connect\n"
        "except spear.ConfigurationError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "spear.connect() needs h11: install the extra spearlet[http]\n"


@pytest.mark.slow
def test_connecting_loads_neither_the_hosts_side_nor_its_gateway() -> None:
    code = (
        "import sys, spear; assert 'h11' not in sys.modules; spear.connect\n"
        "print(*[m for m in sys.modules if m.count('.') == 1 and m.startswith('spear.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "spear.remote" in loaded
    assert not loaded & {"spear.spearlet", "spear.runtimes", "spear.gateway", "spear.agent"}
