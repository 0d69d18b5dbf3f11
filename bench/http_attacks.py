"""The gateway under two kinds of bad clients: `python -m bench.http_attacks`.

* Pipelining: one client sends requests without waiting, and reads the answers. The host's memory may grow
  by `GROWTH_BYTES`.
* Endless bodies: clients without the token send Lambda's Invoke with a signature that is well formed and
  wrong, and a body that never ends. A client that comes back a second after each refusal stands for many.
  Authenticated calls are measured with the attack and without it, by turns; their p99 with it may be
  `SLOWER` times their p99 without it.

Exits with 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import functools
import http.client
import json
import math
import select
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import attrs
import trio

from bench.drive import payload
from bench.http_client import HOST, Crowd, connect, post
from bench.machine import describe
from bench.model import BenchError
from bench.over_http import serving_http
from bench.process import announce, resident_bytes, serving, settle_gc

GROWTH_BYTES = 2 << 20
SLOWER = 2.0

TOKEN = "a-token-for-the-benchmark"
_AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}

_SIZE = 1 << 10
_REQUESTS_AT_ONCE = 64
_SECONDS_BETWEEN_LOOKS = 0.25
_WARM_UP_SECONDS = 3.0

_CALLERS = 16
_BODY_BYTES = 32 << 20
_FIRST_BYTES = 1 << 20
"""Bytes of the first body that a client sends at once; for all clients more than a gateway buffers."""
_NEXT_BYTES = 1 << 16
"""Bytes of each later body that a client sends at once; few, because no flood is measured."""
_BACK_AFTER_SECONDS = 1.0


# -- one client that pipelines -------------------------------------------------------------------------


class _Pipeliner:
    """A client that always has more requests in the socket than the server has answered."""

    def __init__(self, port: int) -> None:
        self._socket = connect(port)
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._requests = post(port, payload(_SIZE), _AUTHORIZATION) * _REQUESTS_AT_ONCE
        self._unsent = memoryview(self._requests)
        self.received_bytes = 0

    def run_for(self, seconds: float, look: Callable[[], None]) -> None:
        """Send and receive for `seconds`, and call `look` four times a second."""
        end = time.monotonic() + seconds
        next_look = 0.0
        self._poll.register(self._socket, select.POLLIN | select.POLLOUT)
        while (now := time.monotonic()) < end:
            if now >= next_look:
                look()
                next_look = now + _SECONDS_BETWEEN_LOOKS
            for _, event in self._poll.poll(_SECONDS_BETWEEN_LOOKS * 1e3):
                if event & select.POLLOUT:
                    self._unsent = self._unsent[self._socket.send(self._unsent) :]
                    self._unsent = self._unsent or memoryview(self._requests)
                if event & ~select.POLLOUT:
                    data = self._socket.recv(1 << 16)
                    if not data:
                        raise BenchError("the gateway closed the pipelining connection")
                    self.received_bytes += len(data)


def pipelining(seconds: float) -> bool:
    """Measure the host's memory while a client pipelines. Return whether the bound is kept."""
    with serving_http("gateway", TOKEN) as (port, (host, *_)):
        client = _Pipeliner(port)
        client.run_for(_WARM_UP_SECONDS, lambda: None)
        before = most = resident_bytes(host)

        def look() -> None:
            nonlocal most
            most = max(most, resident_bytes(host))

        client.received_bytes = 0
        client.run_for(seconds, look)
        look()
    answers = client.received_bytes // _SIZE  # slightly too many, because heads count, too
    if answers < _REQUESTS_AT_ONCE:
        raise BenchError(f"the gateway answered only {answers} requests")
    growth = most - before
    print(
        f"pipelining for {seconds:g} s: {client.received_bytes / 1e6:,.0f} MB of answers; the host's "
        f"memory grew by {growth / 1e6:.2f} MB, from {before / 1e6:.1f} (must: at most "
        f"{GROWTH_BYTES / 1e6:.2f} MB)"
    )
    return growth < GROWTH_BYTES


# -- many bodies that never end ------------------------------------------------------------------------


def hold_bodies(port: str, count: str) -> None:
    """Run `count` clients until this process is stopped."""
    trio.run(_hold_bodies, int(port), int(count))


