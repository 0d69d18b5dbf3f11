"""Whatever a transport raises when listening or accepting, the next one is tried and the host goes on."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
from gadgets import GadgetListener, GadgetTransport, Listen, listens
from trio.testing import MockClock, wait_all_tasks_blocked

from spear import ChannelCreationFailed, InstanceTimeouts, SpearError
from spear.channels import (
    CommunicationFactory,
    CommunicationStrategy,
    connect_channel,
    open_communication_factory,
)
from spear.testing import Functions
from spear.transports import Reach, connect

from .helpers import INSTANCE, echo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear.channels import CommunicationChannel, Endpoint
    from spear.transports import Address, ByteStream, ListenOptions


@asynccontextmanager
async def factory_of(
    how: Listen, *others: str, reach: Reach = Reach.PROCESS
) -> AsyncIterator[CommunicationFactory]:
    """Open a factory with the transport ``gadget``, which listens by ``how``, and others after it."""
    strategy = CommunicationStrategy(("gadget", *others), reach=reach, most=1)
    async with open_communication_factory(
        transports=(GadgetTransport(how),), strategies={"process": strategy}
    ) as factory:
        yield factory


@asynccontextmanager
async def logged_in(endpoint: Endpoint, address: str = "") -> AsyncIterator[CommunicationChannel]:
    functions = Functions({"echo": echo})
    async with (
        connect(address or endpoint.address) as stream,
        connect_channel(
            stream, INSTANCE, endpoint.secret, service=functions, functions=functions.names
        ),
    ):
        yield await endpoint.wait_connected()


# -- listening ----------------------------------------------------------------------------------------


@asynccontextmanager
async def raises(_: ListenOptions) -> AsyncIterator[NoReturn]:
    raise ValueError("the wire is cut")
    yield


@asynccontextmanager
async def a_task_of_it_raises(_: ListenOptions) -> AsyncIterator[NoReturn]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut_the_wire)
        await trio.sleep_forever()
    yield


async def cut_the_wire() -> None:
    raise ValueError("the wire is cut")


@asynccontextmanager
async def yields_none(_: ListenOptions) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def hangs(_: ListenOptions) -> AsyncIterator[NoReturn]:
    await trio.sleep_forever()
    yield


def is_no_block(_: ListenOptions) -> None:
    return None


class Misplaced(GadgetListener):
    """A listener that does not know its address."""

    bound = None  # type: ignore[assignment]  # the mistake


class Textual(GadgetListener):
    bound = "memory:x"  # type: ignore[assignment]  # the mistake


class Distrusted(GadgetListener):
    trust = "ca.pem"  # type: ignore[assignment]  # the mistake


class Lost(GadgetListener):
    @property
    def advertised(self) -> Address:
        raise ValueError("the wire is cut")


FAULTS = [
    (raises, "ValueError: the wire is cut"),
    (a_task_of_it_raises, "ValueError: the wire is cut"),
    (yields_none, "TypeError: expected a Listener, not None"),
    (is_no_block, "NoneType"),
    (hangs, "did not open within 20 s (set by startup_seconds)"),
    (
        partial(listens, make_listener=Misplaced),
        "TypeError: a listener's address must be an Address, not None",
    ),
    (
        partial(listens, make_listener=Textual),
        "a listener's address must be an Address, not 'memory:x'",
    ),
    (partial(listens, make_listener=Lost), "ValueError: the wire is cut"),
    (partial(listens, make_listener=Distrusted), "must be a TlsClient, not 'ca.pem'"),
]
NAMES = [
    "raises", "a task raises", "yields none", "no block", "awaits for ever", "bound is none",
    "bound is text", "advertised raises", "trust is text",
]  # fmt: skip


@pytest.mark.parametrize(("way", "complaint"), FAULTS, ids=NAMES)
async def test_the_next_transport_is_tried_when_one_cannot_listen(
    way: Listen, complaint: str, autojump_clock: MockClock
) -> None:
    async with (
        factory_of(way, "memory") as factory,
        factory.open_endpoint(INSTANCE) as endpoint,
    ):
        assert [each.address for each in endpoint.offered] == ["memory:worker-1"]
        ((name, reason),) = endpoint.not_offered
        assert name == "gadget"
        assert reason.startswith("the transport 'gadget' failed: ")
        assert complaint in reason
        async with logged_in(endpoint) as channel:
            assert (await channel.request("echo", b"x")).payload == b"x"


async def test_a_bug_of_a_transport_is_logged_once_for_each_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with factory_of(raises, "memory") as factory:
        for _ in range(2):
            async with factory.open_endpoint(INSTANCE):
                pass
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    (said,) = [each for each in warnings if " failed: " in each]
    assert said.startswith("the transport 'gadget' failed: ValueError: the wire is cut")


@pytest.mark.parametrize(("way", "complaint"), FAULTS, ids=NAMES)
async def test_an_error_names_each_transport_that_cannot_listen(
    way: Listen, complaint: str, autojump_clock: MockClock
) -> None:
    async with factory_of(way, "pigeon") as factory:
        with pytest.raises(ChannelCreationFailed) as caught:
            await factory.open_endpoint(INSTANCE).__aenter__()
        (name, reason), (other, _) = caught.value.attempts
        assert (name, other) == ("gadget", "pigeon")
        assert complaint in reason
        with pytest.raises(ChannelCreationFailed):
            await factory.get_or_create(INSTANCE)
        assert factory.manager.endpoints == ()


async def test_transports_that_hang_have_one_startup_deadline_together(
    autojump_clock: MockClock,
) -> None:
    timeouts = InstanceTimeouts(startup_seconds=9)
    async with factory_of(hangs, "memory") as factory:
        begun = trio.current_time()
        async with factory.open_endpoint(INSTANCE, timeouts=timeouts):
            assert trio.current_time() - begun == 3


async def test_a_listener_that_is_refused_is_closed() -> None:
    opened: list[GadgetListener] = []

    class Noted(GadgetListener):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            opened.append(self)

    way = partial(listens, make_listener=Noted)
    async with factory_of(way, reach=Reach.MACHINE) as factory:
        with pytest.raises(ChannelCreationFailed, match="cannot be reached from other processes"):
            await factory.open_endpoint(INSTANCE).__aenter__()
        with pytest.raises(trio.ClosedResourceError):
            await opened[0].accept()


async def test_a_task_of_a_listener_that_fails_later_ends_its_endpoint_with_an_error() -> None:
    breaks = trio.Event()

    @asynccontextmanager
    async def breaks_later(options: ListenOptions) -> AsyncIterator[GadgetListener]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_and_cut)
            async with GadgetListener(options.name) as listener:
                yield listener

    async def wait_and_cut() -> None:
        await breaks.wait()
        raise ValueError("the wire is cut")

    async with factory_of(breaks_later) as factory:
        with pytest.raises(SpearError, match="'gadget' failed: ValueError"):  # noqa: PT012  # a block
            async with factory.open_endpoint(INSTANCE):
                breaks.set()
                await trio.sleep_forever()
        assert factory.manager.endpoints == ()


async def test_a_kept_endpoint_whose_listener_fails_later_is_closed_with_a_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    breaks = trio.Event()

    @asynccontextmanager
    async def breaks_later(options: ListenOptions) -> AsyncIterator[GadgetListener]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_and_cut)
            async with GadgetListener(options.name) as listener:
                yield listener

    async def wait_and_cut() -> None:
        await breaks.wait()
        raise ValueError("the wire is cut")

    async with factory_of(breaks_later) as factory, trio.open_nursery() as nursery:

        async def log_in() -> None:
            await wait_all_tasks_blocked()
            (endpoint,) = factory.manager.endpoints
            async with logged_in(endpoint):
                await trio.sleep_forever()

        nursery.start_soon(log_in)
        channel = await factory.get_or_create(INSTANCE)
        breaks.set()
        await channel.closed.wait()
        nursery.cancel_scope.cancel()
    assert factory.manager.endpoints == ()
    told = "process:worker#1: the transport 'gadget' failed: ValueError: the wire is cut"
    assert told in caplog.messages


# -- accepting ----------------------------------------------------------------------------------------


class Deaf(GadgetListener):
    """A listener that cannot accept."""

    async def accept(self) -> ByteStream:
        raise ValueError("the wire is cut")


class Empty(GadgetListener):
    async def accept(self) -> ByteStream:
        return None  # type: ignore[return-value]  # the mistake


class DeafLater(GadgetListener):
    """A listener that accepts once."""

    async def accept(self) -> ByteStream:
        stream = await self.inner.accept()
        self.accept = Deaf.accept.__get__(self)  # type: ignore[method-assign]  # from now on
        return stream


class Clinging(Deaf):
    """A listener that can neither accept nor be closed at once."""

    is_stuck = True

    def close(self) -> None:
        super().close()
        if self.is_stuck:
            self.is_stuck = False
            raise ValueError("it is stuck")


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (Deaf, "ValueError: the wire is cut"),
        (Empty, r"TypeError: accept\(\) must return a ByteStream, not None"),
    ],
)
async def test_a_listener_that_cannot_accept_is_an_error_to_those_who_wait(
    kind: type[GadgetListener], complaint: str
) -> None:
    async with factory_of(partial(listens, make_listener=kind)) as factory:
        with pytest.raises(ChannelCreationFailed, match=complaint) as caught:
            await factory.get_or_create(INSTANCE)
        ((scheme, _),) = caught.value.attempts
        assert scheme == "memory"
        assert factory.manager.endpoints == ()


async def test_an_instance_logs_in_by_the_next_address_when_one_cannot_accept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strategy = CommunicationStrategy(("gadget", "memory"))
    transport = GadgetTransport(partial(listens, make_listener=Clinging))
    async with (
        open_communication_factory(
            transports=(transport,), strategies={"process": strategy}
        ) as factory,
        factory.open_endpoint(INSTANCE) as endpoint,
    ):
        await wait_all_tasks_blocked()
        first, second = (each.address for each in endpoint.offered)
        with pytest.raises(SpearError, match="no listener has that name"):
            async with logged_in(endpoint, first):
                pass
        async with logged_in(endpoint, second) as channel:
            assert (await channel.request("echo", b"x")).payload == b"x"
    assert "cannot close the listener at memory:gadget-worker-1" in caplog.messages


async def test_a_channel_goes_on_when_its_listener_cannot_accept_any_more() -> None:
    async with (
        factory_of(partial(listens, make_listener=DeafLater)) as factory,
        factory.open_endpoint(INSTANCE) as endpoint,
    ):
        async with logged_in(endpoint) as channel:
            await wait_all_tasks_blocked()
            assert (await channel.request("echo", b"x")).payload == b"x"
        with pytest.raises(ChannelCreationFailed, match="ValueError: the wire is cut"):
            await endpoint.wait_connected()
