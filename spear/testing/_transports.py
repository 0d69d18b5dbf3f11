"""A conformance suite for transports: addresses, listeners, connections, and the streams over them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs
import trio
import trio.testing

from spear._errors import ChannelBroken
from spear._host_limits import HostLimits
from spear._ids import InstanceId
from spear._limits import DEFAULT_WIRE_LIMITS, WireLimits
from spear.channels import (
    CommunicationChannel,
    Service,
    connect_channel,
    open_connection_manager,
    open_private_nursery,
    protected_block,
)
from spear.transports import (
    ConnectOptions,
    Listener,
    ListenOptions,
    TlsClient,
    Transport,
    make_private_directory,
)

from ._cancel_sweep import cancel_sweep
from ._conformance import HANG_SECONDS, caught
from ._streams import STREAM_CASES, StreamPair, receive_exactly

if TYPE_CHECKING:
    from spear.transports import ByteStream


TESTED: Final = InstanceId("memory", "tested")


@final
@attrs.frozen
class TransportSubject:
    """A transport that is being tested, with what each case needs of it.

    Args:
        transport: the one.
        get_directory: makes a private directory, or finds it.
        tls: whom connections trust; None for what the listener says.
    """

    transport: Transport
    get_directory: Callable[[], str]
    tls: TlsClient | None = None
    _numbers: count[int] = attrs.field(factory=count, init=False)

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        """Listen at an address that no other listener has."""
        name = f"tested-{next(self._numbers)}"
        return self.transport.listen(ListenOptions(name=name, get_directory=self.get_directory))

    def connect(self, listener: Listener) -> AbstractAsyncContextManager[trio.abc.Stream]:
        """Connect as an instance would that was told the listener's address."""
        options = ConnectOptions(seconds=HANG_SECONDS, tls=self.tls or listener.trust)
        return self.transport.connect(listener.advertised, options)

    @protected_block
    async def open_streams(self) -> AsyncIterator[StreamPair]:
        """Two connected streams: (who connected, who accepted)."""
        async with self.listen() as listener, open_private_nursery() as nursery:
            accepting = _Accepting(listener)
            nursery.start_soon(accepting.run)
            async with self.connect(listener) as near:
                far = await accepting.wait()
                try:
                    yield near, far
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.aclose_forcefully(far)

    @protected_block
    async def open_channels(
        self,
        *,
        host_service: Service | None = None,
        agent_service: Service | None = None,
        functions: Sequence[str] = (),
        streams: Collection[str] = (),
        limits: WireLimits = DEFAULT_WIRE_LIMITS,
    ) -> AsyncIterator[tuple[CommunicationChannel, CommunicationChannel]]:
        """Both ends of a channel over this transport, for :func:`check_channel`: (host's, agent's)."""
        async with (
            open_connection_manager(HostLimits(wire=limits)) as manager,
            self.listen() as listener,
            manager.open_endpoint(TESTED, listener, service=host_service) as endpoint,
            self.connect(listener) as stream,
            connect_channel(
                stream,
                TESTED,
                endpoint.secret,
                service=agent_service,
                functions=functions,
                streams=streams,
                limits=limits,
            ) as (agent, _),
        ):
            yield await endpoint.wait_connected(), agent


class _Accepting:
    """The next connection of a listener."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._accepted = trio.Event()
        self._stream: trio.abc.Stream
        self.raw: ByteStream

    async def run(self) -> None:
        self.raw = await self._listener.accept()
        self._stream = await self._listener.secure(self.raw)
        self._accepted.set()

    async def wait(self) -> trio.abc.Stream:
        await self._accepted.wait()
        return self._stream


TransportCase: TypeAlias = Callable[[TransportSubject], Awaitable[None]]

TRANSPORT_CASES: Final[dict[str, TransportCase]] = {}
"""All cases by name, those of :data:`STREAM_CASES` included, to run them one by one."""


def _case(function: TransportCase) -> TransportCase:
    async def limited(subject: TransportSubject) -> None:
        with trio.fail_after(HANG_SECONDS):
            await function(subject)

    TRANSPORT_CASES[function.__name__] = limited
    return limited


def _of_streams(name: str) -> TransportCase:
    async def run(subject: TransportSubject) -> None:
        await STREAM_CASES[name](subject.open_streams)

    return run


TRANSPORT_CASES.update({name: _of_streams(name) for name in STREAM_CASES})


async def check_transport(transport: Transport, *, tls: TlsClient | None = None) -> None:
    """Perform all of :data:`TRANSPORT_CASES`.

    A channel over the transport is not part of them: :func:`check_channel` takes
    :meth:`TransportSubject.open_channels`.

    Args:
        transport: the one; it chooses its addresses itself.
        tls: whom connections trust, if the listeners do not say that.

    Raises:
        AssertionError: the transport does not do what it should; a note names the case.
        trio.TooSlowError: it hangs.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(make_private_directory())
        subject = TransportSubject(transport, lambda: directory, tls)
        for name, case in TRANSPORT_CASES.items():
            try:
                await case(subject)
            except BaseException as error:
                error.add_note(f"in the case {name!r}")
                raise


# -- addresses ------------------------------------------------------------------------------------


@_case
async def writes_addresses_that_it_can_read(subject: TransportSubject) -> None:
    """Address and text are two forms of one thing, and the text begins with a scheme of the transport."""
    transport = subject.transport
    assert transport.name, "a transport needs a name"
    async with subject.listen() as listener:
        for address in listener.bound, listener.advertised:
            text = str(address)
            scheme, colon, _ = text.partition(":")
            assert colon, f"{text!r} has no scheme"
            assert scheme in transport.schemes, f"{text!r} begins with none of {transport.schemes}"
            assert transport.parse(text) == address, f"{text!r} is read as another address"
            assert hash(transport.parse(text)) == hash(address)
            assert address.reach is transport.parse(text).reach


