"""`python -m bench.connected`: calls to a running host, beside local calls and HTTP clients.

The host runs in a process of its own, with one instance. The clients run in this process, in turn, in
each round, so that a change of the machine's speed meets all of them. The table has medians of rounds.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import httpx2
import trio
import urllib3

import spear
from bench import machine
from bench.doors import BODY, MANY, PROGRAM, ROUNDS, Drive, Rate, with_threads
from bench.http_client import HOST, PATH
from bench.over_http import serving_http

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Call = Callable[[bytes], Awaitable[object]]
Opened = AbstractAsyncContextManager[Call]

OURS: Final = "`spear.connect`, control socket"


def with_trio(opening: Callable[[], Opened], at_a_time: int) -> float:
    """Return the calls per second of tasks of Trio."""

    async def main() -> float:
        async with opening() as call:
            await call(BODY)
            rate = Rate()

            async def work() -> None:
                while rate.goes_on():
                    await call(BODY)
                    rate.ended += 1

            async with trio.open_nursery() as nursery:
                for _ in range(at_a_time):
                    nursery.start_soon(work)
            return rate.result()

    return trio.run(main)


@asynccontextmanager
async def in_program() -> AsyncIterator[Call]:
    """Deploy the function in this program."""
    async with spear.open_spearlet() as spearlet:
        deployment = await spearlet.deploy(PROGRAM)
        yield deployment.function("echo").call


@asynccontextmanager
async def on_channel() -> AsyncIterator[Call]:
    """Deploy the function in this program, and make bare requests on the channel of its instance."""
    async with spear.open_spearlet() as spearlet:
        channel = (await spearlet.deploy(PROGRAM)).replicas[0].channel
        assert channel is not None
        yield partial(channel.request, "echo")


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Call]:
    """Connect to the host."""
    async with spear.connect(address, max_connections=MANY) as host:
        yield host.find_function("echo").call


@asynccontextmanager
async def by_httpx2(url: str) -> AsyncIterator[Call]:
    """Open a client of httpx2."""
    limits = httpx2.Limits(max_connections=MANY, max_keepalive_connections=MANY)
    headers = {"Content-Type": "application/octet-stream"}
    async with httpx2.AsyncClient(limits=limits, headers=headers) as client:

        async def call(body: bytes) -> bytes:
            response = await client.post(url, content=body)
            return response.raise_for_status().content

        yield call


def main() -> int:
    """Measure, and print the table."""
    rounds: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        path = str(Path(place) / "host.sock")
        with serving_http("gateway_with_socket", path) as (port, _):
            url = f"http://{HOST}:{port}{PATH}"
            pool = urllib3.PoolManager(maxsize=MANY)
            headers = {"Content-Type": "application/octet-stream"}
            ways: dict[str, Drive] = {
                "bare requests on a channel": partial(with_trio, on_channel),
                "`Function.call` in the same program": partial(with_trio, in_program),
                OURS: partial(with_trio, partial(connected, path)),
                "`spear.connect`, TCP": partial(
                    with_trio, partial(connected, f"http://{HOST}:{port}")
                ),
                "httpx2 on Trio, TCP": partial(with_trio, partial(by_httpx2, url)),
                "urllib3, a thread for each call, TCP": with_threads(
                    lambda body: pool.request("POST", url, body=body, headers=headers).data
                ),
            }
            for _ in range(ROUNDS):
                for name, drive in ways.items():
                    rounds.setdefault(name, []).append((drive(1), drive(MANY)))
    print(f"{machine.describe()}\n1 KiB, median of {ROUNDS} rounds\n")
    print(
        "| way | calls/s, 1 in flight | µs a call | calls/s, 64 in flight | of `spear.connect`'s |"
    )
    print("|---|---|---|---|---|")
    for name, found in rounds.items():
        pairs = list(zip(found, rounds[OURS], strict=True))
        alone, many = median(each[0] for each in found), median(each[1] for each in found)
        share = median(each[1] / mine[1] for each, mine in pairs)
        print(f"| {name} | {alone:,.0f} | {1e6 / alone:,.0f} | {many:,.0f} | {share:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
