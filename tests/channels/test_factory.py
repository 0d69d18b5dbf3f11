"""The transport that an instance gets, and the factory's statistics."""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from spear import (
    AuthenticationFailed,
    ChannelBroken,
    ChannelClosed,
    ChannelCreationFailed,
    ConfigurationError,
    DeadlineExceeded,
    InstanceId,
    InstanceTimeouts,
    SpearError,
)
from spear.channels import (
    ChannelConfig,
    CommunicationChannel,
    CommunicationFactory,
    CommunicationStrategy,
    Endpoint,
    connect_channel,
    open_communication_factory,
)
from spear.testing import Functions
from spear.transports import (
    Address,
    ConnectOptions,
    Listener,
    ListenOptions,
    MemoryAddress,
    Opening,
    Reach,
    TcpAddress,
    TcpTransport,
    Transport,
    UnixAddress,
    connect,
    open_memory_listener,
    parse_address,
)

from .helpers import INSTANCE, Certificate, echo, park

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

OTHER = InstanceId("process", "other")
UNIX_AND_TCP = ChannelConfig(transports=("unix", "tcp"))
OVER_TCP = ChannelConfig(transports=("tcp",))


def transport_of(endpoint: Endpoint) -> str:
    return str(endpoint.address).partition(":")[0]


def schemes_of(endpoint: Endpoint) -> list[str]:
    return [each.address.partition(":")[0] for each in endpoint.offered]


@asynccontextmanager
async def log_in(
    endpoint: Endpoint, certificate: Certificate | None = None, address: Address | None = None
) -> AsyncIterator[CommunicationChannel]:
    """Connect as an agent; yield its channel."""
    functions = Functions({"echo": echo})
    options = ConnectOptions(tls=certificate.client if certificate else None)
    async with (
        connect(address or endpoint.address, options) as stream,
        connect_channel(
            stream,
            endpoint.instance_id,
            endpoint.secret,
            service=functions,
            functions=functions.names,
        ) as (channel, _),
    ):
        yield channel


async def stay(endpoint: Endpoint) -> None:
    """Run an agent until its channel is closed."""
    async with log_in(endpoint) as channel:
        await channel.closed.wait()


class OwnTransport(Transport):
    """The memory transport under another name, with a function to call before it listens."""

    name = "own"

    def __init__(self, before: Callable[[ListenOptions], Awaitable[object]]) -> None:
        self._before = before

    def parse(self, address: str) -> MemoryAddress:
        raise NotImplementedError  # addresses of this scheme are never parsed

    def listen(self, options: ListenOptions) -> Opening[Listener]:
        return Opening(self._listen, options)

    async def _listen(self, options: ListenOptions) -> Listener:
        await self._before(options)
        return open_memory_listener(options.name)

    def connect(self, address: Address, options: ConnectOptions) -> Opening[trio.abc.Stream]:
        raise NotImplementedError


def in_memory(name: str = "memory") -> dict[str, CommunicationStrategy]:
    """Return strategies that reach processes in virtual time."""
    return {"process": CommunicationStrategy((name,))}


@asynccontextmanager
async def open_memory_factory() -> AsyncIterator[CommunicationFactory]:
    async with open_communication_factory(strategies=in_memory()) as factory:
        yield factory


# -- strategies -------------------------------------------------------------------------------------


async def test_the_default_strategies() -> None:
    async with open_communication_factory() as factory:
        assert factory.strategy("process").transports == ("unix", "tcp")
        assert factory.strategy("kubernetes").transports == ("grpc", "websocket", "tcp")
        assert factory.strategy("wasm").transports == ("memory",)
        assert factory.strategy("memory").transports == ("memory",)
        assert factory.strategy("container").transports == ("unix", "tcp")


async def test_a_process_gets_a_unix_socket_that_only_we_can_reach() -> None:
    async with (
        open_communication_factory() as factory,
        factory.open_endpoint(INSTANCE) as endpoint,
        factory.open_endpoint(INSTANCE.next_incarnation()) as next_life,
    ):
        assert transport_of(endpoint) == "unix"
        assert isinstance(endpoint.address, UnixAddress)
        found = os.stat(endpoint.address.path)
        assert found.st_mode & 0o777 == 0o600
        assert os.stat(os.path.dirname(endpoint.address.path)).st_mode & 0o777 == 0o700
        assert next_life.address != endpoint.address
        directory = os.path.dirname(endpoint.address.path)
        async with log_in(endpoint):
            channel = await endpoint.wait_connected()
            assert (await channel.request("echo", b"x")).payload == b"x"
    assert not os.path.exists(directory)