async def _hold_bodies(port: int, count: int) -> None:
    begun = 0

    def on_begin() -> None:
        nonlocal begun
        begun += 1
        if begun == count:
            announce()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(_hold_again_and_again, port, on_begin)


async def _hold_again_and_again(port: int, on_begin: Callable[[], None]) -> None:
    amount = _FIRST_BYTES
    while True:
        try:
            async with await trio.open_tcp_stream(HOST, port) as stream:
                with trio.move_on_after(_BACK_AFTER_SECONDS), suppress(trio.BrokenResourceError):
                    await stream.send_all(_invoke(port) + bytes(amount))
                if amount == _FIRST_BYTES:
                    amount = _NEXT_BYTES
                    on_begin()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_drip, stream)
                    async for _ in stream:
                        pass
                    nursery.cancel_scope.cancel()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await trio.sleep(_BACK_AFTER_SECONDS)


async def _drip(stream: trio.SocketStream) -> None:
    while True:
        await trio.sleep(_BACK_AFTER_SECONDS)
        await stream.send_all(b"x")


def _invoke(port: int) -> bytes:
    """Return the head of an Invoke whose signature is wrong, as only the whole body would show."""
    now = time.gmtime()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", now)
    scope = time.strftime("%Y%m%d/us-east-1/lambda/aws4_request", now)
    return (
        "POST /2015-03-31/functions/echo/invocations HTTP/1.1\r\n"
        f"Host: {HOST}:{port}\r\n"
        f"X-Amz-Date: {stamp}\r\n"
        f"Authorization: AWS4-HMAC-SHA256 Credential=spear/{scope}, SignedHeaders=host;x-amz-date, "
        f"Signature={'0' * 64}\r\n"
        f"Content-Length: {_BODY_BYTES}\r\n\r\n"
    ).encode()


@attrs.frozen
class _Window:
    p99: float
    strangers: int  # connections of other clients at the end of the window


def _measure(port: int, seconds: float) -> _Window:
    """Measure authenticated calls. A refused call ends the measurement."""
    crowd = Crowd(port, _SIZE, _CALLERS, _AUTHORIZATION)
    settle_gc()
    crowd.run_for(seconds / 4)
    times = sorted(crowd.run_for(seconds))
    strangers = _connections(port) - _CALLERS - 1  # minus the connection that asks
    crowd.finish()
    return _Window(p99=times[len(times) * 99 // 100] if times else math.inf, strangers=strangers)


def _connections(port: int) -> int:
    connection = http.client.HTTPConnection(HOST, port)
    connection.request("GET", "/v1/statistics", headers=_AUTHORIZATION)
    found = json.load(connection.getresponse())["gateway"]["connections"]
    connection.close()
    return int(found)


def endless_bodies(seconds: float, rounds: int, count: int) -> bool:
    """Measure calls with and without the attack. Return whether the bound is kept."""
    attack = functools.partial(serving, "bench.http_attacks:hold_bodies", announces=True)
    ratios, held = [], []
    with serving_http("gateway", TOKEN) as (port, _):
        for _ in range(rounds):
            quiet = _measure(port, seconds)
            with attack(str(port), str(count)):
                attacked = _measure(port, seconds)
            ratios.append(attacked.p99 / quiet.p99)
            held.append(attacked.strangers)
    ratio = statistics.median(ratios)
    print(
        f"{count} endless bodies without a token: p99 of authenticated calls {ratio:.2f} times as long "
        f"({min(ratios):.2f} to {max(ratios):.2f}; must: at most {SLOWER:g}); "
        f"{min(held)} to {max(held)} of them were connected"
    )
    return ratio <= SLOWER


# ------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.http_attacks", description=__doc__)
    parser.add_argument("--pipeline-seconds", type=float, default=60.0)
    parser.add_argument("--window-seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bodies", type=int, default=200)
    options = parser.parse_args()
    print(describe())
    attacks = {
        "pipelining": functools.partial(pipelining, options.pipeline_seconds),
        "endless bodies": functools.partial(
            endless_bodies, options.window_seconds, options.rounds, options.bodies
        ),
    }
    kept = True
    for name, run in attacks.items():
        try:
            kept = run() and kept
        except BenchError as error:
            print(f"{name}: FAILED: {error}")
            kept = False
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
