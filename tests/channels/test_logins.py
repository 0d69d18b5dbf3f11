"""Logins: one secret, one use, the same answer to all others (S3); and strangers (S4, S5)."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import pytest
import trio
from watching import WatchedConnections

from spear import (
    AuthenticationFailed,
    ChannelBroken,
    DeadlineExceeded,
    InstanceId,
    RemoteProtocolError,
    WireLimits,
)
from spear._ids import Secret
from spear.channels import CommunicationChannel, ConnectionManager, Endpoint, connect_channel
from spear.testing import Functions, RawPeer, Resources
from spear.transports import memory_stream_pair, open_memory_listener
from spear.wire import (
    NONCE_BYTES,
    AuthAccepted,
    AuthRequest,
    Challenge,
    FrameType,
    Receiver,
    agent_text,
    host_text,
)

from .helpers import INSTANCE, MEMORY_STREAM, echo, park

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

    from .helpers import Carrier

WRONG_SECRET = Secret(bytes(32))


@asynccontextmanager
async def dial(endpoint: Endpoint, carrier: Carrier = MEMORY_STREAM) -> AsyncIterator[RawPeer]:
    async with await carrier.connect(endpoint.address) as stream:
        yield RawPeer(stream)


async def answer_to(peer: RawPeer, request: AuthRequest) -> bytes:
    """Return all bytes that the host sends after a request, up to the end of the connection."""
    await peer.send(FrameType.AUTH_REQUEST, head=request.to_head())
    said = b""
    while data := await peer.stream.receive_some(1000):
        said += data
    return said


async def try_in(endpoint: Endpoint, **changes: object) -> bytes:
    """Try to log in as the right instance with the right secret, except for ``changes``."""
    arguments: dict[str, object] = {
        "instance": endpoint.instance_id, "secret": endpoint.secret, **changes
    }  # fmt: skip
    async with dial(endpoint) as peer:
        request = peer.prove(await peer.receive_challenge(), **arguments)  # type: ignore[arg-type]  # as given
        return await answer_to(peer, request)


@asynccontextmanager
async def logged_in(
    endpoint: Endpoint, secret: Secret | None = None, *, resumes: bool = False
) -> AsyncIterator[tuple[CommunicationChannel, Secret]]:
    """Log in; yield the channel, and the key that resumes its session."""
    stream = await MEMORY_STREAM.connect(endpoint.address)
    async with connect_channel(stream, INSTANCE, secret or endpoint.secret, resumes=resumes) as (
        _,
        login,
    ):
        yield await endpoint.wait_connected(), login.session


async def broken(endpoint: Endpoint) -> Secret:
    """Log in, break the connection, and return the session's key."""
    async with logged_in(endpoint) as (channel, session):
        pass
    await channel.closed.wait()
    await park()
    return session


# -- S3: each way to log in without permission ----------------------------------------------------


