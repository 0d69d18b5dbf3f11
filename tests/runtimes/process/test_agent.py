"""Spear's own agent as an instance, as users run it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from spear import (
    CallFailed,
    ChannelClosed,
    FunctionRaised,
    HostLimits,
    InstanceTimeouts,
    SpawnFailed,
    WireLimits,
)
from spear.runtimes import ProcessSettings
from spear.wire import decode_result, encode_arguments

from ..helpers import PATIENCE_SECONDS, Host, is_alive, listening, nothing_left, open_host

if TYPE_CHECKING:
    from spear.runtimes import Instance

SHOP = """
import os, subprocess, sys, threading
import trio
import spear

app = spear.Agent()

@app.function
async def double(number: int) -> int:
    print("doubling", number)
    return 2 * number

@app.function
def block(name: str) -> None:
    os.write(2, name.encode() + b" begun\\n")
    threading.Event().wait()

@app.function
async def ignore() -> None:
    os.write(2, b"ignore begun\\n")
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

@app.function
async def fail() -> None:
    raise ValueError("not today")

@app.function
async def whereabouts() -> list[str]:
    return [os.getcwd(), *os.environ]
"""


@pytest.fixture
def shop(tmp_path: Path) -> ProcessSettings:
    path = tmp_path / "shop.py"
    path.write_text(SHOP)
    return ProcessSettings(target=str(path), pass_environment=("COVERAGE_PROCESS_CONFIG",))


STARTS = ["spawned", "forked"]


@asynccontextmanager
async def starting(host: Host, start: str, settings: ProcessSettings) -> AsyncIterator[None]:
    """Start instances of ``settings`` inside the block, spawned or forked."""
    async with AsyncExitStack() as stack:
        if start == "forked":
            await stack.enter_async_context(host.forking(settings))
        yield


async def call(instance: Instance, function: str, *arguments: object) -> object:
    assert instance.channel is not None
    payload, is_cbor = encode_arguments(arguments, {})
    response = await instance.channel.request(function, payload, is_cbor=is_cbor)
    return decode_result(response.payload, response.is_cbor)


@pytest.mark.parametrize("start", STARTS)
async def test_a_function_answers_from_its_process(start: str, shop: ProcessSettings) -> None:
    with nothing_left():
        async with open_host() as host, starting(host, start, shop):
            with listening() as lines:
                async with host.ready(shop) as instance:
                    assert await call(instance, "double", 21) == 42
                    # Although stdout is a pipe, a line arrives as soon as it is printed.
                    assert (
                        await lines.wait_for("doubling") == "process:worker#1 stdout: doubling 21"
                    )
                    with pytest.raises(FunctionRaised, match="not today"):
                        await call(instance, "fail")
            assert instance.exit_status == 0
            assert host.states()[-3:] == ["draining", "exited", "deleted"]


async def test_a_module_is_found_where_it_was_said_to_be(shop: ProcessSettings) -> None:
    assert shop.target is not None
    place = str(Path(shop.target).parent)
    settings = attrs.evolve(shop, target="shop:app", python_path=(place,))
    async with open_host() as host, host.ready(settings) as instance:
        assert await call(instance, "double", 1) == 2


async def test_s15_an_agent_knows_no_more_than_it_must(shop: ProcessSettings) -> None:
    shop = attrs.evolve(shop, private_directory=True)
    async with open_host() as host, host.ready(shop) as instance:
        found = await call(instance, "whereabouts")
        assert isinstance(found, list)
        assert Path(str(found[0])).name.startswith("spear-")
        assert not {"SECRET", "SERVICE_ADDR", "SPEAR_INSTANCE"} & set(found)


async def test_r16_a_program_that_does_not_load_says_why(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import spear\napp = spear.Agent()\nraise RuntimeError('half done')\n")
    with nothing_left():
        async with open_host() as host:
            with pytest.raises(SpawnFailed, match="exited with status 2") as caught:
                async with host.run(ProcessSettings(target=str(path))) as instance:
                    await instance.wait_ready()
            assert "half done" in caught.value.stderr_tail


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("function", ["ignore", "block"])
async def test_r13_a_blocked_handler_costs_no_heartbeat_and_is_ended(
    function: str, start: str, shop: ProcessSettings
) -> None:
    limits = HostLimits(
        wire=WireLimits(heartbeat_seconds=0.1),
        timeouts=InstanceTimeouts(drain_seconds=0.5, terminate_seconds=0.5),
    )
    with nothing_left():
        async with (
            open_host(limits) as host,
            starting(host, start, shop),
            host.ready(shop) as instance,
        ):
            with listening() as lines:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_call_in_vain, instance, function)
                    await lines.wait_for("begun")
                    assert await call(instance, "double", 4) == 8
                    begun = trio.current_time()
                    await instance.stop()
            assert 0.5 <= trio.current_time() - begun < 0.5 + 0.5 + 0.5 + 1
            assert host.factory.manager.statistics().heartbeats_lost == 0


async def _call_in_vain(instance: Instance, function: str) -> None:
    arguments = ["x"] if function == "block" else []
    with pytest.raises((CallFailed, ChannelClosed)):
        await call(instance, function, *arguments)


@pytest.mark.parametrize("start", STARTS)
async def test_an_agent_that_is_asked_to_end_by_others_leaves_in_good_order(
    start: str, shop: ProcessSettings
) -> None:
    async with open_host() as host, starting(host, start, shop), host.ready(shop) as instance:
        assert instance.pid is not None
        os.kill(instance.pid, signal.SIGTERM)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await instance.wait_exited() == 0
        assert not is_alive(instance.pid)