async def test_a_process_is_offered_one_address_if_nobody_asks_for_more() -> None:
    asked = {"process": CommunicationStrategy(("unix", "tcp"))}
    async with (
        open_communication_factory() as factory,
        factory.open_endpoint(INSTANCE) as endpoint,
        factory.open_endpoint(OTHER, config=UNIX_AND_TCP) as configured,
        open_communication_factory(strategies=asked) as with_strategy,
        with_strategy.open_endpoint(INSTANCE) as by_strategy,
    ):
        assert schemes_of(endpoint) == ["unix"]
        assert schemes_of(configured) == schemes_of(by_strategy) == ["unix", "tcp"]
        assert str(configured.address) == configured.offered[0].address


async def test_an_instance_may_use_any_address_and_is_let_in_once() -> None:
    async with (
        open_communication_factory() as factory,
        factory.open_endpoint(INSTANCE, config=UNIX_AND_TCP) as endpoint,
    ):
        unix, tcp = (parse_address(each.address) for each in endpoint.offered)
        async with log_in(endpoint, address=tcp):
            channel = await endpoint.wait_connected()
            assert endpoint.address == tcp
            assert (await channel.request("echo", b"x")).payload == b"x"
            for address in unix, tcp:
                with pytest.raises(AuthenticationFailed):
                    await log_in(endpoint, address=address).__aenter__()
            assert channel.is_connected
        assert factory.manager.statistics().refused_logins == {"second_login": 2}
        await park()
        for address in unix, tcp:
            with pytest.raises(AuthenticationFailed):
                await log_in(endpoint, address=address).__aenter__()
        assert factory.manager.statistics().refused_logins == {
            "second_login": 2, "secret_spent": 2
        }  # fmt: skip
    for address in unix, tcp:
        with pytest.raises(ChannelBroken, match="cannot connect"):
            await connect(address).__aenter__()


async def test_an_address_that_cannot_be_opened_is_left_out() -> None:
    config = ChannelConfig(transports=("websocket", "tcp", "pigeon", "unix"))
    async with (
        open_communication_factory() as factory,
        factory.open_endpoint(INSTANCE, config=config) as endpoint,
    ):
        assert schemes_of(endpoint) == ["tcp", "unix"]
        assert [name for name, _ in endpoint.not_offered] == ["websocket", "pigeon"]
        assert "a later one will provide spearlet[websocket]" in endpoint.not_offered[0][1]


async def test_an_address_that_an_instance_cannot_reach_is_not_offered(
    certificate: Certificate,
) -> None:
    """A Pod cannot reach a loopback address, but perhaps an address in front of it."""
    pod = InstanceId("kubernetes", "pod")
    async with open_communication_factory() as factory:
        with pytest.raises(ChannelCreationFailed) as caught:
            await factory.open_endpoint(pod).__aenter__()
        attempts = dict(caught.value.attempts)
        assert list(attempts) == ["grpc", "websocket", "tcp"]
        assert "cannot be reached from other machines" in attempts["tcp"]
        (address,) = re.findall(r"tcp:127\.0\.0\.1:\d+", attempts["tcp"])
        with pytest.raises(ChannelBroken, match="cannot connect"):  # the listener was closed again
            await connect(address).__aenter__()
    transport = TcpTransport(tls=certificate.server, advertised_host="spear.example.org")
    async with (
        open_communication_factory(transports=(transport,)) as factory,
        factory.open_endpoint(pod) as endpoint,
    ):
        (offered,) = endpoint.offered
        assert re.fullmatch(r"tls:spear\.example\.org:\d+", offered.address)
    reachable = {"process": CommunicationStrategy(("memory", "unix"), reach=Reach.MACHINE)}
    async with (
        open_communication_factory(strategies=reachable) as factory,
        factory.open_endpoint(INSTANCE) as endpoint,
    ):
        assert schemes_of(endpoint) == ["unix"]


async def test_what_is_needed_to_trust_a_listener_is_offered_with_its_address(
    certificate: Certificate, tmp_path: Path
) -> None:
    assert certificate.client.ca is not None
    authority = Path(certificate.client.ca).read_text()
    trusted = attrs.evolve(certificate.server, ca=certificate.client.ca, server_name="spear")
    for server, expected in (
        (certificate.server, ("", "")),
        (trusted, ("spear", authority)),
        (attrs.evolve(trusted, ca=None), ("spear", "")),
    ):
        async with (
            open_communication_factory(transports=(TcpTransport(tls=server),)) as factory,
            factory.open_endpoint(INSTANCE, config=OVER_TCP) as endpoint,
        ):
            (offered,) = endpoint.offered
            assert (offered.server_name, offered.ca) == expected
    for text, complaint in ("", "TLS client settings"), (None, "No such file"):
        path = tmp_path / "empty.pem" if text is not None else tmp_path / "missing.pem"
        if text is not None:
            path.write_text(text)
        server = attrs.evolve(certificate.server, ca=str(path))
        async with open_communication_factory(transports=(TcpTransport(tls=server),)) as factory:
            with pytest.raises(ChannelCreationFailed, match=complaint):
                await factory.open_endpoint(INSTANCE, config=OVER_TCP).__aenter__()


