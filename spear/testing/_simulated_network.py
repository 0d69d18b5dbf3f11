"""The network of a simulation: connections that are delayed, cut or stalled.

Each instance has a :class:`Site`, to which faults are applied. The instance's agent connects to a memory
listener, like any agent in the host's process. The host accepts from a :class:`SimulatedListener`, and a
:class:`_SimulatedLink` carries the bytes between the two ends, in each direction one chunk at a time.

Invariants:

* A fault can delay or lose bytes. Bytes that arrive do so in order, unchanged, and once.
* No byte that a site sends after :meth:`Site.crash` arrives.
* Every delay is drawn from one random number generator, in the order in which the links run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from spear._errors import ConfigurationError
from spear.transports import (
    ConnectOptions,
    Listener,
    ListenOptions,
    MemoryListener,
    MemoryStream,
    MemoryTransport,
    Opening,
    Transport,
    memory_stream_pair,
    open_memory_listener,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from spear._ids import InstanceId
    from spear.transports import Address, MemoryAddress

RESEND_SECONDS: Final = 0.2
"""Seconds from a loss to the first retransmission, as in Linux's TCP; doubled for each further loss."""

MOST_LOSSES: Final = 5
"""Most losses of one chunk, so that the delay by losses is at most 6.2 s."""

Record: TypeAlias = Callable[[str, object, object], None]
"""A function that receives each event as (kind, subject, detail)."""


@final
class Network:
    """A network: the random delays, the nursery and the defaults that all sites of a simulation share.

    Args:
        rng: generator of delays and losses.
        nursery: nursery that runs the links.
        record: receives the events of the network.
        latency_seconds: least and most time that a chunk takes.
        loss: probability that a chunk has to be sent again.

    Attributes:
        loss: probability of a loss at a site without a probability of its own.
        sites: the sites of the instances, by the names of their listeners.
    """

    def __init__(
        self,
        rng: Random,
        nursery: trio.Nursery,
        record: Record,
        latency_seconds: tuple[float, float],
        loss: float,
    ) -> None:
        least, most = latency_seconds
        if not 0 <= least <= most:
            raise ConfigurationError(
                f"latency_seconds must be (least, most) with 0 <= least <= most, not {latency_seconds!r}"
            )
        check_loss("loss", loss)
        self._rng = rng
        self._latency_seconds = latency_seconds
        self.loss = loss
        self.nursery = nursery
        self.record = record
        self.sites: dict[str, Site] = {}

    @contextmanager
    def holding(self, site: Site) -> Iterator[None]:
        """Keep a site in :attr:`sites` for as long as the block runs."""
        self.sites[site.name] = site
        try:
            yield
        finally:
            del self.sites[site.name]

    def draw_delay(self, loss: float) -> float:
        """Return the seconds that the next chunk takes; ``loss`` is the probability of each loss."""
        delay, pause = self._rng.uniform(*self._latency_seconds), RESEND_SECONDS
        for _ in range(MOST_LOSSES if loss else 0):
            if self._rng.random() >= loss:
                break
            delay += pause
            pause *= 2
        return delay


def check_loss(name: str, loss: float) -> None:
    """Raise ConfigurationError unless ``loss`` is from 0 to below 1."""
    if not 0 <= loss < 1:
        raise ConfigurationError(f"{name} must be from 0 to below 1, not {loss!r}")


