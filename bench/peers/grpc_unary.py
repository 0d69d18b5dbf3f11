"""Unary gRPC calls over a unix socket, with bytes as messages: the cost of protobuf is left out.

Both Python interfaces of gRPC: `grpc.aio`, and the older one with threads, which is faster.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio

from bench import drive
from bench.model import Effort, Pattern, Sample, Workload
from bench.process import announce, serving

# The default limits are 4 MiB; -1 means no limit.
_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


_THREADS = 4
"""Threads of the server with threads; more of them would only wait for the interpreter lock."""


def measure(load: Workload, effort: Effort) -> Sample:
    """Measure grpc.aio at both ends."""
    with (
        tempfile.TemporaryDirectory() as directory,
        serving("bench.peers.grpc_unary:serve", f"unix:{directory}/s", announces=True) as server,
    ):
        return asyncio.run(_measure(f"unix:{directory}/s", load, effort, server.pid))


async def _measure(address: str, load: Workload, effort: Effort, server_pid: int) -> Sample:
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        echo = channel.unary_unary("/bench.Bench/Echo")

        async def call(sent: bytes) -> bytes:
            reply: bytes = await echo(sent)
            return reply

        return await drive.with_asyncio(call, load, effort, [server_pid])


def measure_sync(load: Workload, effort: Effort) -> Sample:
    """Measure gRPC's interface with threads at both ends."""
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(
            "bench.peers.grpc_unary:serve_sync", f"unix:{directory}/s", announces=True
        ) as server,
        grpc.insecure_channel(f"unix:{directory}/s", options=_OPTIONS) as channel,
    ):
        echo = channel.unary_unary("/bench.Bench/Echo")
        if load.kind is Pattern.SEQUENTIAL:
            return drive.blocking(echo, load, effort, [server.pid])
        return drive.futures(echo.future, load, effort, [server.pid])


def serve_sync(address: str) -> None:
    def echo(request: bytes, context: object) -> bytes:
        return request

    server = grpc.server(ThreadPoolExecutor(_THREADS), options=_OPTIONS)
    server.add_generic_rpc_handlers((_handlers(echo),))
    server.add_insecure_port(address)
    server.start()
    announce()
    server.wait_for_termination()


def _handlers(echo: Callable[[bytes, object], object]) -> grpc.GenericRpcHandler:
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    return grpc.method_handlers_generic_handler("bench.Bench", handlers)


def serve(address: str) -> None:
    asyncio.run(_serve(address))


async def _serve(address: str) -> None:
    async def echo(request: bytes, context: object) -> bytes:
        return request

    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((_handlers(echo),))
    server.add_insecure_port(address)
    await server.start()
    announce()
    await server.wait_for_termination()
