"""Real clients: http.client, urllib3, httpx2, boto3 and curl, on real sockets.

Blocking clients run in threads of this process, the gateway in its event loop.
"""

from __future__ import annotations

import http.client
import json
import math
import shutil
import socket
import ssl
import struct
import subprocess
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

import attrs
import boto3
import httpx2
import pytest
import trio
import trio.testing
import trustme
import urllib3
from botocore.config import Config
from botocore.exceptions import ClientError

from .helpers import KNOWN, PATIENCE_SECONDS, TOKEN, connect, open_site, wait_until
from .shapes import PATIENT, SMUGGLED, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from .helpers import Site

SIZE = 300_000
"""Size of a body that arrives in several pieces."""

CALL = "/v1/functions/{}/call"
BYTES = {"Content-Type": "application/octet-stream"}
WAIT = request("POST /v1/functions/wait/call HTTP/1.1", "Content-Length: 0")


@attrs.frozen
class Got:
    """The answer that a client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class RealClient(Protocol):
    """A blocking client with at most one connection at a time."""

    @property
    def connections(self) -> int:
        """The number of connections made so far."""

    @property
    def gives_up(self) -> type[Exception]:
        """The exception that the client raises on a timeout."""

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Got:
        """Send a request, and return its answer."""

    def close(self) -> None:
        """Close the connection."""


class Plain:
    """A client of the standard library's http.client, which sends everything before it reads."""

    gives_up = TimeoutError

    def __init__(self, url: str, seconds: float) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=seconds)
        self.connections = 0

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Got:
        if self._connection.sock is None:
            self._connection.connect()
            self.connections += 1
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        return Got(response.status, dict(response.headers), response.read())

    def close(self) -> None:
        self._connection.close()


class Pooled:
    """A client of urllib3, without retries."""

    gives_up = urllib3.exceptions.ReadTimeoutError

    def __init__(self, url: str, seconds: float) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._pool = urllib3.HTTPConnectionPool(host, int(port), timeout=seconds, retries=False)

    @property
    def connections(self) -> int:
        return self._pool.num_connections

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Got:
        response = self._pool.urlopen(method, path, body, headers)
        return Got(response.status, response.headers, response.data)

    def close(self) -> None:
        self._pool.close()


class Modern:
    """A client of httpx2."""

    gives_up = httpx2.ReadTimeout

    def __init__(self, url: str, seconds: float) -> None:
        self._client = httpx2.Client(base_url=url, timeout=seconds, trust_env=False)
        self.connections = 0

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Got:
        response = self._client.request(
            method, path, content=body, headers=headers, extensions={"trace": self._trace}
        )
        return Got(response.status_code, response.headers, response.content)

    def _trace(self, event: str, details: Mapping[str, object]) -> None:
        self.connections += event == "connection.connect_tcp.complete"

    def close(self) -> None:
        self._client.close()


Maker = type[Plain] | type[Pooled] | type[Modern]

each_client = pytest.mark.parametrize("make", [Plain, Pooled, Modern])


@asynccontextmanager
async def using(
    make: Maker, site: Site, seconds: float = PATIENCE_SECONDS
) -> AsyncIterator[RealClient]:
    """Open a client of a site."""
    client: RealClient = make(site.gateway.urls[0], seconds)
    try:
        yield client
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(client.close)


# -- calls, one after the other on one connection ------------------------------------------------


@each_client
async def test_a_client_keeps_its_connection_for_all_its_calls(make: Maker) -> None:
    async with open_site(PATIENT) as site, using(make, site) as client:

        def work() -> None:
            got = client.ask("GET", "/healthz")
            assert (got.status, json.loads(got.body)) == (200, {"status": "ok"})
            got = client.ask("HEAD", "/healthz")
            assert (got.status, got.body) == (200, b"")
            got = client.ask("POST", CALL.format("add"), b"[1, 2]")
            assert (got.status, got.body) == (200, b"3")
            got = client.ask("GET", "/nothing")
            assert got.status == 404
            got = client.ask("POST", CALL.format("echo"), b"", BYTES)
            assert (got.status, got.body) == (200, b"")
            got = client.ask("POST", CALL.format("boom"))
            assert (got.status, json.loads(got.body)["error"]["type"]) == (500, "KeyError")
            got = client.ask("POST", "/v1/functions/blobs/stream", b"")
            assert got.status == 200
            assert b"text" in got.body
            got = client.ask("GET", "/v1/functions")
            assert b"echo" in got.body

        await trio.to_thread.run_sync(work)
        assert client.connections == 1


