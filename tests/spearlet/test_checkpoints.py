"""R6: async functions are checkpoints, and other functions are not."""

from __future__ import annotations

from contextlib import AsyncExitStack

import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints

import spear
from spear.wire import encode_arguments

from .helpers import Probe, shared


async def test_r6_spearlets_and_deployments() -> None:
    with assert_checkpoints():
        async with spear.open_spearlet():
            pass
    async with spear.open_spearlet() as spearlet:
        with assert_checkpoints():
            deployment = await spearlet.deploy(shared(Probe().agent))
        with assert_no_checkpoints():
            assert spearlet.deployments == {"probe": deployment}
            assert spearlet.find_function("echo") is deployment.function("echo")
            assert "echo" in dir(deployment)
            repr(deployment)
            spearlet.statistics()
            deployment.statistics()
            (replica,) = deployment.replicas
            replica.health()
            replica.logs()
            deployment.health()
            deployment.logs()
            assert deployment.instances == deployment.replicas
            assert deployment.decisions == ()
            assert spearlet.state.value == "running"
            assert list(spearlet.executions) == []
        with assert_checkpoints():
            await replica.metrics()
        with assert_checkpoints():
            await deployment.scale(2)
        with assert_checkpoints():
            await deployment.restart()
        with assert_checkpoints():
            async with deployment.follow_logs():
                await spearlet.drain()
        with assert_checkpoints():
            await spearlet.stop()
        for _ in range(2):
            with assert_checkpoints():
                await deployment.stop()


async def test_r6_an_agent_in_this_process() -> None:
    agent = Probe().agent
    async with agent.running():
        with assert_checkpoints(), trio.move_on_after(0) as scope:
            await agent.wait_failed()
    assert scope.cancelled_caught


async def test_r6_functions_and_executions() -> None:
    async with spear.open_spearlet() as spearlet:
        deployment = await spearlet.deploy(Probe().agent)
        with assert_checkpoints():
            assert await deployment.echo(1) == 1
        with assert_checkpoints():
            assert await deployment.echo.call(b"bytes") == b"bytes"
        with assert_checkpoints():
            answer = await deployment.echo.ask(1)
        assert (answer.result, answer.instance) == (1, deployment.replicas[0].id)
        assert answer.execution_seconds >= 0
        with assert_checkpoints():
            await deployment.echo.signature()
        with assert_checkpoints():
            descriptions = await deployment.descriptions()
        assert descriptions["echo"].signature == "echo(value: object) -> object"
        assert descriptions["echo"].summary == ""
        with assert_no_checkpoints():
            repr(deployment.echo.options(timeout=5))
            execution = deployment.echo.submit(1)
            assert execution.duration_seconds >= 0
            repr(execution)
        for _ in range(2):
            with assert_checkpoints():
                assert await execution.result() == 1
        with assert_no_checkpoints():
            bound = deployment.echo.bind(1)
            assert bound.submit().argument_bytes == bound.argument_bytes
            repr(bound)
        with assert_checkpoints():
            await bound.ask()
        payload, is_cbor = encode_arguments((2,), {})
        with assert_checkpoints():
            await deployment.echo.forward(payload, is_cbor, None)
        with assert_no_checkpoints():
            deployment.wait.submit().cancel()


async def test_r6_streams_of_functions() -> None:
    probe = Probe()
    probe.release.set()
    async with spear.open_spearlet() as spearlet, AsyncExitStack() as stack:
        deployment = await spearlet.deploy(probe.agent)
        with assert_checkpoints():
            stream = await stack.enter_async_context(deployment.double.stream(sends_items=True))
        with assert_checkpoints():  # one per item would cost more than the item
            for number in range(64):
                await stream.send(number)
        with assert_checkpoints():
            for _ in range(64):
                await stream.receive_item()
        with assert_checkpoints():
            await stream.send_eof()
        with assert_checkpoints():
            assert [item async for item in stream] == []
        with assert_checkpoints():
            await stream.response()
        with assert_checkpoints():
            await stream.result()

        bound = deployment.ticks.bind(1)
        with assert_checkpoints():
            stream = await stack.enter_async_context(bound.stream())
        payload, is_cbor = encode_arguments((1,), {})
        forwarding = deployment.ticks.forward_stream(payload, is_cbor, None)
        with assert_checkpoints():
            stream = await stack.enter_async_context(forwarding)
        with assert_checkpoints():
            assert [item async for item in stream] == [0]
