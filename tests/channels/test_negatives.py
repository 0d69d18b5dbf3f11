"""Peers that shut down, break off or violate the protocol, over all transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from spear import ChannelBroken, ChannelClosed
from spear.testing import (
    CHANNEL_CASES,
    PEER_CASES,
    Functions,
    check_channel,
    check_channel_with_bad_batches,
    check_channel_with_bad_peers,
)

from .helpers import MEMORY_STREAM, open_in_memory, park, sleep

if TYPE_CHECKING:
    import random

    from spear.channels import InboundCall

    from .helpers import Carrier


SLACK = 0.001
"""Seconds of virtual time, which passes only while all tasks wait."""


@pytest.mark.parametrize("name", PEER_CASES)
async def test_r7_negative(name: str, carrier: Carrier) -> None:
    await PEER_CASES[name](carrier.open_raw)


async def test_r7_negative_goaway_in_memory() -> None:
    gate = trio.Event()

    async def wait(call: InboundCall) -> bytes:
        await gate.wait()
        return b""

    functions = Functions({"wait": wait})
    async with (
        open_in_memory(agent_service=functions, functions=functions.names) as (host, agent),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(host.request, "wait")
        await park()
        nursery.start_soon(agent.drain, 5)
        await host.peer_draining.wait()
        with pytest.raises(ChannelClosed, match="drain"):
            await host.request("wait")
        assert not host.closed.is_set()
        gate.set()


async def test_r7_negative_rst_in_memory() -> None:
    """No byte can be lost in memory, but the other end can be gone at any moment."""
    functions = Functions({"sleep": sleep})
    lost: list[ChannelBroken] = []

    async def call() -> None:
        with pytest.raises(ChannelBroken) as caught:
            await host.request("sleep")
        lost.append(caught.value)

    async with (
        open_in_memory(agent_service=functions, functions=functions.names) as (host, agent),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(call)
        await park()
        agent._pipe.close()
        await host.closed.wait()
    assert [error.delivered for error in lost] == ["maybe"]


@pytest.mark.slow
async def test_r7_the_suites_say_in_which_case_a_channel_fails() -> None:
    def broken(**_: object) -> None:
        raise AssertionError("no pair")

    await check_channel(open_in_memory)
    await check_channel_with_bad_peers(MEMORY_STREAM.open_raw)
    with pytest.raises(AssertionError) as caught:
        await check_channel(broken)  # type: ignore[arg-type]  # that is the point
    assert caught.value.__notes__ == [f"in the case {next(iter(CHANNEL_CASES))!r}"]
    with pytest.raises(AssertionError) as caught:
        await check_channel_with_bad_peers(broken)  # type: ignore[arg-type]  # that is the point
    assert caught.value.__notes__ == [f"in the case {next(iter(PEER_CASES))!r}"]


@pytest.mark.slow
async def test_r8_each_call_ends_by_its_deadline_whatever_stands_in_front_of_its_answer(
    autojump_clock: trio.testing.MockClock, seed: random.Random
) -> None:
    await check_channel_with_bad_batches(
        MEMORY_STREAM.open_raw, seed, lives=100, slack_seconds=0.001
    )


@pytest.mark.slow
async def test_r8_a_function_gets_its_answers_in_time_whatever_its_host_sends(
    autojump_clock: trio.testing.MockClock, seed: random.Random
) -> None:
    await check_channel_with_bad_batches(
        MEMORY_STREAM.open_raw_host, seed, lives=100, slack_seconds=0.001
    )


@pytest.mark.slow
async def test_r8_each_call_ends_by_its_deadline_over_every_carrier(
    carrier: Carrier, seed: random.Random
) -> None:
    await check_channel_with_bad_batches(carrier.open_raw, seed, lives=10)
    await check_channel_with_bad_batches(carrier.open_raw_host, seed, lives=10)


@pytest.mark.soak
async def test_r8_each_call_ends_by_its_deadline_in_many_lives(
    autojump_clock: trio.testing.MockClock, seed: random.Random
) -> None:
    await check_channel_with_bad_batches(
        MEMORY_STREAM.open_raw, seed, lives=30_000, slack_seconds=0.001
    )
    await check_channel_with_bad_batches(
        MEMORY_STREAM.open_raw_host, seed, lives=30_000, slack_seconds=0.001
    )