@final
class Site:
    """An instance's place in the network, with the faults that apply to the instance.

    Attributes:
        instance: id of the instance.
        name: name of the listener of the instance's endpoint.
        is_closed: whether the simulated process has ended. Its tasks may still unwind.
        is_frozen: whether the simulated process is stopped, as by SIGSTOP.
        is_partitioned: whether the network carries no bytes to and from the instance.
        delay_seconds: delay of each chunk in addition to the network's latency.
        loss: probability that a chunk has to be sent again; by default the network's.
    """

    def __init__(self, network: Network, instance: InstanceId) -> None:
        self.instance = instance
        self.name = f"{instance.name}-{instance.incarnation}"
        self.is_closed = False
        self.is_frozen = False
        self.is_partitioned = False
        self._network = network
        self.restore()
        self._links: dict[_SimulatedLink, None] = {}  # in the order of their connections
        self._released = trio.Event()

    def listen(self) -> Listener:
        """Return the listener of the host's endpoint for this instance."""
        return SimulatedListener(self, open_memory_listener(self.name))

    # -- faults -------------------------------------------------------------------------------

    def freeze(self, frozen: bool) -> None:
        """Stop the process, or let it continue. Bytes to and from a frozen process wait."""
        self.is_frozen = frozen
        self._release()

    def partition(self, partitioned: bool) -> None:
        """Separate the site from the host, or connect it again. Bytes wait during a partition."""
        self.is_partitioned = partitioned
        self._release()

    def restore(self) -> None:
        """Reset delay and loss of this site to those of the network."""
        self.delay_seconds, self.loss = 0.0, self._network.loss

    def cut(self) -> None:
        """Break all connections. Bytes in flight are lost."""
        for link in list(self._links):
            link.break_off()

    def close(self) -> None:
        """Mark the process as ended: new connections are refused. Bytes sent before still arrive."""
        self.is_closed = True

    def crash(self) -> None:
        """Kill the process: its tasks unwind later, and can send and receive nothing.

        Bytes in flight to the host still arrive, just as the kernel delivers bytes that a process wrote
        before it was killed.
        """
        self.close()
        for link in list(self._links):
            link.agent.close()
        self.freeze(False)

    # -- connections --------------------------------------------------------------------------

    def _release(self) -> None:
        released, self._released = self._released, trio.Event()
        released.set()

    async def wait_released(self) -> None:
        """Wait until the site is neither frozen nor partitioned."""
        while self.is_frozen or self.is_partitioned:
            await self._released.wait()

    def connect(self, agent: MemoryStream) -> MemoryStream:
        """Start to carry the bytes of a new connection, and return the host's end."""
        host, far = memory_stream_pair()
        link = _SimulatedLink(agent, far)
        self._links[link] = None
        self._network.record("connect", self.instance, "")
        self._network.nursery.start_soon(self._run, link)
        return host

    async def _run(self, link: _SimulatedLink) -> None:
        try:
            with link.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._carry, link.agent, link.host, "to host")
                    nursery.start_soon(self._carry, link.host, link.agent, "to instance")
        finally:
            del self._links[link]
            link.agent.close()
            link.host.close()
            self._network.record("disconnect", self.instance, "")

    async def _carry(self, source: MemoryStream, sink: MemoryStream, way: str) -> None:
        network = self._network
        # ClosedResourceError: a fault closed the source. BrokenResourceError: the receiver has closed its
        # end. The sender learns of this from the other direction; until then its bytes are discarded.
        with suppress(trio.ClosedResourceError):
            while data := await source.receive_some():
                await trio.sleep(self.delay_seconds + network.draw_delay(self.loss))
                await self.wait_released()
                network.record("deliver", self.instance, f"{len(data)} bytes {way}")
                with suppress(trio.BrokenResourceError):
                    await sink.send_all(data)
            await self.wait_released()
            await sink.send_eof()


@final
class _SimulatedLink:
    """A connection: the network's ends of the agent's and of the host's stream."""

    __slots__ = ("agent", "host", "scope")

    def __init__(self, agent: MemoryStream, host: MemoryStream) -> None:
        self.agent = agent
        self.host = host
        self.scope = trio.CancelScope()

    def break_off(self) -> None:
        """End the connection at both ends, and discard the bytes in flight."""
        self.agent.close()
        self.host.close()
        self.scope.cancel()


@final
class SimulatedListener(Listener):
    """A listener that accepts the connections of one site."""

    def __init__(self, site: Site, listener: MemoryListener) -> None:
        self._site = site
        self._listener = listener

    @property
    def bound(self) -> Address:
        """The name that the agent connects to."""
        return self._listener.bound

    async def accept(self) -> MemoryStream:
        """Wait for the next connection and return the host's end. If cancelled, it stays queued."""
        while True:
            stream = await self._listener.accept()
            if not self._site.is_closed:
                return self._site.connect(stream)
            stream.close()  # a task of an ended process, which may still unwind, cannot connect

    def close(self) -> None:
        """Stop accepting at once."""
        self._listener.close()


@final
class SimulatedTransport(Transport):
    """The memory transport, with a simulated network between the host's end and the agent's."""

    name = "memory"

    def __init__(self, network: Network) -> None:
        self._network = network
        self._memory = MemoryTransport()

    def parse(self, address: str) -> MemoryAddress:
        """Return the address that ``memory:name`` names. Raises ConfigurationError."""
        return self._memory.parse(address)

    def listen(self, options: ListenOptions) -> Opening[Listener]:
        """Listen for the instance that is being started, for as long as the block runs."""
        return Opening(self._listen, options.name)

    async def _listen(self, name: str) -> Listener:
        await trio.lowlevel.checkpoint()
        return self._network.sites[name].listen()

    def connect(self, address: Address, options: ConnectOptions) -> Opening[MemoryStream]:
        """Open the instance's end of a connection."""
        return self._memory.connect(address, options)