async def test_a_socket_path_that_is_too_long_makes_it_tcp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tmp_path / ("d" * 90)
    parent.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(parent))
    async with (
        open_communication_factory() as factory,
        factory.open_endpoint(INSTANCE) as endpoint,
        log_in(endpoint),
    ):
        assert transport_of(endpoint) == "tcp"
        assert isinstance(endpoint.address, TcpAddress)
        assert endpoint.address.host == "127.0.0.1"
        assert endpoint.address.port > 0
        channel = await endpoint.wait_connected()
        assert (await channel.request("echo", b"x")).payload == b"x"


async def test_a_directory_that_cannot_be_made_makes_it_tcp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing, too"))
    async with open_communication_factory() as factory:
        async with factory.open_endpoint(INSTANCE) as endpoint:
            assert transport_of(endpoint) == "tcp"
        with pytest.raises(ChannelCreationFailed, match=r"unix: .*missing"):
            await factory.open_endpoint(
                INSTANCE, config=ChannelConfig(transports=("unix",))
            ).__aenter__()


async def test_a_socket_file_that_is_taken_makes_it_tcp() -> None:
    """Each step has an address of its own, and a failed step leaves nothing behind."""
    async with open_communication_factory() as factory:
        async with factory.open_endpoint(INSTANCE) as endpoint:
            assert isinstance(endpoint.address, UnixAddress)
            path = endpoint.address.path
        with open(path, "w"):
            pass
        async with factory.open_endpoint(INSTANCE) as endpoint:
            assert transport_of(endpoint) == "tcp"
        os.unlink(path)
        async with factory.open_endpoint(INSTANCE) as endpoint:
            assert transport_of(endpoint) == "unix"


async def test_an_error_lists_every_attempt_with_its_reason() -> None:
    config = ChannelConfig(transports=("grpc", "websocket", "pigeon"))
    async with open_communication_factory() as factory:
        with pytest.raises(ChannelCreationFailed) as caught:
            await factory.open_endpoint(INSTANCE, config=config).__aenter__()
        attempts = dict(caught.value.attempts)
        assert list(attempts) == ["grpc", "websocket", "pigeon"]
        for extra in ("grpc", "websocket"):
            assert f"'{extra}' cannot be used: not part of this release" in attempts[extra]
            assert f"a later one will provide spearlet[{extra}]" in attempts[extra]
        assert "known transports are " in attempts["pigeon"]
        for reason in attempts.values():
            assert reason in str(caught.value)
        assert str(INSTANCE) in str(caught.value)
        assert not factory.manager.endpoints
        with pytest.raises(ChannelCreationFailed):
            await factory.get_or_create(INSTANCE, config=config)


async def test_a_strategy_and_a_transport_of_ones_own() -> None:
    opened: list[str] = []

    async def before(options: ListenOptions) -> None:
        opened.append(options.name)
        if len(opened) == 1:
            raise OSError("not today")
        assert options.get_directory() == options.get_directory()

    async with open_communication_factory(
        transports=(OwnTransport(before),), strategies={"wasm": CommunicationStrategy(("own",))}
    ) as factory:
        assert factory.strategy("process").transports == ("unix", "tcp")
        module = InstanceId("wasm", "module")
        with pytest.raises(ChannelCreationFailed, match="own: not today"):
            await factory.open_endpoint(module).__aenter__()
        async with factory.open_endpoint(module) as endpoint, log_in(endpoint):
            assert endpoint.address == MemoryAddress("module-1")
            assert (await endpoint.wait_connected()).is_connected
    assert opened == ["module-1", "module-1"]


async def test_two_transports_cannot_have_one_name() -> None:
    opening = open_communication_factory(transports=(TcpTransport(), TcpTransport(host="::1")))
    with pytest.raises(ConfigurationError, match="two transports have the name or scheme 'tcp'"):
        await opening.__aenter__()


# -- configuration ----------------------------------------------------------------------------------


