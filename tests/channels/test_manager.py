"""The connection manager: events, reconnection, heartbeats, statistics."""

from __future__ import annotations

import logging
import re
from contextlib import asynccontextmanager
from itertools import pairwise
from time import sleep as stand_still
from typing import TYPE_CHECKING

import pytest
import trio
from watching import WatchedConnections

from spear import (
    AuthenticationFailed,
    ChannelBroken,
    ChannelClosed,
    HostLimits,
    InstanceId,
    RetryPolicy,
    SpearError,
    WireLimits,
)
from spear._ids import Secret
from spear.channels import (
    CommunicationChannel,
    ConnectionManager,
    Endpoint,
    ThreadedFunctions,
    connect_channel,
    open_connection_manager,
    open_private_nursery,
)
from spear.testing import Functions, RawPeer
from spear.transports import open_memory_listener
from spear.wire import NO_DEADLINE, FrameType, Head, HeadValue, pack_prefix

from .helpers import INSTANCE, MEMORY_STREAM, echo, park, sleep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from .helpers import Carrier


@asynccontextmanager
async def log_in(
    endpoint: Endpoint, secret: Secret | None = None, *, resumes: bool = False
) -> AsyncIterator[tuple[CommunicationChannel, Secret]]:
    """Log in as an agent; yield the channel and the key of the session."""
    stream = await MEMORY_STREAM.connect(endpoint.address)
    functions = Functions({"echo": echo})
    async with connect_channel(
        stream,
        endpoint.instance_id,
        secret or endpoint.secret,
        service=functions,
        functions=functions.names,
        resumes=resumes,
    ) as (channel, login):
        yield channel, login.session


# -- events -----------------------------------------------------------------------------------------


async def test_events_come_in_order(autojump_clock: MockClock) -> None:
    async with MEMORY_STREAM.open_host() as (manager, endpoint):
        watched = WatchedConnections(manager.instruments)
        with pytest.raises(AuthenticationFailed):
            await log_in(endpoint, Secret.generate()).__aenter__()
        async with log_in(endpoint):
            await endpoint.wait_connected()
        await park()
        assert watched.told == [
            ("connected", 1, ""),
            ("authentication_failed", 1, "bad_proof"),
            ("connected", 2, ""),
            ("authenticated", 2, ""),
            ("disconnected", 2, "the peer has closed the channel: closed"),
        ]


async def test_an_event_names_its_instance() -> None:
    async with MEMORY_STREAM.open_host() as (manager, endpoint):
        watched = WatchedConnections(manager.instruments)
        async with log_in(endpoint):
            assert [each.instance for each in watched.events] == [None, INSTANCE]


async def test_an_instrument_that_is_removed_hears_no_more() -> None:
    async with open_connection_manager() as manager:
        watched = WatchedConnections(manager.instruments)
        manager.tell("connected", INSTANCE, 1)
        manager.instruments.remove(watched)
        manager.tell("connected", INSTANCE, 2)
    assert watched.told == [("connected", 1, "")]


# -- endpoints --------------------------------------------------------------------------------------


async def test_each_instance_has_an_endpoint_of_its_own() -> None:
    other = InstanceId("process", "other")
    async with (
        MEMORY_STREAM.open_host() as (manager, endpoint),
        manager.open_endpoint(other, open_memory_listener("there")) as second,
    ):
        assert manager.endpoints == (endpoint, second)
        assert manager.endpoint(INSTANCE) is endpoint
        assert manager.endpoint(other) is second
        assert [each.address for each in second.offered] == ["memory:there"]
        assert second.secret != endpoint.secret
        assert repr(second) == "<Endpoint process:other#1 at memory:there>"
        async with log_in(endpoint):
            assert await endpoint.wait_connected() is endpoint.channel
            assert not second.is_connected
            found = manager.statistics()
            assert (found.endpoints, found.connected, found.logins) == (2, 1, 1)
            with pytest.raises(SpearError, match="has an endpoint already"):
                await manager.open_endpoint(INSTANCE, open_memory_listener("x")).__aenter__()
    assert not manager.endpoints