@each_client
async def test_bodies_of_all_sizes_arrive(make: Maker) -> None:
    """The sizes are around those of the buffers between client and function."""
    sizes = [0, 1, *(2**power + more for power in (12, 15, 16, 17, 20) for more in (-1, 0, 1))]
    async with open_site(PATIENT) as site, using(make, site) as client:

        def work() -> None:
            for size in sizes:
                body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
                got = client.ask("POST", CALL.format("echo"), body, BYTES)
                assert (got.status, got.body) == (200, body)

        await trio.to_thread.run_sync(work)
        assert client.connections == 1


@each_client
async def test_chunked_bodies_arrive(make: Maker) -> None:
    async with open_site(PATIENT) as site, using(make, site) as client:

        def work() -> None:
            for parts in ([b"one"], [b"one", b"two"], 100 * [b"x"], 5 * [bytes(100_000)]):
                got = client.ask("POST", CALL.format("echo"), iter(parts), BYTES)
                assert (got.status, got.body) == (200, b"".join(parts))

        await trio.to_thread.run_sync(work)
        assert client.connections == 1


KINDS = {
    "submitted": ("/v1/functions/context_of/submit", BYTES, 202),
    "called": (CALL.format("context_of"), BYTES, 200),
    "refused as no JSON": (CALL.format("context_of"), {"Content-Type": "application/json"}, 400),
    "refused as no argument": (CALL.format("count"), BYTES, 400),
}
"""(path, headers, status) of requests whose answers are ready before the body has arrived, or later."""


async def send_many(make: Maker, kind: str, count: int) -> None:
    """Send large bodies, one after the other, on one connection; each must be answered."""
    path, headers, status = KINDS[kind]
    async with open_site(PATIENT) as site, using(make, site) as client:

        def work() -> None:
            body = bytes(SIZE)
            for _ in range(count):
                got = client.ask("POST", path, body, headers)
                assert got.status == status
                assert got.headers.get("connection", "keep-alive") == "keep-alive"

        await trio.to_thread.run_sync(work)
        assert client.connections == 1


@pytest.mark.slow
@pytest.mark.repetitive
@each_client
@pytest.mark.parametrize("kind", KINDS)
async def test_connections_outlive_300_kb_bodies(make: Maker, kind: str) -> None:
    await send_many(make, kind, 150)


@pytest.mark.soak
@each_client
@pytest.mark.parametrize("kind", KINDS)
async def test_connections_outlive_10_000_bodies_of_300_kb(make: Maker, kind: str) -> None:
    await send_many(make, kind, 10_000)


@each_client
async def test_a_client_reads_why_its_large_body_is_refused(make: Maker) -> None:
    """All of these clients send the whole body before they read."""
    settings = attrs.evolve(PATIENT, max_body_bytes=1000, token=TOKEN)
    async with open_site(settings) as site, using(make, site) as client:

        def work() -> None:
            body = bytes(8 << 20)
            for path, headers, status in (
                (CALL.format("echo"), BYTES, 401),
                (CALL.format("echo"), {**BYTES, **KNOWN}, 413),
                (CALL.format("nothing"), {**BYTES, **KNOWN}, 404),
                ("/healthz", BYTES, 405),
            ):
                for sent in (body, iter(128 * [bytes(65536)])):
                    got = client.ask("POST", path, sent, headers)
                    assert got.status == status
                    assert json.loads(got.body)["error"]["message"]

        await trio.to_thread.run_sync(work)


# -- boto3 ----------------------------------------------------------------------------------------


class Invoke(Protocol):
    def __call__(self, **options: object) -> dict[str, object]: ...


