"""All systems that can be measured, by name: parts of Spear and others. Imports none of them."""

from __future__ import annotations

import importlib.util

from bench.model import Pattern, Peer

_CALLS = (Pattern.SEQUENTIAL, Pattern.PIPELINED)
_CONNECTIONS = (Pattern.CONNECTIONS,)

_STARLETTE = ("hypercorn", "starlette")

_OURS = (
    Peer("spear-channel", "Spear channel.request", "bench.ours:channel", _CALLS, matrix=True),
    Peer(
        "spear-low-latency",
        "Spear channel, low-latency mode",
        "bench.ours:low_latency_channel",
        (Pattern.SEQUENTIAL,),
        matrix=True,
    ),
    Peer("spear-function", "Spear Function.call", "bench.ours:function", _CALLS, matrix=True),
    Peer(
        "spear-plain",
        "Spear Function.call, plain",
        "bench.ours:plain_function",
        _CALLS,
        matrix=True,
    ),
    Peer(
        "spear-watched",
        "Spear Function.call, watched",
        "bench.ours:watched_function",
        _CALLS,
    ),
    Peer("spear-stream", "Spear stream", "bench.ours:stream", (Pattern.STREAM,)),
    Peer("spear-memory", "Spear in-memory channel", "bench.ours:memory_channel", _CALLS),
    Peer(
        "spear-no-segments",
        "Spear channel.request, segments switched off",
        "bench.ours:channel_without_segments",
        _CALLS,
    ),
    Peer(
        "spear-handover-bytes",
        "bytes, by socket",
        "bench.ours:hand_over_bytes",
        (Pattern.HANDOVER,),
    ),
    Peer(
        "spear-handover-copied",
        "bytes copied into a segment, read in place",
        "bench.ours:hand_over_copied",
        (Pattern.HANDOVER,),
    ),
    Peer(
        "spear-handover-twice",
        "bytes copied into a segment, and out of it",
        "bench.ours:hand_over_copied_twice",
        (Pattern.HANDOVER,),
    ),
    Peer(
        "spear-handover-shared",
        "Spear SharedBuffer",
        "bench.ours:hand_over_shared",
        (Pattern.HANDOVER,),
    ),
    Peer("spear-arrays", "Spear Function.call", "bench.arrays:deployed", (Pattern.ARRAYS,)),
    Peer("pickled-arrays", "ProcessPoolExecutor", "bench.arrays:pooled", (Pattern.ARRAYS,)),
    Peer(
        "spear-start",
        "Spear process instance",
        "bench.starting:spawned",
        (Pattern.START, Pattern.BURST, Pattern.IDLE_INSTANCE),
    ),
    Peer(
        "spear-zygote",
        "Spear instance, forked by a zygote",
        "bench.starting:forked",
        (Pattern.START, Pattern.BURST, Pattern.IDLE_INSTANCE),
    ),
    Peer(
        "spear-cold-call",
        "Spear Function.call, no instance",
        "bench.starting:cold_call",
        (Pattern.START,),
    ),
    Peer(
        "spear-crowded",
        "Spear Function.call, 1,000 functions deployed",
        "bench.many:function",
        _CALLS,
    ),
    Peer(
        "spear-idle-instances",
        "Spear idle instances",
        "bench.many:idle_instances",
        (Pattern.IDLE_INSTANCE,),
    ),
    Peer(
        "spear-replicas",
        "Spear Function.call to many replicas",
        "bench.replicas:calls",
        (Pattern.REPLICAS,),
    ),
    Peer("spear-life", "Spear replicas", "bench.replicas:life", (Pattern.LIFE,)),
    Peer(
        "spear-map",
        "Spear Function.map",
        "bench.maps:spear",
        (Pattern.MAP, Pattern.MAP_WITH_DEATH),
    ),
    Peer("spear-idle", "Spear idle channels", "bench.ours:idle_channels", (Pattern.IDLE,)),
    Peer(
        "spear-gateway",
        "Spear's HTTP gateway",
        "bench.over_http:gateway",
        _CONNECTIONS,
        requires=("h11", "wsproto"),
        extra="http",
    ),
)