async def test_leaving_the_block_of_an_endpoint_closes_its_channel() -> None:
    async with open_connection_manager() as manager, trio.open_nursery() as nursery:

        async def agent(endpoint: Endpoint) -> None:
            async with log_in(endpoint) as (channel, _):
                await channel.closed.wait()
                assert isinstance(channel.closed_by, ChannelClosed)

        async with manager.open_endpoint(INSTANCE, open_memory_listener("here")) as endpoint:
            nursery.start_soon(agent, endpoint)
            channel = await endpoint.wait_connected()
        assert channel.closed.is_set()


async def test_an_exception_leaves_the_blocks_as_it_is() -> None:
    """A group around the exception, from an internal nursery, would hide it from an ``except``."""
    with pytest.raises(KeyError) as caught:
        async with MEMORY_STREAM.open_pair():
            raise KeyError("mine")
    assert not isinstance(caught.value.__context__, BaseExceptionGroup)
    cause = OSError()
    with pytest.raises(ValueError, match="mine") as other:
        async with MEMORY_STREAM.open_host():
            raise ValueError("mine") from cause
    assert other.value.__cause__ is cause
    # but an exception that is not alone comes in a group
    with pytest.raises(ExceptionGroup) as group:
        await _fail_twice()
    assert group.group_contains(KeyError)
    assert group.group_contains(LookupError)


async def test_a_block_that_fails_as_it_is_cancelled_fails_as_it_is() -> None:
    with trio.CancelScope() as scope, pytest.raises(KeyError, match="mine"):
        await _fail_cancelled(scope)


async def _fail_cancelled(scope: trio.CancelScope) -> None:
    async with open_private_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        scope.cancel()
        raise KeyError("mine")


async def _fail_twice() -> None:
    async with open_private_nursery() as nursery:
        nursery.start_soon(_raise, LookupError("theirs"))
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("mine")


async def _raise(error: Exception) -> None:
    raise error


async def test_waiting_for_a_login_ends_when_the_endpoint_is_closed() -> None:
    async with MEMORY_STREAM.open_host() as (_, endpoint), trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(ChannelClosed, match="is being stopped"):
                await endpoint.wait_connected()

        nursery.start_soon(wait)
        await park()
        await endpoint.aclose()
        with pytest.raises(ChannelClosed, match="is being stopped"):
            await endpoint.wait_connected()


async def test_an_endpoint_is_ready_when_its_functions_are_announced() -> None:
    async with (
        MEMORY_STREAM.open_host() as (_, endpoint),
        await MEMORY_STREAM.connect(endpoint.address) as stream,
        trio.open_nursery() as nursery,
    ):
        peer = RawPeer(stream)
        await peer.authenticate(
            peer.prove(await peer.receive_challenge(), INSTANCE, endpoint.secret)
        )
        ready: list[CommunicationChannel] = []

        async def wait() -> None:
            ready.append(await endpoint.wait_connected())

        nursery.start_soon(wait)
        await park()
        assert endpoint.channel is None  # calls are possible only after the announcement
        names = [f"f{number}" for number in range(300)]
        await peer.send(
            FrameType.ANNOUNCE,
            head={
                "functions": [*names[:200], names[0]], "streams": ["f7"],
                "plain": ["f8", "f9"], "threads": 4,
            },
        )  # fmt: skip
        # Nonsense in an announcement is ignored.
        await peer.send(FrameType.ANNOUNCE, head={"functions": "f", "streams": 1})
        await peer.send(FrameType.ANNOUNCE, head={"functions": [1, None], "streams": [2]})
        await peer.send(FrameType.ANNOUNCE, head={"plain": ["f1"], "threads": 0})
        await peer.send(FrameType.ANNOUNCE, head={"plain": 1, "threads": 4})
        await peer.send(FrameType.ANNOUNCE, head={"plain": [2, "absent"], "threads": True})
        await peer.send(FrameType.ANNOUNCE)
        await park()
        assert not ready
        await peer.send(FrameType.ANNOUNCE, head={"functions": [*names[200:]], "last": True})
        await park()
        assert ready[0].functions == {name: number + 1 for number, name in enumerate(names)}
        assert ready[0].streams == {"f7"}
        assert ready[0].is_connected
        known = {name: ready[0].threads_for(name) for name in [*names, "absent"]}
        assert {name: threads for name, threads in known.items() if threads is not None} == {
            "f8": 4, "f9": 4,
        }  # fmt: skip
        assert endpoint.channel is ready[0]


