"""A running host, called by programs without Trio."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal

import spear
import spear.asyncio
import spear.blocking
from spear.gateway import GatewaySettings, open_gateway

from .functions import Dish, Kitchen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spear.spearlet import Spearlet

PATIENCE_SECONDS = 15.0


@contextmanager
def serving(kitchen: Kitchen) -> Iterator[str]:
    """Serve a kitchen in a thread of its own; yield the URL."""

    async def deploy(spearlet: Spearlet) -> None:
        await spearlet.deploy(kitchen.agent)

    with (
        start_blocking_portal("trio") as portal,
        portal.wrap_async_context_manager(spear.open_spearlet()) as spearlet,
    ):
        portal.call(deploy, spearlet)
        opening = open_gateway(spearlet, GatewaySettings(port=0, allow_control=True))
        with portal.wrap_async_context_manager(opening) as gateway:
            yield gateway.urls[0]


def test_a_host_is_called_without_an_event_loop() -> None:
    kitchen = Kitchen()
    with serving(kitchen) as url, spear.blocking.connect(url) as host:
        assert repr(host) == f"<blocking.RemoteHost {host.where}>"
        remote = host.deployment("kitchen")
        assert remote.echo({"tea": b"\xff"}) == {"tea": b"\xff"}
        assert remote.echo.options(returns=Dish)({"name": "pie"}) == Dish("pie")
        with pytest.raises(spear.FunctionRaised) as caught:
            remote.fail("no tea")
        assert caught.value.type_name == "ValueError"
        with remote.count.stream(100) as numbers:
            assert list(numbers) == list(range(100))
        with remote.echo.map(iter(range(50))) as results:
            assert list(results) == list(range(50))
        submitted = remote.echo.submit(7)
        assert submitted.result() == 7
        assert host.execution(submitted.id).result() == 7
        assert host.status()["state"] == "running"
        assert remote.status()["name"] == "kitchen"
        assert host.find_function("kitchen.echo")(1) == 1
        assert remote.function("echo").name == "echo"
        assert "echo" in remote.functions
        assert "echo" in dir(remote)
        assert "count" in remote.streams
        assert remote.descriptions()["echo"].summary == "Return the value."
        assert repr(remote) == "<blocking.RemoteDeployment kitchen>"
        host.refresh()
        assert host.deployments.keys() == {"kitchen"}
        for name in ("_private", "fial"):
            with pytest.raises(AttributeError):
                getattr(remote, name)
        with pytest.raises(spear.DeadlineExceeded):
            remote.hang(timeout=0.01)
        remote.restart()
        remote.scale(1)
        remote.stop()
        with pytest.raises(spear.NotFound):
            remote.start()  # it is of no configuration
        host.drain()
    with pytest.raises(spear.WorkerDied):
        remote.echo(1)


def test_a_host_is_called_from_asyncio() -> None:
    kitchen = Kitchen()

    async def main(url: str) -> None:
        async with spear.asyncio.connect(url) as host:
            assert repr(host) == f"<asyncio.RemoteHost {host.where}>"
            remote = await host.deployment("kitchen")
            calls = [remote.echo(each) for each in range(20)]
            assert await asyncio.gather(*calls) == list(range(20))
            async with remote.count.stream(100) as numbers:
                assert [each async for each in numbers] == list(range(100))
            async with remote.echo.map(range(50)) as results:
                assert [each async for each in results] == list(range(50))
            submitted = await remote.echo.submit(7)
            assert await submitted == 7
            assert await (await host.execution(submitted.id)) == 7
            assert (await host.status())["state"] == "running"
            assert (await remote.status())["name"] == "kitchen"
            assert await host.find_function("kitchen.echo")(1) == 1
            assert remote.function("echo").name == "echo"
            assert "echo" in remote.functions
            assert "echo" in dir(remote)
            assert "count" in remote.streams
            assert (await remote.descriptions())["echo"].summary == "Return the value."
            assert repr(remote) == "<asyncio.RemoteDeployment kitchen>"
            await host.refresh()
            assert host.deployments.keys() == {"kitchen"}
            for name in ("_private", "fial"):
                with pytest.raises(AttributeError):
                    getattr(remote, name)
            task = asyncio.create_task(remote.hang.call())
            assert await asyncio.to_thread(kitchen.begun.wait, PATIENCE_SECONDS)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(kitchen.cancelled.wait, PATIENCE_SECONDS)
            await remote.restart()
            await remote.scale(1)
            await remote.stop()
            with pytest.raises(spear.NotFound):
                await remote.start()  # it is of no configuration
            await host.drain()

    with serving(kitchen) as url:
        asyncio.run(main(url))


def test_a_host_that_does_not_run_is_named(tmp_path: object) -> None:
    with pytest.raises(spear.SpearError) as caught:
        spear.blocking.connect(f"{tmp_path}/none.sock")
    assert "none.sock" in str(caught.value)