async def wrong_proof(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    return await try_in(endpoint, secret=WRONG_SECRET)


async def wrong_instance(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    return await try_in(endpoint, instance=InstanceId("process", "other"))


async def wrong_incarnation(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    return await try_in(endpoint, instance=INSTANCE.next_incarnation())


async def swapped_instance(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    """Use the neighbour's secret at this endpoint with this instance's id."""
    neighbour = InstanceId("process", "neighbour")
    listener = open_memory_listener("next door")
    async with manager.open_endpoint(neighbour, listener) as next_door:
        return await try_in(endpoint, secret=next_door.secret)


async def late_use(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    await trio.sleep(manager.limits.timeouts.startup_seconds + 0.01)
    return await try_in(endpoint)


async def second_use(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    await broken(endpoint)
    return await try_in(endpoint)


async def second_login(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    """Log in again while the channel is connected, with any valid proof."""
    async with logged_in(endpoint) as (channel, session):
        said = await try_in(endpoint)
        assert await try_in(endpoint, secret=session, resumes=True) == said
        assert channel.is_connected
        return said


async def replay(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    """Repeat an accepted request byte for byte."""
    async with dial(endpoint) as peer:
        request = peer.prove(await peer.receive_challenge(), INSTANCE, endpoint.secret)
        await peer.authenticate(request)
        await peer.announce(())
        await endpoint.wait_connected()
    await park()
    async with dial(endpoint) as peer:
        await peer.receive_challenge()
        return await answer_to(peer, request)


async def reflection(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    """Send the host's own nonce back, with a proof that the host made for another purpose."""
    async with dial(endpoint) as peer:
        challenge = await peer.receive_challenge()
        text = host_text(challenge.newest, INSTANCE, challenge.nonce, challenge.nonce)
        proof = endpoint.secret.prove(text)
        request = AuthRequest(challenge.newest, INSTANCE, challenge.nonce, proof)
        return await answer_to(peer, request)


async def wrong_version(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    return await try_in(endpoint, version=99)


async def nothing_to_resume(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    return await try_in(endpoint, resumes=True)


async def resume_with_the_secret(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    await broken(endpoint)
    return await try_in(endpoint, resumes=True)


async def resume_too_late(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    session = await broken(endpoint)
    await trio.sleep(manager.limits.wire.reconnect_seconds + 0.01)
    return await try_in(endpoint, secret=session, resumes=True)


async def resume_twice(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    session = await broken(endpoint)
    async with logged_in(endpoint, session, resumes=True):
        pass
    await park()
    return await try_in(endpoint, secret=session, resumes=True)


async def resume_what_was_closed(manager: ConnectionManager, endpoint: Endpoint) -> bytes:
    """Log in after aclose(), although the session could be resumed otherwise."""
    async with logged_in(endpoint) as (_, session):
        await endpoint.aclose()
    await park()
    return await try_in(endpoint, secret=session, resumes=True)


ATTEMPTS: dict[str, Callable[[ConnectionManager, Endpoint], Awaitable[bytes]]] = {
    "bad_proof": wrong_proof,
    "wrong_instance": wrong_instance,
    "wrong_instance 2": wrong_incarnation,
    "bad_proof 2": swapped_instance,
    "secret_expired": late_use,
    "secret_spent": second_use,
    "second_login": second_login,
    "secret_spent 2": replay,
    "bad_proof 3": reflection,
    "wrong_version": wrong_version,
    "nothing_to_resume": nothing_to_resume,
    "bad_proof 4": resume_with_the_secret,
    "nothing_to_resume 2": resume_too_late,
    "bad_proof 5": resume_twice,
    "endpoint_closed": resume_what_was_closed,
}
"""The attempts, by the reason under which the host counts them."""


@pytest.mark.parametrize("name", ATTEMPTS)
async def test_s3_every_refusal_reads_the_same(name: str, autojump_clock: MockClock) -> None:
    reason = name.split()[0]
    async with MEMORY_STREAM.open_host() as (manager, endpoint):
        watched = WatchedConnections(manager.instruments)
        expected = await wrong_proof(manager, endpoint)
        said = await ATTEMPTS[name](manager, endpoint)
        assert said == expected
        assert len(said) < 200
        await park()
        refused = manager.statistics().refused_logins
        assert refused.get(reason, 0) >= 1 + (reason == "bad_proof")
        failures = watched.refusals
        assert failures[0] == "bad_proof"
        assert failures[-1] == reason
        assert sum(refused.values()) == len(failures)
        assert sum(manager.statistics().acceptor.refused.values()) == len(failures)


@pytest.mark.slow
async def test_s3_refusals_take_the_same_time_whatever_the_reason(seed: random.Random) -> None:
    """Medians differ by less than 5 ms, so timing does not reveal whether an instance exists."""
    attempts = (wrong_proof, wrong_instance, wrong_version, nothing_to_resume)
    took: list[list[float]] = [[] for _ in attempts]
    async with MEMORY_STREAM.open_host() as (manager, endpoint):
        # In turns, so that a slow moment of the machine affects all of them; in changing order, so that
        # it does not coincide with one of them.
        for _ in range(40):
            for attempt, seconds in seed.sample([*zip(attempts, took, strict=True)], len(took)):
                started = perf_counter()
                await attempt(manager, endpoint)
                seconds.append(perf_counter() - started)
    medians = [median(seconds) for seconds in took]
    assert max(medians) - min(medians) <= 0.005


async def test_s3_a_broken_session_is_resumed_again_and_again(autojump_clock: MockClock) -> None:
    async with MEMORY_STREAM.open_host() as (manager, endpoint):
        session = await broken(endpoint)
        for _ in range(3):
            await trio.sleep(manager.limits.wire.reconnect_seconds - 0.1)
            async with logged_in(endpoint, session, resumes=True) as (channel, session):
                assert channel.is_connected
                assert endpoint.channel is channel
        assert manager.statistics().logins == 4
        assert not manager.statistics().refused_logins


async def leave_without_the_answer(endpoint: Endpoint, key: Secret, *, resumes: bool) -> None:
    """Log in, and lose the connection before the host's answer is read."""
    async with dial(endpoint) as peer:
        request = peer.prove(await peer.receive_challenge(), INSTANCE, key, resumes=resumes)
        await peer.send(FrameType.AUTH_REQUEST, head=request.to_head())
        await park()
    await park()


async def test_s3_a_login_whose_answer_was_lost_can_be_repeated() -> None:
    """The host has gone on to the next session key, which the agent does not know."""
    async with MEMORY_STREAM.open_host() as (manager, endpoint):
        for _ in range(2):
            await leave_without_the_answer(endpoint, endpoint.secret, resumes=False)
        session = await broken(endpoint)
        for _ in range(2):
            await leave_without_the_answer(endpoint, session, resumes=True)
        async with logged_in(endpoint, session, resumes=True) as (channel, _):
            assert channel.is_connected
        await park()
        assert manager.statistics().logins == 6
        assert not manager.statistics().refused_logins
        await try_in(
            endpoint, secret=session, resumes=True
        )  # the agent has proved that it knows the next key
        await try_in(endpoint)
        assert manager.statistics().refused_logins == {"bad_proof": 1, "secret_spent": 1}


@pytest.mark.slow
async def test_s3_a_failed_attempt_does_not_spend_the_secret() -> None:
    async with MEMORY_STREAM.open_host() as (manager, endpoint):
        for _ in range(3):
            await wrong_proof(manager, endpoint)
        async with logged_in(endpoint) as (channel, _):
            assert channel.is_connected


async def test_s3_of_two_logins_at_the_same_time_one_succeeds() -> None:
    results: list[str] = []

    async def enter() -> None:
        stream = await MEMORY_STREAM.connect(endpoint.address)
        try:
            async with connect_channel(stream, INSTANCE, endpoint.secret):
                results.append("in")
                await park()
        except AuthenticationFailed:
            results.append("out")

    async with MEMORY_STREAM.open_host() as (_, endpoint), trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(enter)
    assert sorted(results) == ["in", "out", "out", "out", "out"]


# -- S3: the agent's side -------------------------------------------------------------------------


class FalseHost:
    """The host's end of a stream, which sends what a test wants."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.peer = RawPeer(stream)
        self.nonce = bytes(NONCE_BYTES)

    async def challenge(self, newest: int = 1, oldest: int = 1) -> AuthRequest:
        head = Challenge(self.nonce, newest, oldest).to_head()
        await self.peer.send(FrameType.CHALLENGE, head=head)
        return AuthRequest.from_head_untrusted((await self.peer.receive())[5])

    async def accept(self, request: AuthRequest, secret: Secret) -> None:
        text = host_text(request.version, request.instance, self.nonce, request.nonce)
        head = AuthAccepted(secret.prove(text)).to_head()
        await self.peer.send(FrameType.AUTH_RESPONSE, head=head)


async def enter(
    play: Callable[[FalseHost], Awaitable[object]], secret: Secret = WRONG_SECRET
) -> None:
    """Let an agent log in to a host that behaves as ``play`` does."""
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, FalseHost(theirs))
        try:
            async with connect_channel(ours, INSTANCE, secret):
                raise AssertionError("the agent accepted the false host")
        finally:
            nursery.cancel_scope.cancel()


async def expect(error: type[Exception], play: Callable[[FalseHost], Awaitable[object]]) -> str:
    with pytest.raises(ExceptionGroup) as caught:
        await enter(play)
    (found,) = [each for each in caught.value.exceptions if isinstance(each, error)]
    return str(found)


async def test_s3_a_host_that_does_not_know_the_secret_is_not_believed() -> None:
    async def play(host: FalseHost) -> None:
        await host.accept(await host.challenge(), Secret.generate())

    assert "the peer is not the expected host" in await expect(AuthenticationFailed, play)


async def test_s3_a_host_that_sends_our_proof_back_is_not_believed() -> None:
    async def play(host: FalseHost) -> None:
        request = await host.challenge()
        text = agent_text(request.version, request.instance, host.nonce, request.nonce)
        assert WRONG_SECRET.verify(text, request.proof)
        head = AuthAccepted(request.proof).to_head()
        await host.peer.send(FrameType.AUTH_RESPONSE, head=head)

    assert "the peer is not the expected host" in await expect(AuthenticationFailed, play)


async def test_s3_an_agent_that_is_refused_says_so() -> None:
    async def play(host: FalseHost) -> None:
        await host.challenge()
        await host.peer.send(FrameType.AUTH_RESPONSE, head={"ok": False, "reason": "secret"})

    assert "the host's log has the reason" in await expect(AuthenticationFailed, play)


async def test_an_agent_that_speaks_no_common_version_names_both() -> None:
    async def play(host: FalseHost) -> None:
        await host.challenge(newest=9, oldest=7)

    assert "versions 7 to 9 of the protocol; this agent supports version 1" in await expect(
        RemoteProtocolError, play
    )


async def test_an_agent_that_finds_something_else_at_the_other_end() -> None:
    async def greet(host: FalseHost) -> None:
        await host.peer.stream.send_all(b"220 mail.example.org ESMTP ready, how are you\r\n")
        await trio.sleep_forever()

    async def say_the_wrong_thing(host: FalseHost) -> None:
        await host.peer.send(FrameType.HEALTH_CHECK)
        await trio.sleep_forever()

    async def say_too_much(host: FalseHost) -> None:
        frame = host.peer.encode(FrameType.CHALLENGE, head=Challenge(host.nonce).to_head())
        await host.peer.stream.send_all(2 * frame)
        await trio.sleep_forever()

    async def leave(host: FalseHost) -> None:
        await host.peer.reset()

    for play in (greet, say_the_wrong_thing, say_too_much):
        await expect(RemoteProtocolError, play)
    await expect(ChannelBroken, leave)


async def test_s4_an_agent_does_not_wait_for_a_silent_host(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    await expect(DeadlineExceeded, lambda host: trio.sleep_forever())
    assert trio.current_time() - started == pytest.approx(WireLimits().handshake_seconds)


# -- S4: strangers ----------------------------------------------------------------------------------


async def test_s4_a_stranger_has_two_seconds(autojump_clock: MockClock) -> None:
    """The deadline holds even if the stranger keeps sending bytes."""

    async def drip(peer: RawPeer) -> None:
        frame = peer.encode(FrameType.AUTH_REQUEST, head={"x": "y" * 3000})
        for byte in frame:
            await peer.stream.send_all(bytes([byte]))
            await trio.sleep(0.01)

    async with MEMORY_STREAM.open_host() as (manager, endpoint):
        for talk in (drip, None):
            async with dial(endpoint) as peer, trio.open_nursery() as nursery:
                started = trio.current_time()
                if talk:
                    nursery.start_soon(talk, peer)
                await peer.wait_closed()
                assert trio.current_time() - started == pytest.approx(2)
                nursery.cancel_scope.cancel()
        assert manager.statistics().acceptor.refused == {"handshake_timeout": 2}


async def test_s4_a_stranger_cannot_make_us_buffer_more_than_4_kib() -> None:
    async with MEMORY_STREAM.open_host() as (manager, endpoint):
        for size in (5_000, 2**62):
            async with dial(endpoint) as peer:
                await peer.receive_challenge()
                await peer.stream.send_all(size.to_bytes(8, "little") + bytes(40))
                assert await peer.wait_closed() == []
        assert manager.statistics().acceptor.refused == {"oversized": 2}


@pytest.mark.slow
async def test_s4_a_thousand_slow_connections_do_not_keep_an_honest_one_out(
    autojump_clock: MockClock,
) -> None:
    """At most 64 connections wait at a time: the oldest is cut first, and the newest gets its chance."""
    async with MEMORY_STREAM.open_host() as (manager, endpoint), AsyncExitStack() as crowd:
        for number in range(1000):
            await crowd.enter_async_context(dial(endpoint))
            if number % 100 == 0:
                await park()
                assert manager.statistics().acceptor.unauthenticated <= 64
        await park()
        async with logged_in(endpoint) as (channel, _):
            assert channel.is_connected
        found = manager.statistics().acceptor
        assert found.refused["crowded_out"] >= 1000 - 64
        assert found.unauthenticated <= 64


BAD_BEGINNINGS = {
    "left": b"",
    "cut_short": RawPeer.encode(FrameType.AUTH_REQUEST, head={"version": 1})[:-1],
    "oversized": (5_000).to_bytes(8, "little") + bytes(40),
    "garbage": RawPeer.encode(FrameType.HEALTH_CHECK),
}


@pytest.mark.parametrize("reason", BAD_BEGINNINGS)
async def test_s5_a_bad_beginning_is_counted_by_its_reason(reason: str, carrier: Carrier) -> None:
    begin = BAD_BEGINNINGS[reason]
    for cuts in ([begin], [begin[at : at + 1] for at in range(len(begin))]):
        async with carrier.open_host() as (manager, endpoint):
            async with dial(endpoint, carrier) as peer:
                await peer.receive_challenge()
                for part in cuts:
                    try:
                        await peer.stream.send_all(part)
                    except trio.BrokenResourceError:
                        break  # the host cut the connection early
            while not manager.statistics().acceptor.refused:
                await trio.sleep(0.001)
            assert manager.statistics().acceptor.refused == {reason: 1}


# -- S5 ---------------------------------------------------------------------------------------------


def garbage(seed: random.Random) -> bytes:
    """Return bytes of some kind that no agent would send."""
    frame = RawPeer.encode(FrameType.AUTH_REQUEST, head={"version": 1, "nonce": seed.randbytes(32)})
    kind = seed.randrange(6)
    if kind == 0:
        return seed.randbytes(seed.randrange(1, 300))
    if kind == 1:
        return frame[: seed.randrange(len(frame))]
    if kind == 2:
        broken = bytearray(frame)
        for _ in range(seed.randrange(1, 8)):
            broken[seed.randrange(len(broken))] = seed.randrange(256)
        return bytes(broken)
    if kind == 3:
        return frame * 3
    if kind == 4:
        return RawPeer.encode(seed.randrange(256), call_id=seed.randrange(2**64))
    return b""


@pytest.mark.slow
@pytest.mark.repetitive
async def test_s5_garbage_on_a_live_listener_hurts_nobody(
    carrier: Carrier, seed: random.Random
) -> None:
    await endure_garbage(carrier, 100 if carrier.client else 2500, seed)


@pytest.mark.soak
async def test_s5_ten_thousand_times_garbage_on_a_live_listener(
    carrier: Carrier, seed: random.Random
) -> None:
    await endure_garbage(carrier, 10_000, seed)


async def endure_garbage(carrier: Carrier, count: int, seed: random.Random) -> None:
    functions = Functions({"echo": echo})
    calls = 0

    async def talk_on() -> None:
        nonlocal calls
        while True:
            body = b"%d" % calls
            assert (await channel.request("echo", body, timeout=10)).payload == body
            calls += 1
            await trio.sleep(0.001)

    async def shout() -> None:
        try:
            async with dial(endpoint, carrier) as peer:
                await peer.stream.send_all(garbage(seed))
                if seed.randrange(2):
                    await peer.reset()
                else:
                    with trio.move_on_after(0.01):
                        await peer.wait_closed()
        except (RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the host cut the connection early

    async with carrier.open_host(service=functions) as (manager, endpoint):
        stream = await carrier.connect(endpoint.address)
        async with connect_channel(
            stream, INSTANCE, endpoint.secret, service=functions, functions=functions.names
        ):
            channel = await endpoint.wait_connected()
            await channel.request("echo")
            tasks = len(Resources.count().tasks)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk_on)
                for _ in range(count // 20):
                    before = calls
                    async with trio.open_nursery() as crowd:
                        for _ in range(20):
                            crowd.start_soon(shout)
                    while calls == before:  # otherwise the test hangs
                        await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
            while manager.statistics().acceptor.unauthenticated:
                await trio.sleep(0.001)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(Resources.count().tasks) <= tasks
            assert channel.is_connected
            found = manager.statistics()
            assert found.acceptor.accepted == count + 1
            assert sum(found.acceptor.refused.values()) == count
            assert found.acceptor.refused["garbage"] > count // 10
            assert found.acceptor.failed == 0
            assert found.logins == 1
            assert not channel.statistics().failures


def test_receivers_of_strangers_are_small() -> None:
    """The parser of strangers' bytes has the limit of S4, not only the accept loop."""
    receiver = Receiver(WireLimits())
    assert receiver.receive_data((5_000).to_bytes(8, "little") + bytes(40)) == []
    assert receiver.error is not None
    assert receiver.buffered_bytes <= 4096
