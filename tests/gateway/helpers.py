"""Helpers of the gateway's tests: functions whose state a test can see, and a client.

The client speaks HTTP/1.1 by h11 over a socket of its own. So a test sees the bytes on the wire, and can
do what well-behaved clients do not.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias, cast

import attrs
import h11
import trio

import spear
from spear.agent import Items
from spear.gateway import GatewaySettings, open_gateway
from spear.runtimes import MemorySettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from spear.gateway import Gateway

TOKEN = "a-token-for-tests-0123456789"
KNOWN = {"authorization": f"Bearer {TOKEN}"}

PATIENCE_SECONDS = 15.0
"""Seconds within which an event must happen, on a busy machine."""

Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | bool | None"


class Probe:
    """An agent that runs in the test's own process.

    Attributes:
        begun: set when ``wait`` or ``ticks`` has begun.
        cancelled: set when ``wait`` or ``ticks`` was cancelled.
        release: set by a test to let them continue.
        calls: number of calls of ``count``.
        seen: the metadata of the last call of ``context``.
    """

    def __init__(self, name: str = "probe") -> None:
        self.begun = trio.Event()
        self.cancelled = trio.Event()
        self.release = trio.Event()
        self.calls = 0
        self.agent = spear.Agent(name)
        for function in (
            self.echo, self.add, self.count, self.wait, self.context, self.boom, self.overloaded,
            self.ticks, self.double, self.total, self.twice, self.blobs, self.flood, self.order,
            self.wait_for, self.context_of, self.shared, self.late_total,
        ):  # fmt: skip
            self.agent.function(function)

    async def echo(self, value: object) -> object:
        """Return the value."""
        return value

    async def add(self, a: int, b: int = 1, *, timeout: int = 0) -> int:
        """Add numbers."""
        return a + b + timeout

    async def count(self) -> int:
        self.calls += 1
        return self.calls

    async def wait(self) -> str:
        self.begun.set()
        try:
            await self.release.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return "released"

    async def context(self) -> dict[str, object]:
        here = spear.context()
        return {
            "metadata": dict(here.metadata),
            "key": here.key,
            "remaining": round(here.remaining_seconds()),
        }

    async def wait_for(self, event: object) -> str:
        return await self.wait()

    async def context_of(self, event: object) -> dict[str, object]:
        return dict(spear.context().metadata)

    async def boom(self, message: str = "nothing there") -> None:
        raise KeyError(message)

    async def overloaded(self) -> None:
        raise spear.Overloaded("no room", retry_after_seconds=2.5)

    async def ticks(self, count: int, *, fails: bool = False) -> AsyncIterator[int]:
        self.begun.set()
        try:
            for number in range(count):
                yield number
            if fails:
                raise ValueError("no more ticks")
            await self.release.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise

    async def double(self, numbers: Items[int], plus: int = 0) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number + plus

    async def total(self, numbers: Items[int]) -> int:
        return sum([number async for number in numbers])

    async def late_total(self, numbers: Items[bytes]) -> int:
        """Take items after the release."""
        await self.wait()
        return sum([len(number) async for number in numbers])

    def twice(self, data: bytes) -> bytes:
        return data + data

    def shared(self, data: memoryview) -> spear.SharedBuffer:
        buffer = spear.SharedBuffer(len(data))
        buffer.view[:] = data
        return buffer

    async def blobs(self) -> AsyncIterator[object]:
        for item in (b"\x00\xff", "text", {"a": 1}):
            yield item

    async def flood(self) -> AsyncIterator[bytes]:
        """Yield items without end."""
        self.begun.set()
        try:
            while True:
                yield bytes(65536)
        finally:
            self.cancelled.set()

    async def order(self, order: dict[str, int]) -> int:
        return sum(order.values())


@attrs.frozen
class Reply:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Json]:
        """The body, which must be an object."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> dict[str, Json]:
        """The error in the body."""
        error = self.json["error"]
        assert isinstance(error, dict)
        return error


