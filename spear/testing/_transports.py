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
    """A transport under test, with helpers that open its listeners, streams and channels.

    Args:
        transport: the transport under test.
        get_directory: returns the path of a directory that only this user can enter.
        tls: TLS settings of the connecting side; None to use the settings that each listener provides.
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
        """Connect like an instance that was given the listener's address."""
        options = ConnectOptions(seconds=HANG_SECONDS, tls=self.tls or listener.trust)
        return self.transport.connect(listener.advertised, options)

    @protected_block
    async def open_streams(self) -> AsyncIterator[StreamPair]:
        """Open two connected streams: (the connecting end, the accepting end)."""
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
        """Open a channel over this transport, for :func:`check_channel`: (host's end, agent's end)."""
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
    """A task that accepts the next connection of a listener."""

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
"""All cases by name, for running them one by one; includes :data:`STREAM_CASES`."""


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
    """Run all of :data:`TRANSPORT_CASES`.

    The cases do not test channels over the transport. To test them, pass
    :meth:`TransportSubject.open_channels` to :func:`check_channel`.

    Args:
        transport: the transport under test; its listeners must not need an address to listen.
        tls: TLS settings of the connecting side; None to use the settings that each listener provides.

    Raises:
        AssertionError: the transport fails a case; a note on the exception names it.
        trio.TooSlowError: a case hangs.
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
    """The text of an address begins with a scheme of the transport, and parses to an equal address."""
    transport = subject.transport
    assert transport.name, "a transport needs a name"
    async with subject.listen() as listener:
        for address in listener.bound, listener.advertised:
            text = str(address)
            scheme, colon, _ = text.partition(":")
            assert colon, f"{text!r} has no scheme"
            assert scheme in transport.schemes, f"{text!r}: scheme not in {transport.schemes}"
            assert transport.parse(text) == address, f"{text!r} parses to another address"
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
    """Several concurrent connections to one listener each exchange bytes with their own peer."""
    async with subject.listen() as listener, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_exchange, subject, listener)
            await trio.testing.wait_all_tasks_blocked()


@_case
async def keeps_a_connection_for_the_next_accept(subject: TransportSubject) -> None:
    """A cancelled ``accept`` loses no connection."""
    async with subject.listen() as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.accept)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with trio.CancelScope() as scope:
            scope.cancel()
            await listener.accept()
        assert scope.cancelled_caught, "accept() is not a checkpoint"
        await _exchange(subject, listener)


@_case
async def wakes_an_accept_when_it_is_closed(subject: TransportSubject) -> None:
    """Blocked and later calls of ``accept`` raise ClosedResourceError; closing twice is allowed."""
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
    """Connecting raises ``ChannelBroken`` after the listener's ``close``, and after its block."""
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
    """The exception that a case raises in its block."""


@_case
async def lets_an_exception_of_a_block_through_as_it_is(subject: TransportSubject) -> None:
    """An exception leaves a block unchanged, not in a group, even if the block is cancelled."""
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
    """Listening and connecting, cancelled before any step, leave no descriptor and no task."""
    await cancel_sweep(_open_nothing, lambda _: _enter_and_leave(subject.listen))
    await cancel_sweep(
        partial(_open_listening, subject),
        lambda listener: _enter_and_leave(partial(subject.connect, listener)),
    )


@_case
async def describes_its_peers(subject: TransportSubject) -> None:
    """A connection describes its peer, and has the peer's credentials where the kernel knows them."""
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
    """Connect, and send a few bytes in each direction."""
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
    """Open a listener that accepts connections and closes them at once."""
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