async def test_an_endpoint_that_closes_before_the_announcement_says_nothing() -> None:
    async with (
        MEMORY_STREAM.open_host() as (_, endpoint),
        await MEMORY_STREAM.connect(endpoint.address) as stream,
    ):
        peer = RawPeer(stream)
        await peer.authenticate(
            peer.prove(await peer.receive_challenge(), INSTANCE, endpoint.secret)
        )
        await endpoint.aclose()
        assert await peer.wait_closed() == []


async def test_an_agent_with_many_functions_announces_all_of_them() -> None:
    functions = Functions({f"f{number}": echo for number in range(450)})
    async with MEMORY_STREAM.open_pair(
        agent_service=functions,
        functions=functions.names,
        streams=["f3", "f333"],
        threaded=ThreadedFunctions(frozenset({"f5", "f444"}), 7),
    ) as (host, agent):
        assert [host.threads_for(f"f{number}") for number in (5, 6, 444)] == [7, None, 7]
        assert tuple(host.functions) == functions.names
        assert host.streams == {"f3", "f333"}
        assert (await host.request("f449", b"x")).payload == b"x"
        assert agent.is_connected


async def test_retry_policies_are_announced_with_their_functions() -> None:
    functions = Functions({f"f{number}": echo for number in range(450)})
    largest = RetryPolicy(
        max_attempts=100,
        initial_seconds=0.0005,
        max_seconds=1e8,
        on=["\N{GRINNING FACE}" * 128] * 16,
        idempotent=True,
    )
    policies = dict.fromkeys(functions.names[:20], largest) | {"f449": RetryPolicy()}
    async with MEMORY_STREAM.open_pair(
        agent_service=functions, functions=functions.names, retry_policies=policies
    ) as (host, agent):
        assert host.retry_policies == policies
        assert agent.retry_policies == {}
        assert (await host.request("f449", b"x")).payload == b"x"


@asynccontextmanager
async def announcing(head: Head) -> AsyncIterator[Endpoint]:
    """Open an endpoint whose instance has logged in and announced its functions by hand."""
    async with (
        MEMORY_STREAM.open_host() as (_, endpoint),
        await MEMORY_STREAM.connect(endpoint.address) as stream,
    ):
        peer = RawPeer(stream)
        await peer.authenticate(
            peer.prove(await peer.receive_challenge(), INSTANCE, endpoint.secret)
        )
        await peer.send(FrameType.ANNOUNCE, head=head)
        yield endpoint


async def test_what_an_announced_policy_leaves_out_has_its_default() -> None:
    retry: dict[str, HeadValue] = {
        "f": {"max_attempts": 7, "colour": "blue"},
        "unknown": {"max_attempts": 0},
    }
    head: Head = {"functions": ["f", "g"], "retry": retry, "last": True}
    async with announcing(head) as endpoint:
        channel = await endpoint.wait_connected()
        assert channel.retry_policies == {"f": RetryPolicy(max_attempts=7)}


@pytest.mark.parametrize(
    ("retry", "reason"),
    [
        ([], "retry policies: a map was expected"),
        ({"f": 3}, "the retry policy of 'f': a map was expected"),
        ({"f": {"max_attempts": 0}}, r"retry\.max_attempts must be from 1 to 100, not 0"),
        ({"f": {"max_attempts": "9"}}, r"retry\.max_attempts must be a whole number"),
        ({"f": {"initial_seconds": float("nan")}}, r"retry\.initial_seconds must be seconds"),
        ({"f": {"max_seconds": float("inf")}}, r"retry\.max_seconds must be seconds"),
        ({"f": {"on": "E", "idempotent": True}}, r"retry\.on must be a list"),
        ({"f": {"on": [b"E"], "idempotent": True}}, r"retry\.on must be exception classes or"),
        ({"f": {"on": ["E"]}}, r"retry\.on needs idempotent=True"),
        ({"f": {"idempotent": 1}}, r"retry\.idempotent must be True or False, not 1"),
    ],
)
async def test_r18_an_invalid_policy_in_an_announcement_ends_the_connection(
    retry: HeadValue, reason: str
) -> None:
    async with announcing({"functions": ["f"], "retry": retry, "last": True}) as endpoint:
        channel = endpoint._newest
        assert channel is not None
        await channel.closed.wait()
        assert isinstance(channel.closed_by, ChannelBroken)
        assert re.search(reason, str(channel.closed_by))


