"""The frame of the conformance suite for channels: what a case is, and what cases have in common.

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
    """Opens the two ends of a channel: (host's, agent's)."""

    def __call__(
        self,
        *,
        host_service: Service | None = None,
        agent_service: Service | None = None,
        functions: Sequence[str] = (),
        streams: Collection[str] = (),
        limits: WireLimits = DEFAULT_WIRE_LIMITS,
    ) -> AbstractAsyncContextManager[Pair]:
        """As :func:`spear.channels.open_memory_channels` does."""


ChannelCase: TypeAlias = Callable[[OpenPair], Awaitable[None]]

HANG_SECONDS: Final = 15.0
"""No case waits for anything so long, however slow the machine."""

REQUEST_BYTES: Final = 271_828
RESPONSE_BYTES: Final = 314_159
REQUEST_SIZES: Final = (27_182, 8, 1_828, 45_904)
RESPONSE_SIZES: Final = (31_415, 9, 2_653, 58_979)
"""gRPC's sizes: around what fits into a frame, a read and a fragment."""

CHANNEL_CASES: Final[dict[str, ChannelCase]] = {}
"""All cases by name, to run them one by one."""


def case(function: ChannelCase) -> ChannelCase:
    """Make a case of a function; its name is the function's."""

    async def limited(open_pair: OpenPair) -> None:
        with trio.fail_after(HANG_SECONDS):
            await function(open_pair)

    CHANNEL_CASES[function.__name__] = limited
    return limited


def offer(open_pair: OpenPair, **handlers: CallHandler) -> AbstractAsyncContextManager[Pair]:
    """A pair of which both ends offer the same functions."""
    return offer_limited(open_pair, DEFAULT_WIRE_LIMITS, **handlers)


def offer_limited(
    open_pair: OpenPair, limits: WireLimits, **handlers: CallHandler
) -> AbstractAsyncContextManager[Pair]:
    """The same under limits of its own."""
    functions = Functions(handlers)
    return open_pair(
        host_service=functions,
        agent_service=functions,
        functions=functions.names,
        limits=limits,
    )


async def caught(function: Callable[[Unpack[Ts]], Awaitable[object]], *args: *Ts) -> Exception:
    """What ``function`` raises."""
    try:
        await function(*args)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


async def wait_until(condition: Callable[[], bool]) -> None:
    """Let others run until ``condition`` holds. The case's time limit ends what never does."""
    while not condition():  # noqa: ASYNC110  # it is about another process as often as not
        await trio.sleep(0.001)


async def wait_idle(*channels: CommunicationChannel) -> None:
    """Wait until no call is open on any of these channels, in either direction."""

    def is_idle() -> bool:
        found = [channel.statistics() for channel in channels]
        return not any(each.calls_in_flight or each.handlers_running for each in found)

    await wait_until(is_idle)


def pattern(size: int) -> bytes:
    """Bytes that show when a part is missing, doubled or out of place."""
    return array("Q", range((size + 7) // 8)).tobytes()[:size]


# -- handlers ---------------------------------------------------------------------------------------


async def echo(call: InboundCall) -> bytes:
    """Returns its argument."""
    return call.payload


async def sized(call: InboundCall) -> bytes:
    """Returns as many bytes as its argument says in its first line."""
    return pattern(int(call.payload.partition(b"\n")[0]))


async def total(call: InboundCall) -> bytes:
    """Takes items; returns their total size."""
    size = 0
    async for item in call:
        size += len(item)
    return b"%d" % size


async def items(call: InboundCall) -> bytes:
    """Sends items of the sizes that its argument lists."""
    for size in call.payload.split():
        await call.send(pattern(int(size)))
    return b""


async def answers(call: InboundCall) -> bytes:
    """For each item ``size\\n...`` that it takes, sends one of that size."""
    async for item in call:
        await call.send(pattern(int(item.partition(b"\n")[0])))
    return b"end"


async def sleep(call: InboundCall) -> bytes:
    """Never returns."""
    await trio.sleep_forever()
