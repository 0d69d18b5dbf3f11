"""Staying connected to a host, over real sockets: draining, reconnecting, resuming, giving up."""

from __future__ import annotations

import math
import random
import threading
from contextlib import asynccontextmanager, suppress
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

import spear
from spear import (
    Agent,
    AuthenticationFailed,
    ChannelBroken,
    ChannelClosed,
    ConfigurationError,
    FunctionRaised,
    HostLimits,
    InstanceId,
    RemoteProtocolError,
    WireLimits,
)
from spear._ids import Secret
from spear.agent import HostAddresses, serve
from spear.agent._serve import (
    FIRST_DELAY_SECONDS,
    LONGEST_DELAY_SECONDS,
    STABLE_SECONDS,
    backoff_seconds,
)
from spear.channels import open_connection_manager
from spear.transports import (
    TlsClient,
    UnixAddress,
    connect,
    make_private_directory,
    open_tcp_listener,
    open_unix_listener,
)
from spear.wire import OfferedAddress

from .helpers import Caller

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from spear.channels import ConnectionManager, Endpoint
    from spear.transports import Address

INSTANCE = InstanceId("process", "shop")
LIMITS = WireLimits(reconnect_seconds=10)
DRAIN_SECONDS = 5.0


@pytest.fixture
def directory() -> Iterator[str]:
    with make_private_directory() as path:
        yield path


class Host:
    """A host with one endpoint, and a relay in front of it that can be cut."""

    def __init__(self, manager: ConnectionManager, endpoint: Endpoint, relay: Relay) -> None:
        self.manager = manager
        self.endpoint = endpoint
        self.relay = relay

    async def caller(self) -> Caller:
        return Caller(await self.endpoint.wait_connected())