async def test_s2_only_expected_processes_get_in(unix: Carrier) -> None:
    async with unix.open_host() as (manager, endpoint):
        endpoint.expect_peer(lambda credentials: False)
        stream = await unix.connect(endpoint.address)
        with pytest.raises(ChannelBroken):
            await connect_channel(stream, INSTANCE, endpoint.secret).__aenter__()
        assert manager.statistics().acceptor.refused == {"wrong_process": 1}
        endpoint.expect_peer(lambda credentials: credentials.pid > 0)
        stream = await unix.connect(endpoint.address)
        async with connect_channel(stream, INSTANCE, endpoint.secret):
            await endpoint.wait_connected()


async def test_an_instance_that_reconnects_gets_a_new_channel() -> None:
    async with MEMORY_STREAM.open_host() as (manager, endpoint):
        async with log_in(endpoint) as (_, session):
            first = await endpoint.wait_connected()
        await first.closed.wait()
        async with log_in(endpoint, session, resumes=True):
            second = await endpoint.wait_connected()
            assert second is not first
            assert (await second.request("echo", b"again")).payload == b"again"
        assert manager.statistics().logins == 2


async def test_a_listener_that_breaks_is_logged_and_what_is_connected_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Listener:
        """A listener that accepts once."""

        def __init__(self) -> None:
            self._listener = open_memory_listener("here")
            self.bound = self.advertised = self._listener.bound
            self.trust = None
            self.secure = self._listener.secure
            self.close = self._listener.close
            self._accepted = False

        async def accept(self) -> object:
            if self._accepted:
                raise trio.BrokenResourceError("no more")
            self._accepted = True
            return await self._listener.accept()

    with caplog.at_level(logging.ERROR):
        async with (
            open_connection_manager() as manager,
            manager.open_endpoint(INSTANCE, Listener()) as endpoint,  # type: ignore[arg-type]  # enough of one
            log_in(endpoint),
        ):
            channel = await endpoint.wait_connected()
            await park()
            assert (await channel.request("echo", b"alive")).payload == b"alive"
    assert "can no longer accept connections" in caplog.text


# -- heartbeats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops_after", [0.0, 0.3, 7.77])
async def test_r11_a_frozen_peer_is_found_after_three_intervals(
    stops_after: float, autojump_clock: MockClock
) -> None:
    """Counted from the peer's last frame, and at most a twentieth of an interval later."""
    limits = WireLimits(heartbeat_seconds=1, heartbeat_misses=3)
    async with (
        MEMORY_STREAM.open_host(limits=limits) as (manager, endpoint),
        await MEMORY_STREAM.connect(endpoint.address) as stream,
    ):
        watched = WatchedConnections(manager.instruments)
        peer = RawPeer(stream)
        await peer.log_in(INSTANCE, endpoint.secret)
        channel = await endpoint.wait_connected()
        for _ in range(round(stops_after / 0.3)):
            await trio.sleep(0.3)
            await peer.send(FrameType.HEALTH_RESPONSE)
        await park()
        stopped = trio.current_time()
        await channel.closed.wait()
        assert 3 - 1e-6 <= trio.current_time() - stopped <= 3 + 1 / 10
        assert isinstance(channel.closed_by, ChannelBroken)
        assert "no heartbeat for 3" in str(channel.closed_by)
        assert channel.statistics().heartbeats_missed == 3
        frames = await peer.wait_closed()
        assert [(frame[0], frame[3]) for frame in frames] == [
            (FrameType.HEALTH_CHECK, 1), (FrameType.HEALTH_CHECK, 2),
        ]  # fmt: skip
        await park()
        kinds = [each.kind for each in watched.events]
        assert kinds == ["connected", "authenticated", "heartbeat_lost", "disconnected"]
        assert manager.statistics().heartbeats_lost == 1


