"""pyzmq on asyncio: a DEALER calls a ROUTER over ipc, replies matched by id."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile

import zmq.asyncio
from zmq.constants import SocketType

from bench import drive
from bench.model import Effort, Sample, Workload
from bench.process import announce, serving

_ID_BYTES = 8


def measure(load: Workload, effort: Effort) -> Sample:
    with (
        tempfile.TemporaryDirectory() as directory,
        serving("bench.peers.zmq_router:serve", f"ipc://{directory}/s", announces=True) as server,
    ):
        return asyncio.run(_measure(f"ipc://{directory}/s", load, effort, server.pid))


async def _measure(address: str, load: Workload, effort: Effort, server_pid: int) -> Sample:
    with zmq.asyncio.Context() as context, context.socket(SocketType.DEALER) as dealer:
        dealer.connect(address)
        loop = asyncio.get_running_loop()
        waiting: dict[bytes, asyncio.Future[bytes]] = {}
        ids = itertools.count()

        async def read_replies() -> None:
            while True:
                call_id, body = await dealer.recv_multipart()
                waiting.pop(call_id).set_result(body)

        async def call(body: bytes) -> bytes:
            call_id = next(ids).to_bytes(_ID_BYTES, "big")
            reply: asyncio.Future[bytes] = loop.create_future()
            waiting[call_id] = reply
            await dealer.send_multipart([call_id, body])
            return await reply

        reader = asyncio.create_task(read_replies())
        sample = await drive.with_asyncio(call, load, effort, [server_pid])
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
        return sample


def serve(address: str) -> None:
    asyncio.run(_serve(address))


async def _serve(address: str) -> None:
    with zmq.asyncio.Context() as context, context.socket(SocketType.ROUTER) as router:
        router.bind(address)
        announce()
        while True:
            await router.send_multipart(await router.recv_multipart())
