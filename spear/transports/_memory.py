"""Byte streams inside one process, with the usual contract and back-pressure, but without the kernel.

They serve functions that run in the host's process, and tests that need virtual time. Names are valid
within one ``trio.run``; two runs in two threads never see each other's listeners.
"""

from __future__ import annotations

import operator
from contextlib import suppress
from functools import partial
from itertools import chain, count
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import ChannelBroken, ConfigurationError
from spear._limits import DEFAULT_WIRE_LIMITS

from ._abc import ByteStream, Listener
from ._addresses import MemoryAddress, Reach, parse_memory_address
from ._connecting import connecting_to
from ._transport import ConnectOptions, ListenOptions, Opening, Transport

if TYPE_CHECKING:
    from ._addresses import Address

PIPE_BYTES: Final = 64 * 1024
"""Most unread bytes in one direction, the same as for a pipe of Linux."""

_BACKLOG: Final = 1024


@final
class _Direction:
    """A direction of a stream: the unread bytes, and the tasks that wait for a change."""

    __slots__ = ("changed", "data", "ended", "refused")

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False  # the sender sends no more
        self.refused = False  # the receiver is closed
        # At most two tasks wait, one per end, and never for the same condition.
        self.changed = trio.lowlevel.ParkingLot()


@final
class MemoryStream(ByteStream):
    """An end of a pair of streams; see :func:`memory_stream_pair`."""

    __slots__ = ("_closed", "_incoming", "_outgoing", "_receiving", "_sending")

    def __init__(self, incoming: _Direction, outgoing: _Direction) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = False
        self._sending = False
        self._receiving = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``. After a cancellation, any part of it may have been sent."""
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            pipe = self._outgoing
            with memoryview(data) as view:
                sent = 0
                while True:
                    self._check_may_send()
                    with view[sent : sent + PIPE_BYTES - len(pipe.data)] as part:
                        pipe.data += part
                        sent += len(part)
                    pipe.changed.unpark_all()
                    if sent == len(view):
                        return
                    await pipe.changed.park()
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until some data can be sent."""
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            self._check_may_send()
            while len(self._outgoing.data) >= PIPE_BYTES:
                await self._outgoing.changed.park()
                self._check_may_send()
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Signal the end of the data to the peer; receiving is still possible. May be repeated."""
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            self._end_sending()
        finally:
            self._sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return at least one byte, or ``b""`` after the peer's last. Cancellation loses no data."""
        max_bytes = PIPE_BYTES if max_bytes is None else operator.index(max_bytes)
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            pipe = self._incoming
            while not (pipe.data or pipe.ended or self._closed):
                await pipe.changed.park()
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            received = bytes(pipe.data[:max_bytes])
            del pipe.data[:max_bytes]
            pipe.changed.unpark_all()
            return received
        finally:
            self._receiving = False

    def close(self) -> None:
        """Close at once; tasks blocked on this stream get ``trio.ClosedResourceError``."""
        self._closed = True
        self._end_sending()
        self._incoming.refused = True
        self._incoming.data.clear()
        self._incoming.changed.unpark_all()

    def describe_peer(self) -> str:
        """Return a description of the peer for log lines."""
        return "this process"

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        self._sending = True

    def _check_may_send(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._outgoing.ended:
            raise trio.ClosedResourceError("cannot send after send_eof()")
        if self._outgoing.refused:
            raise trio.BrokenResourceError("the peer has closed its end")

    def _end_sending(self) -> None:
        self._outgoing.ended = True
        self._outgoing.changed.unpark_all()


def memory_stream_pair() -> tuple[MemoryStream, MemoryStream]:
    """Return two connected streams, each with a buffer of 64 KiB for unread data."""
    one, other = _Direction(), _Direction()
    return MemoryStream(one, other), MemoryStream(other, one)


@final
class MemoryListener(Listener):
    """A listener for connections to a name; see :func:`open_memory_listener`."""

    __slots__ = ("_address", "_connect", "_incoming")

    def __init__(self, address: MemoryAddress) -> None:
        self._address = address
        self._connect, self._incoming = trio.open_memory_channel[MemoryStream](_BACKLOG)

    @property
    def bound(self) -> MemoryAddress:
        """The address with the name of this listener."""
        return self._address

    async def accept(self) -> MemoryStream:
        """Return the next connection. After a cancellation, it stays queued."""
        try:
            return await self._incoming.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("this listener was closed") from None

    def close(self) -> None:
        """Stop accepting at once, and close queued connections."""
        if _listeners().get(self._address.name) is self:
            del _listeners()[self._address.name]
        self._connect.close()  # first: a blocked sender would get a slot of the queue below
        with suppress(trio.EndOfChannel, trio.ClosedResourceError):
            while True:
                self._incoming.receive_nowait().close()
        self._incoming.close()

    async def _enqueue(self, stream: MemoryStream) -> None:
        try:
            await self._connect.send(stream)
        except trio.ClosedResourceError:
            raise ChannelBroken(f"the listener at {self._address} was closed") from None


_registry: trio.lowlevel.RunVar[dict[str, MemoryListener]] = trio.lowlevel.RunVar("spear listeners")


def _listeners() -> dict[str, MemoryListener]:
    try:
        return _registry.get()
    except LookupError:
        listeners: dict[str, MemoryListener] = {}
        _registry.set(listeners)
        return listeners


def open_memory_listener(name: str) -> MemoryListener:
    """Return a listener under ``name``, for this ``trio.run``.

    Raises:
        ConfigurationError: the name is empty or taken.
    """
    listeners = _listeners()
    address = MemoryAddress(name)
    if name in listeners:
        raise ConfigurationError(f"{address} is in use: choose another name")
    listeners[name] = listener = MemoryListener(address)
    return listener


async def connect_memory(
    name: str, *, seconds: float = DEFAULT_WIRE_LIMITS.connect_seconds
) -> MemoryStream:
    """Connect to the listener of that name. Cancellation leaves no connection.

    Raises:
        ChannelBroken: no listener has that name, or the listener's queue of 1,024 connections stayed
            full for ``seconds``.
        ConfigurationError: the name is empty.
    """
    address = MemoryAddress(name)
    with connecting_to(address, seconds):
        listener = _listeners().get(name)
        if listener is None:
            await trio.lowlevel.checkpoint()
            raise ChannelBroken(f"cannot connect to {address}: no listener has that name")
        ours, theirs = memory_stream_pair()
        await listener._enqueue(theirs)
    return ours


@final
class MemoryTransport(Transport):
    """A transport inside this process, by name; both ends are in one ``trio.run``."""

    name = "memory"
    farthest = Reach.PROCESS

    def parse(self, address: str) -> MemoryAddress:
        """Parse ``memory:name``. Raises ConfigurationError."""
        return parse_memory_address(address)

    def listen(self, options: ListenOptions) -> Opening[MemoryListener]:
        """Listen while the block runs; see :func:`open_memory_listener`."""
        return Opening(self._listen, options)

    async def _listen(self, options: ListenOptions) -> MemoryListener:
        await trio.lowlevel.checkpoint()
        if options.address is not None:
            return open_memory_listener(_own(options.address).name)
        return open_memory_listener(_free_name(options.name))

    def connect(self, address: Address, options: ConnectOptions) -> Opening[MemoryStream]:
        """Keep a connection open while the block runs; see :func:`connect_memory`."""
        return Opening(partial(connect_memory, _own(address).name, seconds=options.seconds))


def _free_name(wanted: str) -> str:
    """Return a free name. Two hosts in one ``trio.run`` may have instances of the same names."""
    taken = _listeners()
    others = (f"{wanted}.{number}" for number in count(2))
    return next(each for each in chain([wanted], others) if each not in taken)


def _own(address: Address) -> MemoryAddress:
    if not isinstance(address, MemoryAddress):
        raise ConfigurationError(f"{address} is not a memory address: use memory:name")
    return address
