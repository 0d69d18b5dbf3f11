"""grpc.aio, unary calls over a unix socket, bytes in and out: no protobuf is charged to it."""

from __future__ import annotations

import asyncio
import tempfile

import grpc
import grpc.aio

from bench import drive
from bench.model import Effort, Load, Sample
from bench.process import announce, serving

# Default caps are 4 MiB; -1 means none.
_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def measure(load: Load, effort: Effort) -> Sample:
    with (
        tempfile.TemporaryDirectory() as directory,
        serving("bench.peers.grpc_unary:serve", f"unix:{directory}/s", announces=True) as server,
    ):
        return asyncio.run(_measure(f"unix:{directory}/s", load, effort, server.pid))


async def _measure(address: str, load: Load, effort: Effort, server_pid: int) -> Sample:
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        echo = channel.unary_unary("/bench.Bench/Echo")

        async def call(sent: bytes) -> bytes:
            reply: bytes = await echo(sent)
            return reply

        return await drive.with_asyncio(call, load, effort, [server_pid])


def serve(address: str) -> None:
    asyncio.run(_serve(address))


async def _serve(address: str) -> None:
    async def echo(request: bytes, context: object) -> bytes:
        return request

    server = grpc.aio.server(options=_OPTIONS)
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench.Bench", handlers),)
    )
    server.add_insecure_port(address)
    await server.start()
    announce()
    await server.wait_for_termination()