@contextmanager
def invoking(site: Site) -> Iterator[Invoke]:
    """Make a client that calls Invoke by boto3, without retries."""
    config = Config(
        retries={"max_attempts": 0}, read_timeout=PATIENCE_SECONDS, max_pool_connections=1
    )
    client = boto3.client(
        "lambda", endpoint_url=site.gateway.urls[0], region_name="local", config=config,
        aws_access_key_id="spear", aws_secret_access_key=TOKEN,
    )  # fmt: skip
    with closing(client):
        yield client.invoke


async def invoke_many(count: int, token: str | None) -> None:
    """Invoke in several ways with payloads of 300 kB; assert that no connection fails."""
    async with open_site(attrs.evolve(PATIENT, token=token)) as site:

        def work() -> None:
            payload = json.dumps({"text": SIZE * "x"})
            with invoking(site) as invoke:
                for _ in range(count):
                    reply = invoke(FunctionName="context_of", Payload=payload)
                    assert reply["StatusCode"] == 200
                    assert "FunctionError" not in reply
                    reply["Payload"].read()  # type: ignore[attr-defined]  # a stream
                    reply = invoke(
                        FunctionName="context_of", Payload=payload, InvocationType="Event"
                    )
                    assert reply["StatusCode"] == 202
                    reply["Payload"].read()  # type: ignore[attr-defined]  # otherwise its connection is not reused
                    with pytest.raises(ClientError) as caught:
                        invoke(FunctionName="context_of", Payload=payload[:-1])
                    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400

        await trio.to_thread.run_sync(work)


@pytest.mark.slow
@pytest.mark.repetitive
@pytest.mark.parametrize("token", [None, TOKEN])
async def test_boto3_invokes_with_payloads_of_300_kb(token: str | None) -> None:
    await invoke_many(50, token)


@pytest.mark.soak
@pytest.mark.parametrize("token", [None, TOKEN])
async def test_boto3_invokes_10_000_times_with_payloads_of_300_kb(token: str | None) -> None:
    await invoke_many(10_000 // 3, token)


# -- clients that leave ---------------------------------------------------------------------------


async def until_begun(site: Site, give_up: Callable[[float], None]) -> None:
    """Call a function with growing timeouts, until it has begun before the client gave up."""
    seconds = 0.2
    while not site.probe.begun.is_set():
        await trio.to_thread.run_sync(give_up, seconds)
        seconds *= 2


@pytest.mark.slow
@each_client
async def test_a_client_that_gives_up_cancels_its_call(make: Maker) -> None:
    async with open_site(PATIENT) as site:

        def give_up(seconds: float) -> None:
            client: RealClient = make(site.gateway.urls[0], seconds)
            with pytest.raises(client.gives_up):
                client.ask("POST", CALL.format("wait"))
            client.close()

        await until_begun(site, give_up)
        await site.probe.cancelled.wait()


async def test_a_cancelled_httpx2_call_in_trio_cancels_the_function() -> None:
    async with (
        open_site(PATIENT) as site,
        httpx2.AsyncClient(base_url=site.gateway.urls[0], trust_env=False, timeout=None) as client,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.post, CALL.format("wait"))
            await site.probe.begun.wait()
            nursery.cancel_scope.cancel()
        await site.probe.cancelled.wait()
        response = await client.post(CALL.format("add"), json=[1, 2])
        assert response.json() == 3


async def test_an_httpx2_stream_that_is_left_cancels_the_function() -> None:
    async with (
        open_site(PATIENT) as site,
        httpx2.AsyncClient(base_url=site.gateway.urls[0], trust_env=False, timeout=None) as client,
    ):
        with trio.CancelScope() as scope:
            async with client.stream("POST", "/v1/functions/ticks/stream", json=[3]) as response:
                async for line in response.aiter_lines():
                    if "2" in line:
                        scope.cancel()
        assert scope.cancelled_caught
        await site.probe.cancelled.wait()


@pytest.mark.parametrize("way", ["end", "reset"])
@pytest.mark.parametrize("further", [0, 1, 2, 3, 10])
async def test_a_client_that_leaves_behind_pipelined_requests_cancels_its_call(
    further: int, way: str
) -> None:
    async with open_site(PATIENT) as site:
        client = await connect(site.gateway)
        await client.stream.send_all(WAIT)
        await site.probe.begun.wait()
        for _ in range(further):
            await client.stream.send_all(SMUGGLED)
            await trio.testing.wait_all_tasks_blocked()  # until the gateway has read what it reads
        await leave(client.stream, way)
        await site.probe.cancelled.wait()
        await site_is_quiet(site)
        assert site.probe.calls == 0


COUNT = "POST /v1/functions/count/call HTTP/1.1"


@pytest.mark.parametrize(
    ("further", "way"),
    [
        (SMUGGLED[:-1], "end"),
        (SMUGGLED[:-1], "reset"),
        (200 * SMUGGLED, "end"),
        (20_000 * SMUGGLED, "reset"),
        (request(COUNT, "Content-Length: 30000", body=bytes(29_999)), "end"),
        (request(COUNT, "Content-Length: 9999999", body=bytes(9_999_998)), "reset"),
    ],
    ids=[
        "half a head",
        "half a head, reset",
        "200",
        "20,000, reset",
        "half a body",
        "10 MB, reset",
    ],
)
async def test_a_client_that_leaves_while_it_pipelines_cancels_its_call(
    further: bytes, way: str
) -> None:
    """The kernel delivers an orderly end after all bytes sent, so these must fit into its buffers."""
    async with open_site(PATIENT) as site:
        client = await connect(site.gateway)
        await client.stream.send_all(WAIT)
        await site.probe.begun.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.stream.send_all, further)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await leave(client.stream, way)
        await site.probe.cancelled.wait()
        await site_is_quiet(site)
        assert site.probe.calls == 0