async def test_a_peer_that_talks_costs_no_heartbeat(autojump_clock: MockClock) -> None:
    async with MEMORY_STREAM.open_raw() as (channel, peer):
        for _ in range(20):
            await trio.sleep(0.9)
            await peer.send(FrameType.HEALTH_RESPONSE)
        await park()
        assert channel.is_connected
        assert not peer.received
        await peer.send(FrameType.HEALTH_CHECK, a=77)
        frame = await peer.receive()  # the host's very first frame
        assert (frame[0], frame[3]) == (FrameType.HEALTH_RESPONSE, 77)


async def test_a_peer_that_only_answers_heartbeats_stays(autojump_clock: MockClock) -> None:
    functions = Functions({"sleep": sleep})
    async with MEMORY_STREAM.open_pair(agent_service=functions, functions=functions.names) as (
        host,
        _,
    ):
        before = host.statistics().messages_sent
        await trio.sleep(1000)
        assert host.is_connected
        assert host.statistics().heartbeats_missed <= 1
        assert host.statistics().messages_sent == before


async def test_an_agent_speaks_before_it_is_asked(autojump_clock: MockClock) -> None:
    """A request would cost the host as much again as the answer."""
    beat_bytes = len(pack_prefix(FrameType.HEALTH_RESPONSE, 0, 0, 0, 0, None, 0))
    limits = WireLimits(heartbeat_seconds=7)
    async with MEMORY_STREAM.open_pair(limits=limits) as (host, _):
        before = host.statistics()
        await trio.sleep(7 * 100)
        after = host.statistics()
        assert after.bytes_sent == before.bytes_sent
        beats = (after.bytes_received - before.bytes_received) / beat_bytes
        assert 100 <= beats <= 130


@pytest.mark.slow
async def test_a_host_that_stood_still_does_not_blame_its_peers() -> None:
    """After a blocked event loop the peer seems silent for long, but the host had not asked it."""
    limits = WireLimits(heartbeat_seconds=0.02, heartbeat_misses=3)
    async with MEMORY_STREAM.open_pair(limits=limits) as (host, _):
        for _ in range(3):
            stand_still(0.1)
            await trio.sleep(0.03)
            assert host.is_connected


async def test_a_host_that_is_late_gives_its_peer_time_before_it_looks_again(
    autojump_clock: MockClock,
) -> None:
    looks: list[float] = []

    def is_busy() -> bool:
        looks.append(trio.current_time())
        return True

    limits = WireLimits(heartbeat_seconds=1, heartbeat_misses=3)
    async with MEMORY_STREAM.open_raw(limits=limits) as (channel, _):
        channel.set_busy_check(is_busy)
        for _ in range(5):
            autojump_clock.jump(1.98)
            await trio.sleep(1.2)
        assert len(looks) > 5
        assert min(later - look for look, later in pairwise(looks)) >= 0.5 - 1e-6
        assert channel.is_connected


async def test_a_channel_that_is_lost_ends_everything_of_it_at_once(
    autojump_clock: MockClock,
) -> None:
    """The handler is cancelled and the caller fails, even if the other end of the stream stays open."""
    handled = trio.Event()

    async def wait(call: object) -> bytes:
        try:
            await trio.sleep_forever()
        finally:
            handled.set()
        raise AssertionError

    functions = Functions({"wait": wait})
    async with MEMORY_STREAM.open_raw(service=functions) as (channel, peer):
        await peer.send(
            FrameType.EXECUTION_REQUEST, call_id=2, b=NO_DEADLINE, head={"function": "wait"}
        )
        with pytest.raises(ChannelBroken) as caught:
            await channel.request("f", timeout=100)
        assert caught.value.delivered == "maybe"
        await handled.wait()
        await peer.wait_closed()
        assert functions.running == 0
        assert channel.statistics().handlers_running == 0


async def test_the_manager_hands_over_what_it_is_told() -> None:
    async with open_connection_manager(HostLimits(wire=WireLimits(max_calls=7))) as manager:
        assert isinstance(manager, ConnectionManager)
        assert manager.limits.wire.max_calls == 7
        assert manager.statistics().acceptor.accepted == 0