class Relay:
    """A relay between agents and the host, which passes bytes on until a test cuts it."""

    def __init__(self, address: Address, target: Address) -> None:
        self.address = address
        self._target = target
        self._ends: list[tuple[trio.abc.Stream, trio.abc.Stream]] = []
        self._kept: list[trio.abc.Stream] = []
        self.connections = 0
        self.deaf = False

    async def serve(self, near: trio.abc.Stream) -> None:
        self.connections += 1
        if self.deaf:
            await trio.aclose_forcefully(near)
            return
        async with near, connect(self._target) as far, trio.open_nursery() as nursery:
            self._ends.append((near, far))
            nursery.start_soon(self._pump, near, far)
            nursery.start_soon(self._pump, far, near)

    async def _pump(self, source: trio.abc.Stream, target: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(65536):
                await target.send_all(data)
        if target not in self._kept:
            await trio.aclose_forcefully(target)

    async def cut(self) -> None:
        """Cut all connections, at both sides."""
        ends, self._ends = self._ends, []
        for near, far in ends:
            await trio.aclose_forcefully(near)
            await trio.aclose_forcefully(far)

    async def cut_agent(self) -> list[trio.abc.Stream]:
        """Cut the agent off; the host does not notice."""
        ends, self._ends = self._ends, []
        self._kept = [far for _, far in ends]
        for near, _ in ends:
            await trio.aclose_forcefully(near)
        return self._kept


@asynccontextmanager
async def hosting(directory: str, limits: WireLimits = LIMITS) -> AsyncIterator[Host]:
    listener = open_unix_listener(f"{directory}/host")
    relay_listener = open_unix_listener(f"{directory}/relay")
    async with (
        listener,
        relay_listener,
        open_connection_manager(HostLimits(wire=limits)) as manager,
        manager.open_endpoint(INSTANCE, listener) as endpoint,
        trio.open_nursery() as nursery,
    ):
        relay = Relay(relay_listener.bound, endpoint.address)
        nursery.start_soon(trio.serve_listeners, relay.serve, [relay_listener])
        yield Host(manager, endpoint, relay)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(
    agent: Agent,
    host: Host,
    *,
    through_relay: bool = False,
    limits: WireLimits = LIMITS,
    debug: bool = False,
    stop: trio.Event | None = None,
) -> AsyncIterator[trio.Event]:
    """Run an agent that serves the host; yield an event that is set after an orderly end."""
    ended = trio.Event()

    async def run() -> None:
        await serve(
            agent,
            host.relay.address if through_relay else host.endpoint.address,
            host.endpoint.secret,
            INSTANCE,
            limits=limits,
            drain_seconds=DRAIN_SECONDS,
            debug=debug,
            stop=stop,
        )
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield ended
        nursery.cancel_scope.cancel()


class Work:
    """An agent with a function that a test can hold up."""

    def __init__(self, concurrency: int | None = None) -> None:
        self.agent = Agent(concurrency=concurrency)
        self.agent.function(self.echo)
        self.agent.function(self.hold)
        self.agent.function(self.fail)
        self.started = trio.Event()
        self.go = trio.Event()
        self.cancelled = trio.Event()

    async def echo(self, value: object) -> object:
        return value

    async def hold(self) -> str:
        self.started.set()
        try:
            await self.go.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return "held"

    async def fail(self) -> None:
        raise ValueError("wrong")


async def capture(results: list[object], caller: Caller, name: str) -> None:
    try:
        results.append(await caller.call(name, timeout=math.inf))
    except spear.SpearError as error:
        results.append(error)


# -- connected ----------------------------------------------------------------------------------------


async def test_functions_are_called_over_a_socket(directory: str) -> None:
    work = Work(concurrency=7)
    async with hosting(directory) as host, serving(work.agent, host):
        caller = await host.caller()
        assert caller.channel.functions == {"echo": 1, "hold": 2, "fail": 3}
        assert caller.channel.connection.peer.max_calls == 7
        assert await caller.call("echo", ["x"]) == ["x"]
        assert await caller.call("echo", value=b"x") == b"x"


async def test_s14_a_traceback_travels_only_in_debug_mode(directory: str) -> None:
    for debug in (False, True):
        work = Work()
        async with hosting(directory) as host, serving(work.agent, host, debug=debug):
            caller = await host.caller()
            with pytest.raises(FunctionRaised) as raised:
                await caller.call("fail")
            assert (raised.value.remote_traceback is not None) == debug
            assert ("test_serve.py" in str(raised.value)) == debug


async def test_s14_an_agent_may_be_in_debug_mode_by_itself(directory: str) -> None:
    agent = Agent(debug=True)
    agent.function(Work().fail)
    async with hosting(directory) as host, serving(agent, host):
        with pytest.raises(FunctionRaised, match="Traceback"):
            await (await host.caller()).call("fail")


async def test_cancelling_closes_the_channel(directory: str) -> None:
    work = Work()
    async with hosting(directory) as host:
        async with serving(work.agent, host):
            channel = await host.endpoint.wait_connected()
        await channel.closed.wait()
        assert not channel.is_connected


# -- draining -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["host", "agent"])
async def test_r15_running_calls_finish_before_the_end(directory: str, who: str) -> None:
    work, stop, results = Work(), trio.Event(), list[object]()
    async with hosting(directory) as host, serving(work.agent, host, stop=stop) as ended:
        caller = await host.caller()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(capture, results, caller, "hold")
            await work.started.wait()
            if who == "host":
                nursery.start_soon(caller.channel.drain, math.inf)
                await trio.testing.wait_all_tasks_blocked()
            else:
                stop.set()
            await caller.channel.peer_draining.wait()
            with pytest.raises(ChannelClosed) as raised:
                await caller.call("echo", 1)
            assert raised.value.delivered == "no"
            assert not ended.is_set()
            work.go.set()
        assert results == ["held"]
        await ended.wait()
        await caller.channel.closed.wait()


async def test_r15_draining_has_a_limit(
    directory: str, autojump_clock: trio.testing.MockClock
) -> None:
    work, stop, results = Work(), trio.Event(), list[object]()
    async with hosting(directory) as host, serving(work.agent, host, stop=stop) as ended:
        caller = await host.caller()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(capture, results, caller, "hold")
            await work.started.wait()
            begun = trio.current_time()
            stop.set()
            await ended.wait()
            assert trio.current_time() - begun == pytest.approx(DRAIN_SECONDS, abs=0.5)
            assert work.cancelled.is_set()
            nursery.cancel_scope.cancel()
    assert isinstance(results[0], spear.SpearError)


async def test_r15_a_host_that_drains_says_for_how_long(
    directory: str, autojump_clock: trio.testing.MockClock
) -> None:
    work, results = Work(), list[object]()
    async with hosting(directory) as host, serving(work.agent, host, stop=trio.Event()) as ended:
        caller = await host.caller()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(capture, results, caller, "hold")
            await work.started.wait()
            nursery.start_soon(caller.channel.drain, 60)
            await trio.sleep(3 * DRAIN_SECONDS)
            assert not ended.is_set()
            assert not work.cancelled.is_set()
            work.go.set()
            await ended.wait()
    assert results == ["held"]


async def test_r13_whoever_is_stopped_while_draining_does_not_wait(
    directory: str, autojump_clock: trio.testing.MockClock
) -> None:
    work, stop, results = Work(), trio.Event(), list[object]()
    async with hosting(directory) as host, serving(work.agent, host, stop=stop) as ended:
        caller = await host.caller()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(capture, results, caller, "hold")
            await work.started.wait()
            begun = trio.current_time()
            nursery.start_soon(caller.channel.drain, 60)
            await trio.sleep(1)
            assert not ended.is_set()
            stop.set()
            await ended.wait()
            assert trio.current_time() - begun < 2
            nursery.cancel_scope.cancel()


async def test_r15_a_large_result_is_written_to_its_end(directory: str) -> None:
    agent, stop = Agent(), trio.Event()

    @agent.function
    async def large() -> bytes:
        stop.set()
        return bytes(20_000_000)

    async with hosting(directory) as host, serving(agent, host, stop=stop) as ended:
        caller = await host.caller()
        assert await caller.call("large") == bytes(20_000_000)
        await ended.wait()


async def test_a_host_that_closes_ends_the_agent(directory: str) -> None:
    work = Work()
    async with hosting(directory) as host, serving(work.agent, host) as ended:
        caller = await host.caller()
        await caller.call("echo", 1)
        await host.endpoint.aclose()
        await ended.wait()


# -- broken connections -------------------------------------------------------------------------------


async def test_a_broken_connection_is_resumed_in_the_same_incarnation(directory: str) -> None:
    work, results = Work(), list[object]()
    async with hosting(directory) as host, serving(work.agent, host, through_relay=True) as ended:
        for breaks in range(1, 4):
            work.started, work.cancelled = trio.Event(), trio.Event()
            caller = await host.caller()
            assert await caller.call("echo", breaks) == breaks
            async with trio.open_nursery() as nursery:
                nursery.start_soon(capture, results, caller, "hold")
                await work.started.wait()
                await host.relay.cut()
                await work.cancelled.wait()  # the caller has given the call up
            assert isinstance(results[-1], ChannelBroken)
            assert results[-1].delivered == "maybe"
        caller = await host.caller()
        assert await caller.call("echo", "again") == "again"
        assert not ended.is_set()
        statistics = host.manager.statistics()
        assert statistics.logins == host.relay.connections == 4
        assert statistics.refused_logins == {}


async def test_r13_a_busy_thread_does_not_keep_the_connection_from_coming_back(
    directory: str,
) -> None:
    agent = Agent(concurrency=2)
    running, go = threading.Event(), threading.Event()
    results: list[object] = []

    @agent.function
    def block() -> None:
        running.set()
        go.wait()

    @agent.function
    def echo(value: object) -> object:
        return value

    async with hosting(directory) as host, serving(agent, host, through_relay=True):
        caller = await host.caller()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(capture, results, caller, "block")
            await trio.to_thread.run_sync(running.wait)
            await host.relay.cut()
        caller = await host.caller()
        assert await caller.call("echo", 1) == 1
        # The thread still counts: one of two slots is left.
        assert agent.service.threads.busy == 1
        go.set()


async def test_a_host_that_has_not_noticed_the_break_is_asked_again(
    directory: str, autojump_clock: trio.testing.MockClock
) -> None:
    work = Work()
    async with hosting(directory) as host, serving(work.agent, host, through_relay=True):
        caller = await host.caller()
        streams = await host.relay.cut_agent()
        while host.manager.statistics().refused_logins.get("second_login", 0) < 2:
            await trio.sleep(0.1)
        for stream in streams:
            await trio.aclose_forcefully(stream)
        await caller.channel.closed.wait()
        assert await (await host.caller()).call("echo", 5) == 5


async def test_an_agent_that_cannot_resume_gives_up(
    directory: str, autojump_clock: trio.testing.MockClock
) -> None:
    work = Work()
    async with hosting(directory) as host:
        await host.relay.cut()
        begun = math.nan
        with pytest.RaisesGroup(ChannelBroken):
            async with serving(work.agent, host, through_relay=True) as ended:
                await host.caller()
                host.relay.deaf = True  # the relay accepts connections, and closes them
                await host.relay.cut()
                begun = trio.current_time()
                await ended.wait()
        lasted = trio.current_time() - begun
        # The last attempt comes before the time is up; the next one would have come after it.
        assert lasted <= LIMITS.reconnect_seconds
        assert host.relay.connections >= 4


async def test_refusals_to_the_end_are_reported_as_such(
    directory: str, autojump_clock: trio.testing.MockClock
) -> None:
    work = Work()
    async with hosting(directory, attrs.evolve(LIMITS, heartbeat_seconds=60)) as host:
        with pytest.RaisesGroup(AuthenticationFailed):
            async with serving(work.agent, host, through_relay=True) as ended:
                await host.caller()
                await host.relay.cut_agent()
                await ended.wait()


async def test_r12_a_missing_unix_socket_is_not_waited_for(
    directory: str, autojump_clock: trio.testing.MockClock
) -> None:
    begun = trio.current_time()
    with pytest.raises(ChannelBroken, match="No such file or directory"):
        await serve(Agent(), UnixAddress(f"{directory}/gone"), Secret(bytes(32)), INSTANCE)
    assert trio.current_time() - begun < 1


async def test_a_tcp_host_may_come_back_later(autojump_clock: trio.testing.MockClock) -> None:
    async with await open_tcp_listener() as listener:
        address = listener.bound
    begun = trio.current_time()
    with pytest.raises(ChannelBroken, match="cannot connect"):
        await serve(Agent(), address, Secret(bytes(32)), INSTANCE, limits=LIMITS)
    # Three and more refused connections: a TCP host that restarts looks like that.
    assert 1 < trio.current_time() - begun <= LIMITS.reconnect_seconds


async def test_s3_a_wrong_secret_is_tried_once(directory: str) -> None:
    async with hosting(directory) as host:
        with pytest.raises(AuthenticationFailed):
            await serve(Agent(), host.endpoint.address, Secret(bytes(32)), INSTANCE)
        assert host.manager.statistics().refused_logins == {"bad_proof": 1}


async def speak(stream: trio.abc.Stream, words: bytes) -> None:
    await stream.send_all(words)
    with suppress(trio.BrokenResourceError):
        await stream.receive_some(1)
        await trio.sleep_forever()


async def test_what_is_no_spear_host_is_tried_once(directory: str) -> None:
    listener = open_unix_listener(f"{directory}/other")
    async with listener, trio.open_nursery() as nursery:
        served = 0

        async def greet(stream: trio.abc.Stream) -> None:
            nonlocal served
            served += 1
            await speak(stream, b"SSH-2.0-OpenSSH_9.2\r\n" * 10)

        nursery.start_soon(trio.serve_listeners, greet, [listener])
        with pytest.raises(RemoteProtocolError):
            await serve(Agent(), listener.bound, Secret(bytes(32)), INSTANCE)
        assert served == 1
        nursery.cancel_scope.cancel()


async def test_a_host_that_says_nothing_is_given_up(
    directory: str, autojump_clock: trio.testing.MockClock
) -> None:
    listener = open_unix_listener(f"{directory}/silent")
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, lambda stream: speak(stream, b""), [listener])
        begun = trio.current_time()
        with pytest.raises(ChannelBroken, match="did not finish the handshake"):
            await serve(Agent(), listener.bound, Secret(bytes(32)), INSTANCE, limits=LIMITS)
        longest = LIMITS.reconnect_seconds + LIMITS.handshake_seconds
        assert LIMITS.handshake_seconds < trio.current_time() - begun <= longest
        nursery.cancel_scope.cancel()