async def leave(stream: trio.abc.Stream, way: str) -> None:
    """Close a connection; by a reset, if wanted."""
    assert isinstance(stream, trio.SocketStream)
    if way == "reset":
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


async def site_is_quiet(site: Site) -> None:
    """Wait until no connection is left."""
    with trio.fail_after(PATIENCE_SECONDS):
        while site.gateway.statistics().connections:
            await trio.testing.wait_all_tasks_blocked(0.001)


# -- other sockets --------------------------------------------------------------------------------


@attrs.frozen
class Ways:
    """The ways to a site: by TLS, and by its control socket."""

    site: Site
    context: ssl.SSLContext
    control_socket: str

    def client(self, way: str) -> httpx2.AsyncClient:
        """Return a client for one of the ways."""
        if way == "TLS":
            return httpx2.AsyncClient(
                base_url=self.site.gateway.urls[0],
                verify=self.context,
                trust_env=False,
                timeout=None,
            )
        transport = httpx2.AsyncHTTPTransport(uds=self.control_socket)
        return httpx2.AsyncClient(base_url="http://localhost", transport=transport, timeout=None)

    async def stream(self, way: str) -> trio.abc.Stream:
        """Open a plain connection by one of the ways."""
        if way == "TLS":
            port = int(self.site.gateway.urls[0].rpartition(":")[2])
            return await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", port, https_compatible=True, ssl_context=self.context
            )
        return await trio.open_unix_socket(self.control_socket)


@asynccontextmanager
async def open_ways(tmp_path: Path, directory: str) -> AsyncIterator[Ways]:
    """Open a site with TLS and with a control socket."""
    authority = trustme.CA()
    certificate = tmp_path / "cert.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    path = f"{directory}/spear.sock"
    settings = attrs.evolve(PATIENT, tls_cert=str(certificate), control_socket=path)
    async with open_site(settings) as site:
        yield Ways(site, context, path)


each_way = pytest.mark.parametrize("way", ["TLS", "control socket"])


@pytest.mark.slow
@each_way
async def test_httpx2_sends_300_kb_over_tls_and_the_control_socket(
    way: str, tmp_path: Path, own_temporary_directory: str
) -> None:
    async with open_ways(tmp_path, own_temporary_directory) as ways, ways.client(way) as client:
        for path, headers, status in KINDS.values():
            for _ in range(20):
                response = await client.post(path, content=bytes(SIZE), headers=headers)
                assert response.status_code == status