_OTHERS = (
    Peer("c", "C", "bench.peers.c_echo:measure", _CALLS, matrix=True),
    Peer(
        "c-spinning",
        "C, both sides spinning",
        "bench.peers.c_echo:measure_spinning",
        (Pattern.SEQUENTIAL,),
    ),
    Peer(
        "blocking-python",
        "blocking Python",
        "bench.peers.blocking:measure",
        (Pattern.SEQUENTIAL,),
        matrix=True,
    ),
    Peer(
        "trio-lowlevel",
        "raw trio.lowlevel",
        "bench.peers.trio_raw:measure",
        (Pattern.SEQUENTIAL,),
        matrix=True,
    ),
    Peer("textbook-trio", "textbook Trio", "bench.peers.textbook:measure", _CALLS, matrix=True),
    Peer(
        "textbook-memory",
        "textbook Trio, memory stream",
        "bench.peers.textbook:measure_in_memory",
        _CALLS,
    ),
    Peer(
        "textbook-heartbeats",
        "two Trio tasks for each",
        "bench.peers.textbook_heartbeats:measure",
        (Pattern.IDLE, Pattern.IDLE_INSTANCE),
    ),
    Peer(
        "stream-naive",
        "one send_all per item",
        "bench.peers.stream_naive:measure",
        (Pattern.STREAM,),
    ),
    Peer(
        "asyncio-protocol",
        "asyncio Protocol",
        "bench.peers.asyncio_protocol:measure",
        _CALLS,
        matrix=True,
    ),
    Peer(
        "asyncio-protocol-uvloop",
        "asyncio Protocol on uvloop",
        "bench.peers.asyncio_protocol:measure_uvloop",
        _CALLS,
        requires=("uvloop",),
        extra="bench",
        matrix=True,
    ),
    Peer(
        "grpc-aio",
        "grpc.aio unary",
        "bench.peers.grpc_unary:measure",
        _CALLS,
        requires=("grpc",),
        extra="bench",
        matrix=True,
    ),
    Peer(
        "grpc-sync",
        "gRPC with threads, unary",
        "bench.peers.grpc_unary:measure_sync",
        _CALLS,
        requires=("grpc",),
        extra="bench",
        matrix=True,
    ),
    Peer(
        "pyzmq-asyncio",
        "pyzmq asyncio",
        "bench.peers.zmq_router:measure",
        _CALLS,
        requires=("zmq",),
        extra="bench",
        matrix=True,
    ),
    Peer(
        "nats",
        "NATS request/reply",
        "bench.peers.nats_request:measure",
        _CALLS,
        requires=("nats",),
        extra="bench",
        matrix=True,
    ),
    Peer(
        "nats-uvloop",
        "NATS request/reply on uvloop",
        "bench.peers.nats_request:measure_uvloop",
        _CALLS,
        requires=("nats", "uvloop"),
        extra="bench",
        matrix=True,
    ),
    Peer(
        "process-pool",
        "ProcessPoolExecutor",
        "bench.peers.process_pool:measure",
        _CALLS,
        matrix=True,
    ),
    Peer(
        "ray",
        "Ray actor",
        "bench.peers.ray_actor:measure",
        _CALLS,
        requires=("ray",),
        extra="bench",
        daemons=True,  # the raylet ignores SIGCHLD, so the CPU time of its children is lost
        matrix=True,
    ),
    Peer(
        "process-pool-map",
        "ProcessPoolExecutor.map",
        "bench.maps:process_pool",
        (Pattern.MAP, Pattern.MAP_WITH_DEATH),
    ),
    Peer(
        "ray-cold",
        "Ray actor, cold",
        "bench.peers.ray_actor:measure_start",
        (Pattern.START,),
        requires=("ray",),
        extra="bench",
        daemons=True,
    ),
    Peer(
        "http-by-hand",
        "hypercorn, the same call",
        "bench.over_http:starlette_call",
        _CONNECTIONS,
        requires=_STARLETTE,
        extra="bench",
    ),
    Peer(
        "http-bare",
        "hypercorn, no call",
        "bench.over_http:starlette_bare",
        _CONNECTIONS,
        requires=_STARLETTE,
        extra="bench",
    ),
    Peer(
        "http-h11-call",
        "a loop over h11, same call",
        "bench.over_http:h11_call",
        _CONNECTIONS,
        requires=("h11",),
        extra="bench",
    ),
    Peer(
        "http-h11-bare",
        "a loop over h11, no call",
        "bench.over_http:h11_bare",
        _CONNECTIONS,
        requires=("h11",),
        extra="bench",
    ),
    Peer(
        "http-uvicorn",
        "uvicorn with h11, no call",
        "bench.over_http:uvicorn_bare",
        _CONNECTIONS,
        requires=("uvicorn",),
        extra="bench",
    ),
    Peer(
        "bare-interpreter",
        "Python that imports Trio",
        "bench.peers.interpreter:measure",
        (Pattern.START,),
    ),
)

PEERS = {peer.name: peer for peer in (*_OURS, *_OTHERS)}


def missing(peer: Peer) -> str | None:
    """Return why `peer` cannot run here and how to install it, or None if it is installed."""
    if all(importlib.util.find_spec(module) is not None for module in peer.requires):
        return None
    return f"not installed: install the extra spearlet[{peer.extra}]"


def is_ours(peer: Peer) -> bool:
    """Return whether `peer` is a part of Spear."""
    return peer in _OURS