async def test_settings_that_cannot_work_are_not_tried_again() -> None:
    addresses = HostAddresses([OfferedAddress("tcp:127.0.0.1:1")], tls=TlsClient())
    with pytest.raises(ConfigurationError, match="is an address without TLS"):
        await serve(Agent(), addresses, Secret(bytes(32)), INSTANCE)


async def test_stopping_ends_attempts_to_connect(
    directory: str, autojump_clock: trio.testing.MockClock
) -> None:
    work, stop = Work(), trio.Event()
    async with (
        hosting(directory) as host,
        serving(work.agent, host, through_relay=True, stop=stop) as ended,
    ):
        await host.caller()
        host.relay.deaf = True
        await host.relay.cut()
        await trio.sleep(1)
        stop.set()
        begun = trio.current_time()
        await ended.wait()
        assert trio.current_time() == begun


async def test_one_that_is_stopped_before_it_begins_does_not_connect(directory: str) -> None:
    stop = trio.Event()
    stop.set()
    async with hosting(directory) as host:
        await serve(Agent(), host.relay.address, host.endpoint.secret, INSTANCE, stop=stop)
        assert host.relay.connections == 0


# -- delays -------------------------------------------------------------------------------------------


def test_delays_double_up_to_a_cap_with_full_jitter(seed: random.Random) -> None:
    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0
            return b

    delays = list(islice(backoff_seconds(Longest()), 12))
    assert delays[0] == FIRST_DELAY_SECONDS == 0.1
    assert delays[-1] == LONGEST_DELAY_SECONDS == 30
    assert all(b == min(2 * a, 30) for a, b in pairwise(delays))
    # Full jitter: the delay is between zero and the full one.
    firsts = [next(backoff_seconds(seed)) for _ in range(1000)]
    assert 0 <= min(firsts) < 0.01
    assert 0.09 < max(firsts) <= 0.1


async def test_a_connection_that_keeps_breaking_is_made_less_and_less_often(
    directory: str, autojump_clock: trio.testing.MockClock
) -> None:
    work = Work()

    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    async def reconnecting() -> float:
        await host.relay.cut()
        begun = trio.current_time()
        channel = host.endpoint.channel
        while host.endpoint.channel is channel:
            await trio.sleep(0.01)
        await host.caller()
        return trio.current_time() - begun

    async with hosting(directory) as host, trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: serve(
                work.agent,
                host.relay.address,
                host.endpoint.secret,
                INSTANCE,
                limits=LIMITS,
                rng=Longest(),
            )
        )
        await host.caller()
        took = [await reconnecting() for _ in range(5)]
        assert took == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6], abs=0.05)
        await trio.sleep(STABLE_SECONDS)  # this connection counts as stable
        assert await reconnecting() == pytest.approx(0.1, abs=0.05)
        nursery.cancel_scope.cancel()