@each_way
async def test_httpx2_over_tls_and_the_control_socket_cancels_its_call(
    way: str, tmp_path: Path, own_temporary_directory: str
) -> None:
    async with open_ways(tmp_path, own_temporary_directory) as ways, ways.client(way) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.post, CALL.format("wait"))
            await ways.site.probe.begun.wait()
            nursery.cancel_scope.cancel()
        await ways.site.probe.cancelled.wait()


@each_way
@pytest.mark.parametrize("further", [0, 1, 2, 10])
async def test_a_client_that_leaves_tls_or_the_control_socket_cancels_its_call(
    way: str, further: int, tmp_path: Path, own_temporary_directory: str
) -> None:
    async with open_ways(tmp_path, own_temporary_directory) as ways:
        stream = await ways.stream(way)
        await stream.send_all(WAIT)
        await ways.site.probe.begun.wait()
        for _ in range(further):
            await stream.send_all(SMUGGLED)
            await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(stream)
        await ways.site.probe.cancelled.wait()
        await site_is_quiet(ways.site)
        assert ways.site.probe.calls == 0


@each_way
async def test_a_client_that_leaves_at_once_cancels_its_call(
    way: str, tmp_path: Path, own_temporary_directory: str
) -> None:
    """The gateway may notice the client's leaving before it reads the request."""
    async with open_ways(tmp_path, own_temporary_directory) as ways:
        for _ in range(20):
            stream = await ways.stream(way)
            await stream.send_all(WAIT)
            await trio.aclose_forcefully(stream)
        await wait_until(lambda: ways.site.gateway.statistics().requests == 20)
        await site_is_quiet(ways.site)


async def test_over_tls_the_end_of_a_response_is_told_from_a_cut(
    tmp_path: Path, own_temporary_directory: str
) -> None:
    """With HTTP/1.0, the end of the connection is the end of the body."""
    async with open_ways(tmp_path, own_temporary_directory) as ways:
        port = int(ways.site.gateway.urls[0].rpartition(":")[2])
        stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=ways.context)
        await stream.send_all(b"POST /v1/functions/blobs/stream HTTP/1.0\r\n\r\n")
        data = await read_all(stream)  # raises otherwise
        assert data.endswith(b'{"a": 1}\n')
        await trio.aclose_forcefully(stream)


async def test_a_client_that_goes_on_sending_over_tls_can_read_why_its_body_is_refused(
    tmp_path: Path, own_temporary_directory: str
) -> None:
    async with open_ways(tmp_path, own_temporary_directory) as ways:
        stream = await ways.stream("TLS")
        head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n"
        await stream.send_all(head + bytes(4_000_000))
        assert (await read_all(stream)).startswith(b"HTTP/1.1 404 ")
        await trio.aclose_forcefully(stream)


async def read_all(stream: trio.abc.Stream) -> bytes:
    """Read until the end of the stream."""
    data = b""
    while part := await stream.receive_some():
        data += part
    return data


# -- curl -----------------------------------------------------------------------------------------

CURL = shutil.which("curl")

needs_curl = pytest.mark.skipif(CURL is None, reason="curl is not installed")

SECONDS = str(math.ceil(PATIENCE_SECONDS))


def command(site: Site, *words: str) -> list[str]:
    """Return a curl command; paths become URLs of the site."""
    assert CURL is not None
    url = site.gateway.urls[0]
    words = tuple(url + word if word.startswith("/") else word for word in words)
    return [CURL, "-q", "--silent", "--noproxy", "*", "--max-time", SECONDS, *words]


