"""Access control: hosts, origins, tokens, and the addresses on which a gateway may listen."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trustme

import spear
from spear.gateway import GatewaySettings, open_gateway
from spear.gateway._guard import is_loopback
from spear.gateway._serve import _remove_abandoned
from spear.runtimes import MemorySettings

from .helpers import (
    KNOWN,
    OPEN,
    TOKEN,
    Client,
    Probe,
    ask,
    call,
    closing_clients,
    connect,
    open_site,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("[::1]", 200),
        ("127.0.0.2:8080", 200),
        ("127.255.255.254", 200),
        ("localhost.:8080", 200),
        ("shop.localhost.", 200),
        ("GOOD.example.", 200),
        ("[::ffff:127.0.0.1]:80", 200),
        ("[0:0:0:0:0:0:0:1]", 200),
        ("[::ffff:10.0.0.1]", 403),
        ("10.0.0.1", 403),
        ("127.0.0.evil", 403),
        ("[localhost]", 403),
        ("shop.localhost", 200),
        ("good.example:80", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example:127.0.0.1", 403),
        ("localhost:x", 403),
    ],
)
async def test_s13_a_loopback_gateway_goes_by_its_own_names(host: str, status: int) -> None:
    async with open_site(GatewaySettings(allowed_hosts=("good.example",))) as site:
        reply = await ask(site.gateway, "POST", "/v1/functions/add/call", 1, host=host)
        assert reply.status == status
        if status == 403:
            assert (reply.error["kind"], "allowed_hosts" in str(reply.error)) == ("Forbidden", True)


@pytest.mark.parametrize("host", ["127.0.0.2", "::1", "localhost"])
async def test_a_gateway_answers_at_the_address_that_it_listens_on(host: str) -> None:
    """A gateway on the loopback interface accepts any notation of any loopback address."""
    async with open_site(GatewaySettings(host=host)) as site:
        (url,) = site.gateway.urls
        port = int(url.rpartition(":")[2])
        stream = await trio.open_tcp_stream(host, port)
        client = Client(stream, url.removeprefix("http://"))
        OPEN.append(client)
        reply = await client.ask("POST", "/v1/functions/add/call", b"1")
        assert (reply.status, reply.body) == (200, b"2")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:7000", 200),
        ("https://localhost:7000", 200),  # a proxy may terminate TLS
        ("http://localhost", 403),
        ("http://localhost:7001", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_s13_pages_of_other_sites_can_do_nothing(origin: str, status: int) -> None:
    async with open_site() as site:
        headers = {"origin": origin}
        for method, path in (("POST", "/v1/functions/add/call"), ("GET", "/v1/statistics")):
            body = b"1" if method == "POST" else None
            reply = await ask(
                site.gateway, method, path, headers=headers, body=body, host="localhost:7000"
            )
            assert reply.status == status, (method, reply.body)
            assert not [name for name in reply.headers if name.startswith("access-control-")]
        reply = await ask(site.gateway, "OPTIONS", "/v1/functions/add/call", headers=headers)
        assert reply.status in (403, 204)


TARGET = "the target must be a path that begins with /, or a URL, without a fragment"


@pytest.mark.parametrize(
    ("line", "host", "status", "message"),
    [
        ("OPTIONS *", "localhost:80", 204, ""),
        ("OPTIONS *", "evil.example", 403, "the Host 'evil.example' is not allowed"),
        ("OPTIONS *", "", 403, "the Host of this request is empty: use localhost"),
        ("GET /healthz", "", 403, "the Host of this request is empty: use localhost"),
        ("GET *", "localhost", 400, TARGET),
        ("GET healthz", "localhost", 400, TARGET),
        ("CONNECT localhost:80", "localhost:80", 400, TARGET),
        ("GET http://localhost:1/healthz", "evil.example", 200, ""),
        (
            "GET http://evil.example/healthz",
            "localhost",
            403,
            "the Host 'evil.example' is not allowed",
        ),
        (
            "GET a/http://localhost/healthz",
            "localhost",
            400,
            TARGET,
        ),
    ],
)
async def test_every_form_of_a_target_keeps_its_host(
    line: str, host: str, status: int, message: str
) -> None:
    """The forms of RFC 9112, 3.2: a path, a whole URL, an authority, an asterisk."""
    async with open_site() as site:
        client = await connect(site.gateway)
        await client.stream.send_all(f"{line} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        reply = await client.receive()
        assert reply.status == status
        if status == 204:
            assert reply.headers["allow"] == "GET, HEAD, POST, OPTIONS"
        assert message in (str(reply.error["message"]) if message else "")
        await client.aclose()


async def test_s13_who_says_no_host_is_no_browser() -> None:
    async with open_site() as site:
        client = await connect(site.gateway)
        await client.stream.send_all(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert (await client.receive()).status == 200
        await client.aclose()


async def test_s13_what_pages_of_others_embed_is_refused() -> None:
    async with open_site() as site:
        for place, status in (
            ("cross-site", 403),
            ("same-site", 403),
            ("same-origin", 200),
            ("none", 200),
        ):
            headers = {"sec-fetch-site": place}
            assert (
                await ask(site.gateway, "GET", "/v1/statistics", headers=headers)
            ).status == status
            assert (await ask(site.gateway, "GET", "/", headers=headers)).status == 200


@pytest.mark.slow
async def test_s19_a_token_is_needed_for_all_but_little() -> None:
    async with open_site(GatewaySettings(token=TOKEN)) as site:
        for path in ("/healthz", "/readyz", "/", "/dashboard/app.js", "/dashboard/style.css"):
            assert (await ask(site.gateway, "GET", path)).status == 200, path
        from spear.gateway._routes import ROUTES

        closed = {path: route for path, route in ROUTES.items() if not route.is_open}
        assert len(closed) > 15
        for path, route in closed.items():
            method = next(iter(route.operations))
            for headers in (
                {},
                {"authorization": "Bearer another-token-0123456789"},
                {"authorization": f"Basic {TOKEN}"},
                {"authorization": TOKEN},
            ):
                reply = await ask(site.gateway, method, path.replace("*", "add"), headers=headers)
                assert reply.status == (403 if route.is_foreign else 401), path
                if not route.is_foreign:
                    assert reply.headers["www-authenticate"].startswith("Bearer")
        for scheme in ("Bearer", "bearer"):
            headers = {"authorization": f"{scheme} {TOKEN}"}
            assert (await call(site.gateway, "add", 1, headers)).status == 200
        assert TOKEN not in repr(site.gateway._app.settings)


@pytest.mark.parametrize("token", ["short", "", "with space and so on", 20 * "é", "a" * 2000])
def test_a_token_that_could_be_guessed_or_not_sent_is_refused(token: str) -> None:
    with pytest.raises(spear.ConfigurationError, match="at least 16 characters"):
        GatewaySettings(token=token)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": None}, "needs an address: set host or control_socket"),
        ({"tls_key": "key.pem"}, "set tls_cert, too"),
        ({"detached_seconds": float("inf")}, "detached_seconds must be finite"),
        ({"port": 70000}, "must be from 0 to 65535"),
        ({"port": "80"}, "must be from 0 to 65535"),
        ({"max_body_bytes": 0}, "max_body_bytes must be a whole number above 0"),
        ({"max_streams": 1.5}, "max_streams must be a whole number"),
        ({"idle_seconds": "x"}, "idle_seconds must be a number above 0"),
        ({"write_seconds": float("nan")}, "write_seconds must be a number above 0"),
        ({"body_bytes_in_flight": -1}, "body_bytes_in_flight must be"),
        ({"name": None}, "name must be text, not None"),
        ({"host": b"::"}, "host must be text, not b'::'"),
        ({"tls_cert": 5}, "tls_cert must be text, not 5"),
        ({"control_socket": ["a"]}, "control_socket must be text"),
        ({"token": 5}, "a token must have at least 16 characters"),
        ({"allow_control": "no"}, "allow_control must be True or False, not 'no'"),
        ({"allowed_hosts": "shop.example"}, "allowed_hosts must be a list"),
        ({"allowed_hosts": None}, "allowed_hosts must be a list"),
        ({"allowed_hosts": ("a", 5)}, "allowed_hosts must be text, not 5"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(spear.ConfigurationError, match=message):
        GatewaySettings(**settings)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (GatewaySettings(host="0.0.0.0"), "set a token"),
        (GatewaySettings(host="::"), "set a token"),
        (GatewaySettings(host="0.0.0.0", tls_cert="cert.pem"), "set a token"),
        (GatewaySettings(host="0.0.0.0", token=TOKEN), "set tls_cert and tls_key"),
        (
            GatewaySettings(tls_cert="/no/such.pem"),
            r"TLS server settings( /no/such.pem)?: No such file",
        ),
        (
            GatewaySettings(host="localhost.invalid", token=TOKEN, allow_plaintext=True),
            "cannot listen",
        ),
    ],
)
async def test_s19_a_gateway_that_is_open_to_others_does_not_open(
    settings: GatewaySettings, message: str
) -> None:
    async with spear.open_spearlet() as spearlet:
        with pytest.raises(spear.ConfigurationError, match=message):
            async with open_gateway(spearlet, settings):
                pass  # pragma: no cover


async def test_behind_a_proxy_it_may_listen_without_tls() -> None:
    settings = GatewaySettings(host="0.0.0.0", token=TOKEN, allow_plaintext=True)
    async with open_site(settings) as site:
        assert site.gateway.urls[0].startswith("http://0.0.0.0:")
        # The host's name is checked by the proxy.
        reply = await ask(site.gateway, "GET", "/healthz", host="spear.example")
        assert reply.status == 200
        reply = await ask(site.gateway, "GET", "/v1/functions", headers=KNOWN, host="spear.example")
        assert reply.status == 200


@pytest.mark.slow
async def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "cert.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with open_site(GatewaySettings(tls_cert=str(certificate))) as site:
        assert site.gateway.urls[0].startswith("https://127.0.0.1:")
        port = int(site.gateway.urls[0].rpartition(":")[2])
        plain = await trio.open_tcp_stream("127.0.0.1", port)
        stream = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
        client = Client(stream)
        OPEN.append(client)
        for number in range(2):
            reply = await client.ask("POST", "/v1/functions/add/call", b"%d" % number)
            assert (reply.status, reply.body) == (200, b"%d" % (number + 1))
        large = bytes(1 << 20)
        headers = {"content-type": "x/y"}
        assert (
            await client.ask("POST", "/v1/functions/twice/call", large, headers)
        ).body == 2 * large
        assert stream.selected_alpn_protocol() is None  # HTTP/2 is never selected
        await client.send("POST", "/v1/functions/wait/call", b"")
        await site.probe.begun.wait()
        await client.aclose()
        await site.probe.cancelled.wait()
        # An idle connection is closed with the gateway.
        plain = await trio.open_tcp_stream("127.0.0.1", port)
        idle = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
        OPEN.append(Client(idle))
        assert (await OPEN[-1].ask("GET", "/healthz")).status == 200
    assert site.gateway.statistics().connections == 0


# -- the control socket ----------------------------------------------------------------------------


async def connect_locally(path: str) -> Client:
    """Connect to a control socket."""
    client = Client(await trio.open_unix_socket(path), "spear")
    OPEN.append(client)
    return client


async def test_the_control_socket_needs_no_token_and_is_for_operators(
    own_temporary_directory: str,
) -> None:
    path = os.path.join(own_temporary_directory, "run", "spear.sock")
    settings = GatewaySettings(host=None, control_socket=path, token=TOKEN)
    probe = Probe()
    async with closing_clients(), spear.open_spearlet() as spearlet:
        await spearlet.deploy(MemorySettings(agent=probe.agent, shares_process=True))
        async with open_gateway(spearlet, settings) as gateway:
            assert (gateway.urls, gateway.control_socket) == ((), path)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
            client = await connect_locally(path)
            reply = await client.ask("POST", "/v1/functions/add/call", b"1")
            assert (reply.status, reply.body) == (200, b"2")
            reply = await client.ask("POST", "/v1/deployments/probe/scale", b'{"replicas": 2}')
            assert reply.status == 200
        assert not os.path.exists(path)


async def test_a_control_socket_that_was_left_behind_is_replaced(
    own_temporary_directory: str,
) -> None:
    path = os.path.join(own_temporary_directory, "spear.sock")
    settings = GatewaySettings(host=None, control_socket=path)
    abandoned = trio.socket.socket(trio.socket.AF_UNIX)
    await abandoned.bind(path)
    abandoned.close()
    async with (
        closing_clients(),
        spear.open_spearlet() as spearlet,
        open_gateway(spearlet, settings),
    ):
        client = await connect_locally(path)
        assert (await client.ask("GET", "/healthz")).status == 200
        # A socket in use is not removed.
        with pytest.raises(spear.ConfigurationError, match="another program listens at"):
            async with open_gateway(spearlet, settings):
                pass  # pragma: no cover
        assert (await client.ask("GET", "/healthz")).status == 200


@pytest.mark.parametrize("kind", ["directory", "file", "fifo", "link", "datagrams", "program"])
async def test_what_is_no_abandoned_control_socket_is_kept_and_named(
    own_temporary_directory: str, kind: str
) -> None:
    directory = os.path.join(own_temporary_directory, "run")
    os.mkdir(directory, 0o700)
    path = os.path.join(directory, "spear.sock")
    with contextlib.ExitStack() as stack:
        match kind:
            case "directory":
                os.mkdir(path)
            case "file":
                stack.enter_context(open(path, "w"))  # not a lock, so there is nothing to wait for
            case "fifo":
                os.mkfifo(path)
            case "link":
                os.symlink("/nowhere", path)
            case _:
                of_kind = socket.SOCK_DGRAM if kind == "datagrams" else socket.SOCK_STREAM
                other = stack.enter_context(socket.socket(socket.AF_UNIX, of_kind))
                other.bind(path)
                if kind == "program":
                    other.listen()
        before = os.lstat(path)
        async with spear.open_spearlet() as spearlet:
            with pytest.raises(
                spear.ConfigurationError, match="choose another control_socket"
            ) as info:
                async with open_gateway(spearlet, GatewaySettings(host=None, control_socket=path)):
                    pass  # pragma: no cover
        assert path in str(info.value)
        assert os.path.samestat(os.lstat(path), before)


async def test_a_control_socket_that_its_owner_removes_meanwhile_is_no_fault(
    own_temporary_directory: str,
) -> None:
    await _remove_abandoned(os.path.join(own_temporary_directory, "gone"))  # raises nothing


@pytest.mark.parametrize("path", ["relative.sock", "", "/tmp/a\0b"])
async def test_a_control_socket_needs_an_absolute_path(path: str) -> None:
    async with spear.open_spearlet() as spearlet:
        with pytest.raises(spear.ConfigurationError, match="needs an absolute path"):
            async with open_gateway(spearlet, GatewaySettings(host=None, control_socket=path)):
                pass  # pragma: no cover


async def test_a_control_socket_in_a_place_of_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    settings = GatewaySettings(host=None, control_socket=str(tmp_path / "spear.sock"))
    async with spear.open_spearlet() as spearlet:
        with pytest.raises(spear.ConfigurationError):
            async with open_gateway(spearlet, settings):
                pass  # pragma: no cover
        settings = attrs.evolve(settings, control_socket=str(tmp_path / "a" / "b" / "spear.sock"))
        with pytest.raises(spear.ConfigurationError, match="cannot create"):
            async with open_gateway(spearlet, settings):
                pass  # pragma: no cover


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("LOCALHOST.", True),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("2001:db8::1", False),
        ("127.0.0.evil", False),
        ("", False),
    ],
)
def test_what_the_loopback_interface_is(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
