"""The public test tools, in ways that the tests using them do not cover."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

import spear.testing
from spear import AuthenticationFailed, ChannelBroken, RemoteProtocolError
from spear._ids import Secret
from spear.testing import RawPeer, TrioStateMachine, in_trio
from spear.testing._conformance import caught
from spear.transports import SocketStream, memory_stream_pair

from .helpers import INSTANCE, MEMORY_STREAM, Carrier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


# -- state machines that run in Trio --------------------------------------------------------------


def run(machine: type[TrioStateMachine]) -> None:
    few = settings(max_examples=3, stateful_step_count=5, database=None)
    run_state_machine_as_test(machine, settings=few)


def test_rules_share_a_run_a_task_and_virtual_time() -> None:
    histories: list[list[float]] = []

    class Machine(TrioStateMachine):
        async def run_example(self, rules: Callable[[], Awaitable[None]]) -> None:
            self.history: list[float] = []
            histories.append(self.history)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.tick)
                await rules()
                nursery.cancel_scope.cancel()

        async def tick(self) -> None:
            while True:
                await trio.sleep(100)
                self.history.append(trio.current_time())

        @rule(seconds=st.just(250))
        @in_trio
        async def wait(self, seconds: int) -> None:
            assert threading.current_thread() is not threading.main_thread()
            before = len(self.history)
            await trio.sleep(seconds)
            assert len(self.history) - before in (2, 3)

        @invariant()
        @in_trio
        async def time_stands_still_between_rules(self) -> None:
            assert trio.current_time() % 50 == 0

    run(Machine)
    assert any(histories)


def test_what_a_rule_raises_fails_the_test() -> None:
    class Machine(TrioStateMachine):
        @rule()
        @in_trio
        async def fail(self) -> None:
            raise LookupError("in a rule")

    with pytest.raises(LookupError, match="in a rule"):
        run(Machine)


def test_a_rule_that_hangs_fails_the_test() -> None:
    class Machine(TrioStateMachine):
        @rule()
        @in_trio
        async def hang(self) -> None:
            await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError):
        run(Machine)


def test_a_task_that_a_rule_leaves_behind_may_fail_the_test() -> None:
    class Machine(TrioStateMachine):
        @rule()
        @in_trio
        async def leave(self) -> None:
            self.nursery.start_soon(self.fail)
            await trio.sleep(1)

        async def fail(self) -> None:
            raise LookupError("in a task")

    with pytest.raises(ExceptionGroup) as caught:
        run(Machine)
    assert caught.group_contains(LookupError, match="in a task")


def test_an_example_is_cleaned_up() -> None:
    class Machine(TrioStateMachine):
        async def run_example(self, rules: Callable[[], Awaitable[None]]) -> None:
            await rules()
            raise LookupError("in the clean-up")

        @rule()
        @in_trio
        async def nothing(self) -> None:
            pass

    with pytest.raises(LookupError, match="in the clean-up"):
        run(Machine)


def test_an_example_that_ends_before_its_rules_fails_the_test() -> None:
    class Machine(TrioStateMachine):
        async def run_example(self, rules: Callable[[], Awaitable[None]]) -> None:
            with trio.move_on_after(5):
                await rules()

        @rule()
        @in_trio
        async def wait(self) -> None:
            await trio.sleep(10)

    with pytest.raises(AssertionError, match="the example ended before its last rule"):
        run(Machine)


def test_an_example_that_cannot_be_opened_fails_the_test() -> None:
    class Machine(TrioStateMachine):
        async def run_example(self, rules: Callable[[], Awaitable[None]]) -> None:
            raise LookupError("at the start")

        @rule()
        @in_trio
        async def nothing(self) -> None:
            raise AssertionError("there is no example")

    with pytest.raises(LookupError, match="at the start"):
        run(Machine)


@pytest.mark.slow
def test_an_example_that_does_not_end_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    class Machine(TrioStateMachine):
        async def run_example(self, rules: Callable[[], Awaitable[None]]) -> None:
            await rules()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(let_go.wait)

        @rule()
        @in_trio
        async def nothing(self) -> None:
            pass

    monkeypatch.setattr("spear.testing._stateful.JOIN_SECONDS", 0.01)
    try:
        with pytest.raises(AssertionError, match="the example did not end within"):
            run(Machine)
    finally:
        let_go.set()


async def test_a_case_in_which_nothing_is_raised_fails() -> None:
    with pytest.raises(AssertionError, match="nothing was raised"):
        await caught(trio.lowlevel.checkpoint)


def test_names_that_are_not_there() -> None:
    with pytest.raises(AttributeError, match=r"'spear\.testing' has no attribute 'nothing'"):
        _ = spear.testing.nothing
    assert spear.testing.TrioStateMachine is TrioStateMachine


# -- the instance that a test drives by hand ------------------------------------------------------


async def test_a_raw_peer_is_refused_like_anybody_else() -> None:
    async with (
        MEMORY_STREAM.open_host() as (_, endpoint),
        await MEMORY_STREAM.connect(endpoint.address) as stream,
    ):
        with pytest.raises(AuthenticationFailed):
            await RawPeer(stream).log_in(INSTANCE, Secret(bytes(32)))


async def test_a_raw_peer_says_what_it_finds() -> None:
    ours, theirs = memory_stream_pair()
    peer = RawPeer(ours)
    await theirs.send_all(b"x" * 100)
    with pytest.raises(RemoteProtocolError):
        await peer.receive()
    ours, theirs = memory_stream_pair()
    await theirs.aclose()
    with pytest.raises(ChannelBroken):
        await RawPeer(ours).receive()


async def test_a_raw_peer_hears_that_it_was_cut_off() -> None:
    ours, theirs = (SocketStream(each) for each in socket.socketpair())
    async with ours:
        await ours.send_all(b"nobody reads this")
        theirs.close()
        with pytest.raises(ChannelBroken, match="the host has cut the connection"):
            await RawPeer(ours).receive()


@pytest.mark.parametrize("transport", ["unix", "tcp"])
async def test_a_raw_peer_tears_its_connection_down(
    transport: str, request: pytest.FixtureRequest
) -> None:
    carrier: Carrier = request.getfixturevalue(transport)
    async with carrier.open_raw() as (channel, peer):
        await peer.reset()
        await channel.closed.wait()
        with pytest.raises(trio.ClosedResourceError):
            await peer.receive()