async def curl(site: Site, *words: str, body: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run curl to its end."""
    return await trio.run_process(
        command(site, *words), stdin=body, capture_stdout=True, capture_stderr=True, check=False
    )


@needs_curl
async def test_curl_keeps_its_connection_for_bodies_of_300_kb() -> None:
    async with open_site(PATIENT) as site:
        path, headers, _ = KINDS["submitted"]
        kind = f"Content-Type: {headers['Content-Type']}"
        form = "%{http_code} %{num_connects}\n"
        result = await curl(
            site,
            "-H",
            kind,
            "-H",
            "Expect:",
            "--data-binary",
            "@-",
            "-w",
            f"\n{form}",
            *20 * [path],
            body=bytes(SIZE),
        )
        lines = [line for line in result.stdout.splitlines() if line.startswith(b"202 ")]
        assert lines == [b"202 1", *19 * [b"202 0"]]


@needs_curl
@pytest.mark.parametrize("size", [5, SIZE, 3 << 20])
async def test_curl_sends_its_body_when_it_is_told_to(size: int) -> None:
    async with open_site(PATIENT) as site:
        result = await curl(
            site, "-v", "--expect100-timeout", SECONDS, "-H", "Expect: 100-continue",
            "-H", "Content-Type: application/octet-stream", "--data-binary", "@-",
            CALL.format("echo"), body=bytes(size),
        )  # fmt: skip
        assert result.stdout == bytes(size)
        assert result.stderr.count(b"< HTTP/1.1 100") == 1


@needs_curl
@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        (CALL.format("echo"), "X-A: b", 401),
        (CALL.format("nothing"), f"Authorization: Bearer {TOKEN}", 404),
        (CALL.format("echo"), f"Authorization: Bearer {TOKEN}", 413),
        ("/healthz", f"Authorization: Bearer {TOKEN}", 405),
    ],
)
async def test_curl_sends_no_body_that_is_not_wanted(path: str, given: str, status: int) -> None:
    async with open_site(attrs.evolve(PATIENT, token=TOKEN, max_body_bytes=1000)) as site:
        result = await curl(
            site, "-v", "--expect100-timeout", SECONDS, "-H", "Expect: 100-continue", "-H", given,
            "--data-binary", "@-", "-w", "\n%{http_code} %{size_upload}", path, body=bytes(SIZE),
        )  # fmt: skip
        assert result.stdout.splitlines()[-1] == b"%d 0" % status
        assert b"< HTTP/1.1 100" not in result.stderr


@needs_curl
async def test_curl_uploads_chunks() -> None:
    async with open_site(PATIENT) as site:
        result = await curl(
            site, "-X", "POST", "-T", "-", "-H", "Content-Type: application/octet-stream",
            CALL.format("echo"), body=bytes(SIZE),
        )  # fmt: skip
        assert result.stdout == bytes(SIZE)


@needs_curl
@pytest.mark.parametrize(
    "words",
    [
        ("--http1.0",),
        ("--http1.1",),
        ("--http2",),
        ("-I",),
        ("-H", "Connection: close"),
        ("-X", "OPTIONS", "--request-target", "*"),
    ],
    ids=" ".join,
)
async def test_curl_gets_http_1_1_however_it_asks(words: tuple[str, ...]) -> None:
    async with open_site(PATIENT) as site:
        result = await curl(site, *words, "-w", "\n%{http_code} %{http_version}", "/healthz")
        assert result.stdout.splitlines()[-1] in (b"200 1.1", b"204 1.1")


@needs_curl
async def test_curl_with_http_2_alone_is_refused() -> None:
    async with open_site(PATIENT) as site:
        result = await curl(site, "--http2-prior-knowledge", "/healthz")
        assert result.returncode not in (0, 28)  # 28: it would have waited in vain


@needs_curl
async def test_curl_that_is_killed_cancels_its_call() -> None:
    async with open_site(PATIENT) as site, trio.open_nursery() as nursery:
        words = command(site, "-X", "POST", CALL.format("wait"))
        process = await nursery.start(partial(trio.run_process, words, check=False))
        await site.probe.begun.wait()
        process.kill()
        await site.probe.cancelled.wait()


@needs_curl
@pytest.mark.slow
async def test_curl_that_gives_up_cancels_its_call() -> None:
    async with open_site(PATIENT) as site:
        seconds = 0.2
        while not site.probe.begun.is_set():
            words = ("--max-time", str(seconds), "-X", "POST", CALL.format("wait"))
            assert (await curl(site, *words)).returncode == 28
            seconds *= 2
        await site.probe.cancelled.wait()
