"""The host's memory, and the share of it that one client, or a client without a token, can use."""

from __future__ import annotations

import statistics
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from .helpers import KNOWN, TOKEN, Client, ask, close_clients, connect, open_site
from .shapes import GUARDED, HEALTH, KIB, MIB, PATIENT, SMUGGLED, request
from .test_clients import leave
from .test_lambda import INVOKE, invoker, signed
from .test_limits import memory
from .test_shapes import Reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .helpers import Reply, Site

GROWTH = 2 * MIB
"""Bytes by which the host may grow because of one client."""

CALL = "/v1/functions/{}/call"
BYTES = {"content-type": "application/octet-stream"}

# -- pipelines -------------------------------------------------------------------------------------


async def growth_by(site: Site, requests: bytes, is_enough: Callable[[int], bool]) -> int:
    """Write requests as fast as they are accepted, and read the answers.

    Args:
        site: the site that gets the requests.
        requests: bytes to write repeatedly.
        is_enough: called with the number of answers so far; true ends the writing.

    Returns:
        The bytes by which this process has grown since the first answers, while requests still come.
    """
    client = await connect(site.gateway)
    stream = client.stream
    assert isinstance(stream, trio.SocketStream)
    reader = Reader(stream)
    answered = 0
    before = 0

    async def write() -> None:
        while True:
            await stream.send_all(requests)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while not is_enough(answered):
            answer = await reader.answer(is_head=False, is_old=False)
            assert answer is not None
            assert answer.status == 200
            answered += 1
            if answered == WARM:
                before = memory()
        growth = memory() - before
        nursery.cancel_scope.cancel()
    assert answered > WARM
    await client.aclose()
    return growth


WARM = 300
"""Answers after which this process has allocated what it keeps."""


def many(single: bytes) -> bytes:
    """Return as many copies of a request as fit into 64 KiB."""
    return single * (64 * KIB // len(single) + 1)


PIPELINES = {
    "GET": many(request(HEALTH)),
    "calls": many(SMUGGLED),
    "large heads": many(request(HEALTH, f"X-A: {20 * KIB * 'a'}")),
    "bodies": many(request(
        "POST /v1/functions/context_of/call HTTP/1.1", "Content-Type: application/octet-stream",
        "Content-Length: 4096", body=bytes(4096),
    )),
}  # fmt: skip
"""Bytes that a client writes repeatedly, by name."""


@pytest.mark.slow
@pytest.mark.repetitive
@pytest.mark.parametrize("kind", PIPELINES)
async def test_s18_a_client_that_pipelines_and_reads_takes_little_memory(kind: str) -> None:
    async with open_site(PATIENT) as site:
        assert await growth_by(site, PIPELINES[kind], lambda answered: answered >= 1500) < GROWTH


@pytest.mark.soak
@pytest.mark.parametrize("kind", PIPELINES)
async def test_s18_a_client_that_pipelines_for_a_minute_takes_little_memory(kind: str) -> None:
    async with open_site(PATIENT) as site:
        end = time.monotonic() + 60
        assert await growth_by(site, PIPELINES[kind], lambda _: time.monotonic() >= end) < GROWTH


@pytest.mark.slow
async def test_s18_a_client_that_pipelines_during_a_call_takes_little_memory() -> None:
    """The gateway stops reading while a function runs, whatever the client sends."""
    async with open_site(PATIENT) as site:
        client = await connect(site.gateway)
        await client.stream.send_all(
            request("POST /v1/functions/wait/call HTTP/1.1", "Content-Length: 0")
        )
        await site.probe.begun.wait()
        before = memory()
        piece = PIPELINES["calls"]
        sent = 0
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                nonlocal sent
                while sent < 64 * MIB:
                    await client.stream.send_all(piece)
                    sent += len(piece)
                    await trio.testing.wait_all_tasks_blocked()

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
        assert sent < 64 * MIB  # the kernel holds the rest back
        assert memory() - before < GROWTH
        await leave(client.stream, "reset")


# -- bodies of clients without a token -------------------------------------------------------------

SCALED = attrs.evolve(GUARDED, max_body_bytes=MIB, body_bytes_in_flight=4 * MIB)
"""Settings of a gateway with a thirty-second of the default budgets for bodies."""


async def pour(client: Client, head: bytes, size: int) -> None:
    """Send a body of this size without its last byte, as far as the gateway reads it."""
    with suppress(trio.BrokenResourceError):
        await client.stream.send_all(head)
        for _ in range(size // (64 * KIB) - 1):
            await client.stream.send_all(bytes(64 * KIB))
        await client.stream.send_all(bytes(64 * KIB - 1))


def forged(site: Site, size: int) -> bytes:
    """Return the head of an Invoke with a well-formed signature by another secret."""
    path = INVOKE.format("echo")
    headers = signed(site.gateway.urls[0], path, b"1", secret="not-the-token-of-this-gateway")
    headers |= {"content-length": str(size)}
    lines = (f"{name}: {value}" for name, value in headers.items())
    return request(f"POST {path} HTTP/1.1", *lines, host=None)


@asynccontextmanager
async def strangers(site: Site, count: int, size: int) -> AsyncIterator[None]:
    """Open clients whose signed bodies never end, for as long as the block runs."""
    head = forged(site, size)
    clients = [await connect(site.gateway) for _ in range(count)]
    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(pour, client, head, size)
            await trio.testing.wait_all_tasks_blocked(0.01)  # until the gateway reads no more
        yield
        nursery.cancel_scope.cancel()
    for client in clients:
        await client.aclose()


async def call_known(site: Site, size: int) -> Reply:
    """Make a call with the token and a body of this size."""
    path = CALL.format("context_of")
    return await ask(site.gateway, "POST", path, headers={**KNOWN, **BYTES}, body=bytes(size))


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 40])
async def test_s18_strangers_with_endless_bodies_shut_nobody_out(count: int) -> None:
    async with open_site(SCALED) as site:
        async with strangers(site, count, MIB):
            for _ in range(20):
                assert (await call_known(site, MIB)).status == 200
        assert (await call_known(site, MIB)).status == 200


