"""The runtime for agents inside the host's process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

import spear
from spear import ConfigurationError, SpawnFailed, WorkerDied, open_spearlet
from spear.channels import CommunicationStrategy
from spear.runtimes import Instance, MemoryRuntime, MemorySettings, ProcessSettings
from spear.telemetry import InstanceState
from spear.transports import (
    Address,
    ConnectOptions,
    Listener,
    ListenOptions,
    Opening,
    Reach,
    SocketStream,
    Transport,
    UnixAddress,
    UnixTransport,
    open_unix_listener,
)

from ..process.test_addresses import LostTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear.telemetry import InstanceEvent


def teller(name: str = "teller") -> spear.Agent:
    app = spear.Agent(name)

    @app.function
    async def echo(value: object) -> object:
        return value

    @app.function
    async def wait() -> None:
        await trio.sleep_forever()

    return app


async def test_several_replicas_of_an_agent_are_refused_unless_they_are_meant() -> None:
    async with open_spearlet() as spearlet:
        with pytest.raises(ConfigurationError, match="4 replicas of an Agent would all") as caught:
            await spearlet.deploy(teller(), replicas=4)
        assert (caught.value.code, caught.value.key) == ("one_process", "replicas")
        with pytest.raises(ConfigurationError, match="3 replicas of an Agent"):
            await spearlet.deploy(teller(), replicas=spear.Scale(min=0, max=3))
        deployment = await spearlet.deploy(teller())
        with pytest.raises(ConfigurationError, match="2 replicas of an Agent"):
            await deployment.scale(2)
        several = spear.DeploymentSettings(replicas=2)
        with pytest.raises(ConfigurationError, match="2 replicas of an Agent"):
            await deployment.restart(settings=several)
        meant = MemorySettings(agent=teller(), shares_process=True)
        await deployment.restart(meant, several)
        assert len(deployment.replicas) == 2


async def test_an_instance_is_one_like_others() -> None:
    events: list[InstanceEvent] = []
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(teller(), on_event=events.append)
        (replica,) = deployment.replicas
        assert isinstance(replica, Instance)
        assert (replica.pid, replica.exit_status, replica.logs()) == (None, None, ())
        assert "in this process" in repr(replica)
        assert await replica.metrics() is None
        assert (deployment.name, deployment.target) == ("teller", "teller")
    assert [each.state for each in events] == [
        InstanceState.CREATED, InstanceState.STARTING, InstanceState.READY, InstanceState.DRAINING,
        InstanceState.EXITED, InstanceState.DELETED,
    ]  # fmt: skip


async def test_bytes_arrive_as_the_same_object() -> None:
    seen: list[object] = []
    app = spear.Agent("keeper")

    @app.function
    async def keep(data: bytes) -> bytes:
        seen.append(data)
        return data

    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(app)
        data = bytes(100_000)
        assert await deployment.keep(data) is data
        assert seen == [data]
        assert seen[0] is data


async def test_the_strategy_says_how_it_is_reached() -> None:
    strategies = {"memory": CommunicationStrategy(("unix",))}
    async with open_spearlet(strategies=strategies) as spearlet:
        deployment = await spearlet.deploy(teller())
        assert await deployment.echo([1, "a"]) == [1, "a"]
        await deployment.restart()
        assert await deployment.echo(2) == 2


@attrs.frozen
class RenamedAddress(Address):
    path: str

    scheme = "renamed"

    @property
    def reach(self) -> Reach:
        return Reach.MACHINE

    def __str__(self) -> str:
        return f"renamed:{self.path}"


class Renamed(Transport):
    """Unix sockets under a scheme that only one host knows."""

    name = "renamed"

    def parse(self, address: str) -> RenamedAddress:
        return RenamedAddress(address.removeprefix("renamed:"))

    def listen(self, options: ListenOptions) -> Opening[Listener]:
        return Opening(self._listen, options)

    async def _listen(self, options: ListenOptions) -> Listener:
        path = f"{options.get_directory()}/{options.name}.sock"
        return open_unix_listener(path, bound=RenamedAddress(path))

    def connect(self, address: Address, options: ConnectOptions) -> Opening[SocketStream]:
        assert isinstance(address, RenamedAddress)
        return UnixTransport().connect(UnixAddress(address.path), options)


async def test_an_address_that_cannot_be_reached_leaves_the_next_one() -> None:
    strategies = {"memory": CommunicationStrategy(("lost", "tcp"))}
    async with open_spearlet(strategies=strategies, transports=[LostTransport()]) as spearlet:
        deployment = await spearlet.deploy(teller())
        assert await deployment.echo(1) == 1


async def test_an_agent_uses_the_transports_of_its_host() -> None:
    strategies = {"memory": CommunicationStrategy(("renamed",))}
    async with open_spearlet(strategies=strategies, transports=[Renamed()]) as spearlet:
        deployment = await spearlet.deploy(teller())
        assert await deployment.echo(1) == 1


async def test_a_lifespan_that_fails_later_is_the_end_of_the_instance_alone() -> None:
    app, fail = teller("fragile"), trio.Event()

    @app.lifespan
    async def lifespan() -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(break_down)
            yield
            nursery.cancel_scope.cancel()

    async def break_down() -> None:
        await fail.wait()
        raise OSError("the cable was cut")

    async with open_spearlet() as spearlet:
        other = await spearlet.deploy(teller())
        deployment = await spearlet.deploy(app)
        waiting = deployment.wait.submit()
        await trio.testing.wait_all_tasks_blocked()
        fail.set()
        with pytest.raises(WorkerDied, match="fragile-1#1 has failed: OSError: the cable was cut"):
            await waiting.result()
        assert await other.echo(1) == 1


async def test_a_lifespan_that_cannot_begin_is_a_failed_start() -> None:
    app = teller("bad")

    @app.lifespan
    async def lifespan() -> AsyncIterator[None]:
        raise SystemExit("no database")
        yield

    async with open_spearlet() as spearlet:
        with pytest.raises(SpawnFailed, match="memory:bad-1#1 did not start: SystemExit: no data"):
            await spearlet.deploy(app)


async def test_a_kill_cancels_what_runs() -> None:
    ended: list[str] = []
    app = spear.Agent("clerk")

    @app.function
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("work")

    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(app)
        (replica,) = deployment.replicas
        assert isinstance(replica, Instance)
        working = deployment.work.submit()
        await trio.testing.wait_all_tasks_blocked()
        await replica.kill("the test wants it")
        with pytest.raises(WorkerDied, match="has ended, because the test wants it"):
            await working.result()
        assert ended == ["work"]


def test_what_is_no_agent_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="agent must be a spear"):
        MemorySettings(agent=17)  # type: ignore[arg-type]  # the mistake
    assert MemoryRuntime().takes(ProcessSettings(target="shop.py")) is None
    assert MemoryRuntime().takes("shop.py") is None


async def test_two_hosts_in_one_program_may_have_the_same_instances() -> None:
    async with spear.open_spearlet() as first, spear.open_spearlet() as second:
        shops = [await each.deploy(teller(), name="shop") for each in (first, second)]
        instances = [each.instances[0].id for each in shops]
        assert instances == [spear.InstanceId("memory", "shop-1", 1)] * 2
        assert [await each.echo(number) for number, each in enumerate(shops)] == [0, 1]
