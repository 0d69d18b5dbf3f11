"""The measurements of Spear's channels and functions.

Each function without an underscore that takes a load is the `measure` of an entry in `registry`. It opens
both sides, passes a call to `drive`, and returns the sample of `drive`. All features that users have by
default are on: authentication, deadlines, cancellation, heartbeats, statistics.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import trio

from bench import drive
from bench.model import BenchError, Effort, Figure, Sample, Workload, WrongAnswer
from bench.process import allow_descriptors, resident_bytes, serving, settle_gc
from spear import HostLimits, InstanceId, InstanceTimeouts, Instrument, SharedBuffer, WireLimits
from spear._ids import Secret
from spear.channels import (
    ChannelConfig,
    CommunicationChannel,
    Endpoint,
    InboundCall,
    connect_channel,
    open_communication_factory,
    open_connection_manager,
    open_memory_channels,
)
from spear.runtimes import Instance
from spear.spearlet import Deployment, open_spearlet
from spear.telemetry import CallRecord
from spear.testing import RawPeer
from spear.transports import (
    connect,
    make_private_directory,
    open_unix_listener,
)
from spear.wire import FrameType, Head, Payload

_INSTANCE = InstanceId("process", "bench")
_TIMEOUT = 30.0


class _Echo:
    """A service that returns its payload, or, called as a stream, sends numbered items for ever."""

    def refuse(self, function: int, head: Head | None) -> None:
        return None

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        if call.wants_stream:
            size = int(call.payload)
            for number in count():
                await call.send(drive.stream_item(size, number))
        return call.payload, False


# --- two processes --------------------------------------------------------------------------------


_WITHOUT_SEGMENTS = WireLimits(
    max_segment_bytes=0, max_message_bytes=2 << 30, request_bytes_in_flight=4 << 30
)
_ALL_IN_SEGMENTS = WireLimits(segment_threshold_bytes=1, segment_pool_bytes=256 << 20)
_LIMITS = {"": WireLimits(), "without": _WITHOUT_SEGMENTS, "all": _ALL_IN_SEGMENTS}
"""Limits of both ends for each value of the parameter ``segments``."""


class _Look:
    """A service that returns the length, the first and the last bytes of its payload."""

    def __init__(self, *, copies: bool) -> None:
        self._copies = copies

    def refuse(self, function: int, head: Head | None) -> None:
        return None

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        with memoryview(call.payload) if self._copies else call.view() as seen:
            return _ends_of(seen), False


def _ends_of(seen: bytes | memoryview) -> bytes:
    return b"%d %s %s" % (len(seen), bytes(seen[:8]), bytes(seen[-8:]))


def serve_channel(
    address: str, secret: str, low_latency: str, segments: str = "", look: str = ""
) -> None:
    """Run the other end of a channel: an agent with one function."""

    async def serve() -> None:
        async with connect(address) as stream:
            settle_gc()
            async with connect_channel(
                stream,
                _INSTANCE,
                Secret(bytes.fromhex(secret)),
                service=_Look(copies=look == "copies") if look else _Echo(),
                functions=["echo"],
                limits=_LIMITS[segments],
                low_latency=bool(low_latency),
            ) as (channel, _):
                await channel.closed.wait()

    trio.run(serve)


@asynccontextmanager
async def _open_channel(
    *, low_latency: bool = False, segments: str = "", look: str = ""
) -> AsyncIterator[tuple[CommunicationChannel, int]]:
    config = ChannelConfig(low_latency=low_latency)
    async with (
        open_communication_factory(HostLimits(wire=_LIMITS[segments])) as factory,
        factory.open_endpoint(_INSTANCE, config=config) as endpoint,
    ):
        secret = endpoint.secret.reveal().hex()
        flag = "low-latency" if low_latency else ""
        arguments = str(endpoint.address), secret, flag, segments, look
        with serving("bench.ours:serve_channel", *arguments) as server:
            yield await endpoint.wait_connected(), server.pid


def channel(load: Workload, effort: Effort) -> Sample:
    """Measure `channel.request` between two processes."""
    return trio.run(_drive_channel, load, effort, False)


def low_latency_channel(load: Workload, effort: Effort) -> Sample:
    """Measure `channel.request` between two processes in the opt-in low-latency mode."""
    return trio.run(_drive_channel, load, effort, True)


def channel_without_segments(load: Workload, effort: Effort) -> Sample:
    """Measure `channel.request` with segments off, to find the cost of having them on."""
    return trio.run(_drive_channel, load, effort, False, "without")


async def _drive_channel(
    load: Workload, effort: Effort, low_latency: bool, segments: str = ""
) -> Sample:
    opening = _open_channel(low_latency=low_latency, segments=segments)
    async with opening as (channel, server_pid):

        async def call(body: bytes) -> bytes:
            return bytes((await channel.request("echo", body, timeout=_TIMEOUT)).payload)

        return await drive.with_trio(call, load, effort, [server_pid])


def hand_over_bytes(load: Workload, effort: Effort) -> Sample:
    """Measure calls with large arguments that go through the socket."""
    return trio.run(_drive_handover, load, effort, "without", "copies")


def hand_over_copied(load: Workload, effort: Effort) -> Sample:
    """Measure calls with large arguments that are copied into a segment and read in place."""
    return trio.run(_drive_handover, load, effort, "all", "views")


def hand_over_copied_twice(load: Workload, effort: Effort) -> Sample:
    """Measure calls with large arguments that are copied into a segment and out of it."""
    return trio.run(_drive_handover, load, effort, "all", "copies")


def hand_over_shared(load: Workload, effort: Effort) -> Sample:
    """Measure calls with large arguments that are in a `SharedBuffer` already."""
    return trio.run(_drive_handover, load, effort, "", "views", True)


async def _drive_handover(
    load: Workload, effort: Effort, segments: str, look: str, shared: bool = False
) -> Sample:
    async with _open_channel(segments=segments, look=look) as (channel, server_pid):
        buffer = SharedBuffer(load.size) if shared else None
        filled_with = b""

        async def call(body: bytes) -> bytes:
            nonlocal filled_with
            if buffer is not None and body is not filled_with:  # only outside of the window
                buffer.view[:] = filled_with = body
            seen = (await channel.request("echo", buffer or body, timeout=_TIMEOUT)).payload
            if seen != _ends_of(body):
                raise WrongAnswer("received another payload than the one sent")
            return body

        if segments == "all":
            for _ in range(16):  # enough calls for the channel to keep a segment for reuse
                await call(drive.payload(load.size))
        return await drive.with_trio(call, load, effort, [server_pid])


def stream(load: Workload, effort: Effort) -> Sample:
    """Measure a stream of small items into `async for`."""
    return trio.run(_drive_stream, load, effort)


async def _drive_stream(load: Workload, effort: Effort) -> Sample:
    async with (
        _open_channel(low_latency=False) as (channel, server_pid),
        channel.open_stream("echo", b"%d" % load.size) as items,
    ):
        return await drive.stream_with_trio(items, load, effort, [server_pid])


# --- one process ----------------------------------------------------------------------------------


def memory_channel(load: Workload, effort: Effort) -> Sample:
    """Measure `channel.request` on the in-memory channel."""
    return trio.run(_drive_memory_channel, load, effort)


async def _drive_memory_channel(load: Workload, effort: Effort) -> Sample:
    async with open_memory_channels(_INSTANCE, agent_service=_Echo(), functions=["echo"]) as (
        channel,
        _,
    ):

        async def call(body: bytes) -> bytes:
            return bytes((await channel.request("echo", body, timeout=_TIMEOUT)).payload)

        return await drive.with_trio(call, load, effort, [])


# --- a spearlet -----------------------------------------------------------------------------------

_FUNCTIONS = Path(__file__).with_name("functions.py")


def function(load: Workload, effort: Effort) -> Sample:
    """Measure `Function.call`: the whole path from a spearlet to an instance and back."""
    return trio.run(_drive_function, load, effort, "echo")


def watched_function(load: Workload, effort: Effort) -> Sample:
    """Measure `Function.call` with an instrument that counts calls."""
    return trio.run(_drive_function, load, effort, "echo", [CountingInstrument()])


def plain_function(load: Workload, effort: Effort) -> Sample:
    """Measure `Function.call` for a function without `async`, which runs in a thread of its instance."""
    return trio.run(_drive_function, load, effort, "plain_echo")


class CountingInstrument(Instrument):
    """An instrument that counts calls, at their start and at their end."""

    def __init__(self) -> None:
        self.started = self.ended = 0

    def call_started(self, call: CallRecord) -> None:
        self.started += 1

    def call_ended(self, call: CallRecord) -> None:
        self.ended += 1


async def _drive_function(
    load: Workload, effort: Effort, name: str, instruments: Sequence[Instrument] = ()
) -> Sample:
    async with open_spearlet(instruments=instruments) as spearlet:
        deployment = await spearlet.deploy(_FUNCTIONS)
        echo = deployment.function(name)

        async def call(body: bytes) -> bytes:
            result = await echo.call(body)
            assert isinstance(result, bytes)
            return result

        return await drive.with_trio(call, load, effort, [_pid_of(deployment)])


def _pid_of(deployment: Deployment) -> int:
    (replica,) = deployment.replicas
    assert isinstance(replica, Instance)
    assert replica.pid is not None
    return replica.pid


# --- idle channels --------------------------------------------------------------------------------

# One heartbeat every five seconds, as for remote instances; the death of local ones shows otherwise.
_IDLE_LIMITS = HostLimits(
    wire=WireLimits(heartbeat_seconds=5.0, handshake_seconds=60.0),
    timeouts=InstanceTimeouts(startup_seconds=600.0),
)
_IDLE_LOGINS_AT_ONCE = 64


def serve_idle_channels(directory: str, amount: str) -> None:
    """Run the other ends of all channels, in one process."""
    allow_descriptors(int(amount) + 1000)
    trio.run(_serve_idle, directory, int(amount))


async def _serve_idle(directory: str, amount: int) -> None:
    logins = trio.CapacityLimiter(_IDLE_LOGINS_AT_ONCE)

    async def serve_one(number: int) -> None:
        async with AsyncExitStack() as stack:
            async with logins:
                stream = await stack.enter_async_context(connect(f"unix:{directory}/{number}"))
                secret = Secret(bytes.fromhex((Path(directory) / f"{number}.key").read_text()))
                channel, _ = await stack.enter_async_context(
                    connect_channel(
                        stream, _idle_instance(number), secret, limits=_IDLE_LIMITS.wire
                    )
                )
            await channel.closed.wait()

    async with trio.open_nursery() as nursery:
        for number in range(amount):
            nursery.start_soon(serve_one, number)


def _idle_instance(number: int) -> InstanceId:
    return InstanceId("process", f"idle-{number}")


def _resident_bytes() -> int:
    gc.collect()
    return resident_bytes(os.getpid())


def idle_channels(load: Workload, effort: Effort) -> Sample:
    """Measure `load.count` idle authenticated channels, each with a listener of its own and heartbeats.

    Opens only the share `effort.share` of them, or as many as this machine has descriptors for, and
    scales the CPU figure up to all of them.
    """
    amount = int(load.count * effort.share)
    amount = min(amount, (allow_descriptors(2 * amount + 1000) - 1000) // 2)
    sample = trio.run(_measure_idle, amount, effort)
    return {**sample, Figure.IDLE_CPU: sample[Figure.IDLE_CPU] * load.count / amount}


def _beats_received(endpoints: list[Endpoint]) -> float:
    """Return the number of heartbeats received: idle channels receive no other frames."""
    channels = [endpoint.channel for endpoint in endpoints if endpoint.channel is not None]
    received = sum(channel.statistics().bytes_received for channel in channels)
    return received / len(RawPeer.encode(FrameType.HEALTH_RESPONSE))


async def _measure_idle(amount: int, effort: Effort) -> Sample:
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(make_private_directory())
        manager = await stack.enter_async_context(open_connection_manager(_IDLE_LIMITS))
        endpoints: list[Endpoint] = []
        for number in range(amount):
            listener = open_unix_listener(f"{directory}/{number}")
            endpoint = await stack.enter_async_context(
                manager.open_endpoint(_idle_instance(number), listener)
            )
            (Path(directory) / f"{number}.key").write_text(endpoint.secret.reveal().hex())
            endpoints.append(endpoint)
        settle_gc()
        before = _resident_bytes()  # includes the listeners, 7 KiB each
        peer = serving("bench.ours:serve_idle_channels", str(directory), str(amount))
        stack.enter_context(peer)
        for endpoint in endpoints:
            await endpoint.wait_connected()
        memory = (_resident_bytes() - before) / amount
        await trio.sleep(_IDLE_LIMITS.wire.heartbeat_seconds)  # until heartbeats are evenly spread
        seconds = max(effort.seconds, _IDLE_LIMITS.wire.heartbeat_seconds)
        beats = -_beats_received(endpoints)
        cpu, begun = time.process_time(), time.perf_counter()
        await trio.sleep(seconds)
        used, passed = time.process_time() - cpu, time.perf_counter() - begun
        beats += _beats_received(endpoints)
        if manager.statistics().connected != amount or manager.statistics().heartbeats_lost:
            raise BenchError("channels were lost")
        return {
            Figure.CHANNEL_MEMORY: memory,
            Figure.HEARTBEAT_CPU: used / beats * 1e6,
            Figure.IDLE_CPU: used / passed * 100,
        }