@pytest.mark.slow
async def test_s18_strangers_with_endless_bodies_do_not_shut_out_signed_calls() -> None:
    """Signed calls need their bodies read before the caller is known, like those of the strangers."""
    async with open_site(SCALED) as site:
        invoke = invoker(site.gateway.urls[0], TOKEN)
        async with strangers(site, 40, MIB):
            for number in range(20):
                assert await invoke.result("echo", [number, 1000 * "x"]) == [number, 1000 * "x"]


@pytest.mark.slow
async def test_s18_strangers_with_endless_bodies_take_little_memory() -> None:
    """The gateway has as many strangers connected as it allows at a time."""
    async with open_site(attrs.evolve(GUARDED, max_new_connections=400)) as site:
        async with strangers(site, 1, MIB):
            pass  # warm-up
        before = memory()
        async with strangers(site, 100, 32 * MIB):
            assert memory() - before < 32 * MIB


@pytest.mark.soak
async def test_s18_200_strangers_with_endless_bodies_slow_nobody_down() -> None:
    async def measure(site: Site) -> float:
        seconds = []
        for _ in range(2000):
            begun = time.perf_counter()
            assert (await call_known(site, 1000)).status == 200
            seconds.append(time.perf_counter() - begun)
        return statistics.quantiles(seconds, n=100)[98]

    async with open_site(GUARDED) as site:
        alone = await measure(site)
        async with strangers(site, 200, 32 * MIB):
            beside = await measure(site)
        assert beside < 2 * alone


# -- refused before the body is read ---------------------------------------------------------------

UNKNOWN = {
    "no token": {},
    "another token": {"authorization": "Bearer not-the-token-of-this-gateway"},
    "another scheme": {"authorization": f"Basic {TOKEN}"},
}


@pytest.mark.parametrize("given", UNKNOWN.values(), ids=UNKNOWN)
@pytest.mark.parametrize(
    "path",
    [
        CALL.format("echo"), "/v1/functions/echo/submit", "/v1/functions/ticks/stream",
        "/v1/executions/x/cancel", "/v1/deployments/probe/scale", "/v1/deployments/probe/restart",
        "/v1/deployments/probe/stop", "/v1/drain", INVOKE.format("echo"),
    ],
)  # fmt: skip
async def test_s18_a_caller_is_known_before_its_body_is_read(
    path: str, given: dict[str, str]
) -> None:
    """The answer comes before any byte of the body, and the client gets no 100."""
    async with open_site(GUARDED) as site:
        lines = [f"{name}: {value}" for name, value in given.items()]
        reader = await head_alone(site, path, *lines)
        answer = await reader.answer(is_head=False, is_old=False)
        assert answer is not None
        assert answer.status in (401, 403)
        assert answer.is_last
        await close_clients()


async def head_alone(site: Site, path: str, *lines: str) -> Reader:
    """Send only the head of a request."""
    client = await connect(site.gateway)
    assert isinstance(client.stream, trio.SocketStream)
    host = () if any(line.startswith("host:") for line in lines) else ("host: localhost",)
    lines = (*host, *lines, f"content-length: {MIB}", "expect: 100-continue")
    await client.stream.send_all(request(f"POST {path} HTTP/1.1", *lines, host=None))
    return Reader(client.stream)


@pytest.mark.parametrize("fault", ["date", "old", "headers", "algorithm", "nothing signed", "hex"])
async def test_s18_all_of_a_signature_but_its_hash_is_checked_before_the_body_is_read(
    fault: str,
) -> None:
    async with open_site(GUARDED) as site:
        path = INVOKE.format("echo")
        headers = signed(site.gateway.urls[0], path, b"1")
        claim = headers["authorization"]
        if fault == "date":
            headers["x-amz-date"] = "yesterday"
        elif fault == "old":
            headers["x-amz-date"] = "20200101T000000Z"
        elif fault == "headers":
            headers["x-amz-client-context"] = "e30="
        elif fault == "algorithm":
            headers["authorization"] = claim.replace("SHA256", "SHA256-PLUS")
        elif fault == "nothing signed":
            headers["authorization"] = claim.partition("SignedHeaders")[0] + "Signature=x"
        else:
            headers["authorization"] = claim[:-1] + "x"
        reader = await head_alone(
            site, path, *(f"{name}: {each}" for name, each in headers.items())
        )
        answer = await reader.answer(is_head=False, is_old=False)
        assert answer is not None
        assert answer.status == 403
        assert answer.is_last
        await close_clients()