async def test_an_address_of_ones_own(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = str(tmp_path / "mine")
    config = ChannelConfig(transports=("unix",), address=UnixAddress(path))
    async with (
        open_communication_factory() as factory,
        factory.open_endpoint(INSTANCE, config=config) as endpoint,
    ):
        assert str(endpoint.address) == f"unix:{path}"
    for transports in (None, ("unix", "tcp")):
        with pytest.raises(ConfigurationError, match="exactly one name in transports"):
            ChannelConfig(transports=transports, address=UnixAddress(path))


async def test_s12_tcp_beyond_loopback_needs_tls() -> None:
    transport = TcpTransport(host="0.0.0.0")
    async with open_communication_factory(transports=(transport,)) as factory:
        with pytest.raises(ChannelCreationFailed, match="can be reached from other machines"):
            await factory.open_endpoint(INSTANCE, config=OVER_TCP).__aenter__()


async def test_s12_tcp_with_tls(certificate: Certificate) -> None:
    config, transport = OVER_TCP, TcpTransport(host="localhost", tls=certificate.server)
    async with (
        open_communication_factory(transports=(transport,)) as factory,
        factory.open_endpoint(INSTANCE, config=config) as endpoint,
        log_in(endpoint, certificate),
    ):
        assert str(endpoint.address).startswith("tls:localhost:")
        channel = await endpoint.wait_connected()
        assert (await channel.request("echo", b"x")).payload == b"x"


async def test_low_latency_is_an_option_of_the_endpoint() -> None:
    config = ChannelConfig(low_latency=True)
    async with (
        open_communication_factory() as factory,
        factory.open_endpoint(INSTANCE, config=config) as endpoint,
        log_in(endpoint),
    ):
        channel = await endpoint.wait_connected()
        for _ in range(10):
            assert (await channel.request("echo", b"x")).payload == b"x"


# -- get_or_create ----------------------------------------------------------------------------------


async def test_get_or_create_opens_once_and_finds_it_again() -> None:
    async with open_memory_factory() as factory, trio.open_nursery() as nursery:
        found: list[CommunicationChannel] = []

        async def get() -> None:
            found.append(await factory.get_or_create(INSTANCE))

        for _ in range(5):
            nursery.start_soon(get)
        await park()
        (endpoint,) = factory.manager.endpoints
        nursery.start_soon(stay, endpoint)
        await park()
        assert len(found) == 5
        assert set(found) == {endpoint.channel}
        await get()
        assert set(found) == {endpoint.channel}
        assert factory.has_channel(INSTANCE)
        assert factory.active_instances == (INSTANCE,)
        assert not factory.has_channel(OTHER)
        await factory.close(INSTANCE)
        assert not factory.manager.endpoints
        assert not factory.has_channel(INSTANCE)
        assert not factory.active_instances
        assert found[0].closed.is_set()


async def test_get_or_create_finds_an_endpoint_that_somebody_owns() -> None:
    """The factory does not close an endpoint that it has not opened."""
    async with open_memory_factory() as factory:
        async with factory.open_endpoint(INSTANCE) as endpoint:
            with pytest.raises(DeadlineExceeded):
                await factory.get_or_create(INSTANCE, config=ChannelConfig(connect_seconds=0.01))
            async with log_in(endpoint):
                channel = await factory.get_or_create(INSTANCE)
                assert channel is endpoint.channel
            with pytest.raises(SpearError, match="has an endpoint already"):
                await factory.open_endpoint(INSTANCE).__aenter__()
        assert not factory.manager.endpoints


async def test_get_or_create_gives_up_in_time_and_leaves_nothing(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_factory() as factory:
        started = trio.current_time()
        with pytest.raises(DeadlineExceeded, match=r"worker#1 did not log in within 60 s"):
            await factory.get_or_create(INSTANCE)
        assert trio.current_time() - started == pytest.approx(InstanceTimeouts().startup_seconds)
        assert not factory.manager.endpoints
        with pytest.raises(DeadlineExceeded, match="within 3 s"):
            await factory.get_or_create(INSTANCE, config=ChannelConfig(connect_seconds=3))
        assert trio.current_time() - started == pytest.approx(
            InstanceTimeouts().startup_seconds + 3
        )
        assert not factory.manager.endpoints


async def test_one_who_gives_up_does_not_take_the_endpoint_from_the_others(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_factory() as factory, trio.open_nursery() as nursery:
        found: list[CommunicationChannel] = []

        async def get(seconds: float) -> None:
            config = ChannelConfig(connect_seconds=seconds)
            found.append(await factory.get_or_create(INSTANCE, config=config))

        async def give_up() -> None:
            with pytest.raises(DeadlineExceeded):
                await get(1)

        nursery.start_soon(give_up)
        await park()
        nursery.start_soon(get, 5)
        await trio.sleep(2)
        (endpoint,) = factory.manager.endpoints
        nursery.start_soon(stay, endpoint)
        await park()
        assert found == [endpoint.channel]
        # After it was connected it stays, even if no caller asks for its channel for a while.
        channel = found[0]
        channel._end(ChannelClosed("lost"))
        with pytest.raises(DeadlineExceeded):
            await get(1)
        assert factory.manager.endpoints == (endpoint,)
        await factory.close_all()


async def test_closing_wakes_those_who_wait_for_a_login() -> None:
    async with open_memory_factory() as factory, trio.open_nursery() as nursery:

        async def expect_closed() -> None:
            with pytest.raises(ChannelClosed, match="is being stopped"):
                await factory.get_or_create(INSTANCE)

        for _ in range(3):
            nursery.start_soon(expect_closed)
        await park()
        await factory.close(INSTANCE)
        assert not factory.manager.endpoints


async def test_closing_while_the_transport_is_being_opened() -> None:
    opening = trio.Event()

    async def wait_for_ever(_: ListenOptions) -> None:
        opening.set()
        await trio.sleep_forever()

    async with (
        open_communication_factory(
            transports=(OwnTransport(wait_for_ever),), strategies=in_memory("own")
        ) as factory,
        trio.open_nursery() as nursery,
    ):

        async def expect_closed() -> None:
            with pytest.raises(ChannelClosed, match="is being stopped"):
                await factory.get_or_create(INSTANCE)

        nursery.start_soon(expect_closed)
        await opening.wait()
        await factory.close(INSTANCE)


async def test_a_bug_in_a_transport_is_an_error_of_spear_to_the_one_who_asked() -> None:
    async def fail(_: ListenOptions) -> None:
        raise ZeroDivisionError

    async with open_communication_factory(
        transports=(OwnTransport(fail),), strategies=in_memory("own")
    ) as factory:
        with pytest.raises(ChannelCreationFailed, match="'own' failed: ZeroDivisionError"):
            await factory.get_or_create(INSTANCE)
        async with factory.open_endpoint(OTHER, config=UNIX_AND_TCP):
            pass


# -- closing ----------------------------------------------------------------------------------------


async def test_close_one_and_close_all() -> None:
    names = [InstanceId("process", f"worker{number}") for number in range(4)]
    async with open_memory_factory() as factory, trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(factory.get_or_create, name)
        await park()
        for endpoint in factory.manager.endpoints:
            nursery.start_soon(stay, endpoint)
        await park()
        assert set(factory.active_instances) == set(names)
        await factory.close(names[0])
        assert set(factory.active_instances) == set(names[1:])
        with pytest.raises(ChannelClosed, match="worker0#1 has no channel"):
            await factory.close(names[0])
        async with trio.open_nursery() as closers:
            closers.start_soon(factory.close_all)
            closers.start_soon(factory.close_all)
            closers.start_soon(factory.close_all)
        assert not factory.active_instances
        assert not factory.manager.endpoints


async def test_leaving_the_factory_closes_every_channel() -> None:
    channels: list[CommunicationChannel] = []
    async with trio.open_nursery() as nursery:
        async with open_memory_factory() as factory:
            for name in ("one", "two"):
                instance = InstanceId("process", name)
                nursery.start_soon(factory.get_or_create, instance)
                await park()
                endpoint = factory.manager.endpoint(instance)
                assert endpoint is not None
                nursery.start_soon(stay, endpoint)
                channels.append(await endpoint.wait_connected())
        assert all(channel.closed.is_set() for channel in channels)


async def test_what_a_factory_has_started_ends_with_it() -> None:
    ended = []

    async def run(task_status: trio.TaskStatus[str]) -> None:
        task_status.started("told")
        try:
            await trio.sleep_forever()
        finally:
            ended.append("it")

    async with open_communication_factory() as factory:
        assert await factory.start(run) == "told"
        assert not ended
    assert ended


async def test_closing_an_endpoint_that_somebody_owns_lets_nobody_in_again() -> None:
    async with (
        open_memory_factory() as factory,
        factory.open_endpoint(INSTANCE) as endpoint,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(stay, endpoint)
        await endpoint.wait_connected()
        await factory.close(INSTANCE)
        assert not factory.has_channel(INSTANCE)
        with pytest.raises(ChannelClosed):
            await factory.get_or_create(INSTANCE)
