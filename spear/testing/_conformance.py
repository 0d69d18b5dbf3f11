"""The base of the conformance suite for channels: the type of a case, and helpers that cases share.

The cases are in ``_channel_calls``, ``_channel_streams``, ``_channel_ends`` and ``_misbehaviour``.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, TypeAlias, TypeVarTuple, Unpack

import trio

from spear._limits import DEFAULT_WIRE_LIMITS, WireLimits
from spear.channels import CommunicationChannel, InboundCall, Service

from ._services import CallHandler, Functions

Ts = TypeVarTuple("Ts")
Pair: TypeAlias = tuple[CommunicationChannel, CommunicationChannel]


class OpenPair(Protocol):
    """A function that opens the two ends of a channel: (host's, agent's)."""

    def __call__(
        self,
        *,
        host_service: Service | None = None,
        agent_service: Service | None = None,
        functions: Sequence[str] = (),
        streams: Collection[str] = (),
        limits: WireLimits = DEFAULT_WIRE_LIMITS,
    ) -> AbstractAsyncContextManager[Pair]:
        """Open a pair like :func:`spear.channels.open_memory_channels`, for as long as the block runs."""


ChannelCase: TypeAlias = Callable[[OpenPair], Awaitable[None]]

HANG_SECONDS: Final = 15.0
"""Seconds after which a case fails; more than any case needs, even on a slow machine."""

REQUEST_BYTES: Final = 271_828
RESPONSE_BYTES: Final = 314_159
REQUEST_SIZES: Final = (27_182, 8, 1_828, 45_904)
RESPONSE_SIZES: Final = (31_415, 9, 2_653, 58_979)
"""gRPC's sizes: around the sizes of a frame, a read and a fragment."""

CHANNEL_CASES: Final[dict[str, ChannelCase]] = {}
"""All cases by name, for running them one by one."""


def case(function: ChannelCase) -> ChannelCase:
    """Register a function as a case under the function's name, with a time limit."""

    async def limited(open_pair: OpenPair) -> None:
        with trio.fail_after(HANG_SECONDS):
            await function(open_pair)

    CHANNEL_CASES[function.__name__] = limited
    return limited


def offer(open_pair: OpenPair, **handlers: CallHandler) -> AbstractAsyncContextManager[Pair]:
    """Open a pair whose ends both offer the same functions."""
    return offer_limited(open_pair, DEFAULT_WIRE_LIMITS, **handlers)


def offer_limited(
    open_pair: OpenPair, limits: WireLimits, **handlers: CallHandler
) -> AbstractAsyncContextManager[Pair]:
    """Open a pair with the given limits, whose ends both offer the same functions."""
    functions = Functions(handlers)
    return open_pair(
        host_service=functions,
        agent_service=functions,
        functions=functions.names,
        limits=limits,
    )


async def caught(function: Callable[[Unpack[Ts]], Awaitable[object]], *args: *Ts) -> Exception:
    """Return the exception that ``function`` raises. Raises AssertionError if there is none."""
    try:
        await function(*args)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds. The case's time limit is the only bound."""
    while not condition():  # noqa: ASYNC110  # often a condition of another process
        await trio.sleep(0.001)


async def wait_idle(*channels: CommunicationChannel) -> None:
    """Wait until no call is open on any of these channels, in either direction."""

    def is_idle() -> bool:
        found = [channel.statistics() for channel in channels]
        return not any(each.calls_in_flight or each.handlers_running for each in found)

    await wait_until(is_idle)


def pattern(size: int) -> bytes:
    """Return bytes that reveal a missing, doubled or misplaced part."""
    return array("Q", range((size + 7) // 8)).tobytes()[:size]


# -- handlers ---------------------------------------------------------------------------------------


async def echo(call: InboundCall) -> bytes:
    """Return the payload."""
    return call.payload


async def sized(call: InboundCall) -> bytes:
    """Return as many bytes as the first line of the payload says."""
    return pattern(int(call.payload.partition(b"\n")[0]))


async def total(call: InboundCall) -> bytes:
    """Receive all items, and return their total size."""
    size = 0
    async for item in call:
        size += len(item)
    return b"%d" % size


async def items(call: InboundCall) -> bytes:
    """Send items of the sizes that the payload lists."""
    for size in call.payload.split():
        await call.send(pattern(int(size)))
    return b""


async def answers(call: InboundCall) -> bytes:
    """Send an item of ``size`` bytes for each item ``size\\n...`` received."""
    async for item in call:
        await call.send(pattern(int(item.partition(b"\n")[0])))
    return b"end"


async def sleep(call: InboundCall) -> bytes:
    """Never return."""
    await trio.sleep_forever()