# -- listening ------------------------------------------------------------------------------------


@_case
async def listens_at_several_addresses(subject: TransportSubject) -> None:
    """Each listener gets the connections to its own address."""
    async with subject.listen() as one, subject.listen() as other:
        assert one.advertised != other.advertised
        for listener in one, other:
            await _exchange(subject, listener)


@_case
async def keeps_connections_apart(subject: TransportSubject) -> None:
    """Several connections to one listener, each with a peer of its own."""
    async with subject.listen() as listener, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_exchange, subject, listener)
            await trio.testing.wait_all_tasks_blocked()


@_case
async def keeps_a_connection_for_the_next_accept(subject: TransportSubject) -> None:
    """A cancelled ``accept`` has lost no connection."""
    async with subject.listen() as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.accept)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with trio.CancelScope() as scope:
            scope.cancel()
            await listener.accept()
        assert scope.cancelled_caught, "accept() is no checkpoint"
        await _exchange(subject, listener)


@_case
async def wakes_an_accept_when_it_is_closed(subject: TransportSubject) -> None:
    """``trio.ClosedResourceError``, for one that is blocked and for later ones; closing twice is fine."""
    async with subject.listen() as listener:
        errors: list[Exception] = []

        async def accept() -> None:
            errors.append(await caught(listener.accept))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            listener.close()
        listener.close()
        await accept()
        await listener.aclose()
        assert [type(each) for each in errors] == [trio.ClosedResourceError] * 2


@_case
async def refuses_connections_when_it_is_closed(subject: TransportSubject) -> None:
    """``ChannelBroken``, after ``close`` and after the block."""
    async with subject.listen() as listener:
        listener.close()
        error = await caught(_enter_and_leave, partial(subject.connect, listener))
        assert isinstance(error, ChannelBroken), error
    async with subject.listen() as other:
        pass
    error = await caught(_enter_and_leave, partial(subject.connect, other))
    assert isinstance(error, ChannelBroken), error


# -- blocks ---------------------------------------------------------------------------------------


class _Mine(Exception):
    """An exception that the block of a case raises."""


@_case
async def lets_an_exception_of_a_block_through_as_it_is(subject: TransportSubject) -> None:
    """Neither in a group nor in place of another, even if the block is cancelled at that moment."""
    mine = _Mine()
    streams: list[trio.abc.Stream] = []

    async def fail(scope: trio.CancelScope) -> None:
        async with subject.listen() as listener, open_private_nursery() as nursery:
            accepting = _Accepting(listener)
            nursery.start_soon(accepting.run)
            async with subject.connect(listener) as stream:
                far = await accepting.wait()
                streams.extend((stream, far))
                scope.cancel()
                raise mine

    with trio.CancelScope() as scope:
        assert await caught(fail, scope) is mine
    for stream in streams:
        await trio.aclose_forcefully(stream)
    assert isinstance(await caught(streams[0].send_all, b"x"), trio.ClosedResourceError)


@_case
async def leaves_nothing_open_wherever_it_is_cancelled(subject: TransportSubject) -> None:
    """Listening and connecting, cancelled before each step; counted in descriptors and tasks."""
    await cancel_sweep(_open_nothing, lambda _: _enter_and_leave(subject.listen))
    await cancel_sweep(
        partial(_open_listening, subject),
        lambda listener: _enter_and_leave(partial(subject.connect, listener)),
    )


@_case
async def describes_its_peers(subject: TransportSubject) -> None:
    """For log lines; and who the kernel says a peer is, where it can say that."""
    async with subject.listen() as listener, open_private_nursery() as nursery:
        accepting = _Accepting(listener)
        nursery.start_soon(accepting.run)
        async with subject.connect(listener):
            await accepting.wait()
            raw = accepting.raw
            assert raw.describe_peer()
            credentials = raw.peer_credentials()
            assert credentials is None or credentials.pid == os.getpid()
            raw.close()
            assert raw.describe_peer()  # raises nothing


# -- tools ----------------------------------------------------------------------------------------


async def _exchange(subject: TransportSubject, listener: Listener) -> None:
    """Connect, and send something in both directions."""
    async with open_private_nursery() as nursery:
        accepting = _Accepting(listener)
        nursery.start_soon(accepting.run)
        async with subject.connect(listener) as near:
            far = await accepting.wait()
            await near.send_all(b"there")
            assert await receive_exactly(far, 5) == b"there"
            await far.send_all(b"back")
            assert await receive_exactly(near, 4) == b"back"
            await trio.aclose_forcefully(far)


async def _enter_and_leave(
    open_block: Callable[[], AbstractAsyncContextManager[object]],
) -> None:
    async with open_block():
        pass


@protected_block
async def _open_nothing() -> AsyncIterator[None]:
    yield


@protected_block
async def _open_listening(subject: TransportSubject) -> AsyncIterator[Listener]:
    """A listener whose connections are taken, and closed again."""
    async with subject.listen() as listener, open_private_nursery() as nursery:
        nursery.start_soon(_accept_and_close, listener)
        yield listener


async def _accept_and_close(listener: Listener) -> None:
    while True:
        raw = await listener.accept()
        try:
            await listener.secure(raw)
        except Exception:  # noqa: S110  # the other end was cancelled
            pass
        finally:
            raw.close()