@attrs.define
class Client:
    """A connection to a gateway, for one request after the other."""

    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
    host: str = "localhost"
    http: h11.Connection = attrs.field(factory=lambda: h11.Connection(h11.CLIENT))

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a request."""
        fields = {"host": self.host, **(headers or {})}
        if body is not None and "transfer-encoding" not in fields:
            fields.setdefault("content-length", str(len(body)))
        request = h11.Request(
            method=method,
            target=path,
            headers=[(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
        )
        data = self.http.send(request) or b""
        if body:
            data += self.http.send(h11.Data(data=body)) or b""
        data += self.http.send(h11.EndOfMessage()) or b""
        await self.stream.send_all(data)

    async def next_event(self) -> h11.Event:
        """Return the next event. Raises h11.RemoteProtocolError if the response is cut off."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                assert isinstance(event, h11.Event)
                return event
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            self.http.receive_data(bytes(data))

    async def receive_head(self) -> Reply:
        """Receive the status and the headers of a response."""
        event = await self.next_event()
        while isinstance(event, h11.InformationalResponse):
            event = await self.next_event()
        assert isinstance(event, h11.Response), event
        headers = {name.decode(): value.decode() for name, value in event.headers}
        return Reply(event.status_code, headers, b"")

    def parts(self) -> Parts:
        """The body, as it arrives."""
        return Parts(self)

    async def receive(self) -> Reply:
        """Receive a whole response."""
        head = await self.receive_head()
        body = b"".join([part async for part in self.parts()])
        return attrs.evolve(head, body=body)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request, and receive its response; the connection may then be used again."""
        await self.send(method, path, body, headers)
        reply = await self.receive()
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return reply

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)


OPEN: list[Client] = []
"""Connections that no test has closed yet; failing tests leave them open."""


@attrs.frozen
class Parts:
    """The body of a response, as it arrives. No generator, because an abandoned one would warn."""

    client: Client

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> bytes:
        event = await self.client.next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), event
        raise StopAsyncIteration


async def connect(gateway: Gateway, *, host: str = "localhost") -> Client:
    """Open a connection. It is closed with the site, if not before."""
    port = int(gateway.urls[0].rpartition(":")[2])
    client = Client(await trio.open_tcp_stream("127.0.0.1", port), host)
    OPEN.append(client)
    return client


async def close_clients() -> None:
    """Close all connections, so that a closing gateway need not wait for slow clients."""
    for client in OPEN:
        await client.aclose()
    OPEN.clear()


@asynccontextmanager
async def closing_clients() -> AsyncIterator[None]:
    """Close the remaining connections at the end of the block."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await close_clients()


async def ask(
    gateway: Gateway,
    method: str,
    path: str,
    value: object = None,
    headers: Mapping[str, str] | None = None,
    *,
    body: bytes | None = None,
    host: str = "localhost",
) -> Reply:
    """Make a request on a new connection; a value is sent as JSON."""
    fields = dict(headers or {})
    if value is not None:
        body = json.dumps(value).encode()
        fields.setdefault("content-type", "application/json")
    if body is None and method != "GET":
        body = b""
    client = await connect(gateway, host=host)
    try:
        return await client.ask(method, path, body, fields)
    finally:
        await client.aclose()


async def call(
    gateway: Gateway, function: str, value: object = None, headers: Mapping[str, str] | None = None
) -> Reply:
    """Call a function with JSON."""
    return await ask(gateway, "POST", f"/v1/functions/{function}/call", value, headers)


@attrs.frozen
class Site:
    """A gateway with a probe behind it."""

    gateway: Gateway
    spearlet: spear.Spearlet
    probe: Probe


@asynccontextmanager
async def open_site(
    settings: GatewaySettings | None = None,
    *,
    limits: spear.HostLimits | None = None,
    deployment: spear.DeploymentSettings | None = None,
) -> AsyncIterator[Site]:
    """Deploy a probe, and open a gateway in front of it."""
    probe = Probe()
    settings = settings or GatewaySettings()
    settings = attrs.evolve(settings, port=0)
    async with (
        closing_clients(),
        spear.open_spearlet(limits=limits or spear.HostLimits()) as spearlet,
    ):
        target = MemorySettings(agent=probe.agent, shares_process=True)
        await spearlet.deploy(target, settings=deployment)
        async with open_gateway(spearlet, settings) as gateway:
            yield Site(gateway, spearlet, probe)


async def wait_until(condition: object) -> None:
    """Wait until ``condition()`` is true, by polling."""
    assert callable(condition)
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():
            await trio.sleep(0.002)


def items_of(value: Json) -> list[dict[str, Json]]:
    """Return the value, which must be a list of objects."""
    assert isinstance(value, list)
    assert all(isinstance(each, dict) for each in value)
    return cast("list[dict[str, Json]]", value)
