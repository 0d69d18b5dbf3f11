"""The network of a simulation: connections that are late, are cut, or stand still.

Each instance has a :class:`Site`, which is all that a fault needs to know of it. Its agent connects to a
memory listener, as agents in one process do. The host accepts from a listener of ours, and between the
two ends a :class:`_Link` carries the bytes, in each direction one chunk at a time.

Invariants:

* Bytes arrive in order, unchanged, and once. A fault changes when they arrive, and whether.
* Nothing that a site sends after :meth:`Site.crash` arrives anywhere.
* Every delay is drawn from one generator, in the order in which the scheduler runs the links.
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
"""From a loss to the first repetition, as in Linux's TCP; each further one takes twice as long."""

MOST_LOSSES: Final = 5
"""Of one chunk, so that the longest delay has a bound: 6.2 s."""

Record: TypeAlias = Callable[[str, object, object], None]
"""Takes (kind, subject, detail) of something that happened."""


@final
class Network:
    """A network with the tasks and the faults that all sites of a simulation share.

    Args:
        rng: where delays and losses are drawn from.
        nursery: runs the links.
        record: receives what happens.
        latency_seconds: least and most time that a chunk takes.
        loss: probability that a chunk has to be sent again.

    Attributes:
        loss: probability of a loss at a site that has none of its own.
        sites: the instances, by the names of their listeners.
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
                f"latency_seconds must be a least and a most time, not {latency_seconds!r}"
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
        """Have the instance of a site among the others, for as long as the block runs."""
        self.sites[site.name] = site
        try:
            yield
        finally:
            del self.sites[site.name]

    def draw_delay(self, loss: float) -> float:
        """Return the seconds that the next chunk takes, with so much probability of each loss."""
        delay, pause = self._rng.uniform(*self._latency_seconds), RESEND_SECONDS
        for _ in range(MOST_LOSSES if loss else 0):
            if self._rng.random() >= loss:
                break
            delay += pause
            pause *= 2
        return delay


def check_loss(name: str, loss: float) -> None:
    """Raise ConfigurationError for a probability with which nothing would ever arrive."""
    if not 0 <= loss < 1:
        raise ConfigurationError(f"{name} must be from 0 to below 1, not {loss!r}")


@final
class Site:
    """An instance, as the network sees it.

    Attributes:
        instance: its id.
        name: that of the listener of its endpoint.
        is_closed: whether its process has ended. Its tasks may still unwind.
        is_frozen: whether its process is stopped, as by SIGSTOP.
        is_partitioned: whether no byte reaches it or leaves it.
        delay_seconds: what each chunk takes beyond the network's latency.
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
        self._links: dict[_Link, None] = {}  # in the order of their connections
        self._released = trio.Event()

    def listen(self) -> Listener:
        """Return the listener of the host's endpoint for this instance."""
        return SimulatedListener(self, open_memory_listener(self.name))

    # -- faults -------------------------------------------------------------------------------

    def freeze(self, frozen: bool) -> None:
        """Stop the process, or let it go on. Bytes wait meanwhile."""
        self.is_frozen = frozen
        self._release()

    def partition(self, partitioned: bool) -> None:
        """Separate the site from the host, or connect it again. Bytes wait meanwhile."""
        self.is_partitioned = partitioned
        self._release()

    def restore(self) -> None:
        """Let chunks be as late, and as often lost, as in the rest of the network."""
        self.delay_seconds, self.loss = 0.0, self._network.loss

    def cut(self) -> None:
        """Break all connections. Bytes that are under way are lost."""
        for link in list(self._links):
            link.break_off()

    def close(self) -> None:
        """The process has ended: it connects no more. What it has sent still arrives."""
        self.is_closed = True

    def crash(self) -> None:
        """The process was killed: its tasks, which unwind later, send and receive nothing.

        Bytes that are under way to the host still arrive, as the kernel delivers what a process has
        written before it was killed.
        """
        self.close()
        for link in list(self._links):
            link.agent.close()
        self.freeze(False)

    # -- what links need ----------------------------------------------------------------------

    def _release(self) -> None:
        released, self._released = self._released, trio.Event()
        released.set()

    async def wait_released(self) -> None:
        """Wait until bytes may arrive."""
        while self.is_frozen or self.is_partitioned:
            await self._released.wait()

    def connect(self, agent: MemoryStream) -> MemoryStream:
        """Carry the bytes of a new connection; returns the host's end."""
        host, far = memory_stream_pair()
        link = _Link(agent, far)
        self._links[link] = None
        self._network.record("connect", self.instance, "")
        self._network.nursery.start_soon(self._run, link)
        return host

    async def _run(self, link: _Link) -> None:
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
        # Closed: by us, at a fault. Broken: the receiver is gone, and the sender learns of it from the
        # other direction; until then its bytes go nowhere.
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
class _Link:
    """A connection: the far ends of the agent's and of the host's stream."""

    __slots__ = ("agent", "host", "scope")

    def __init__(self, agent: MemoryStream, host: MemoryStream) -> None:
        self.agent = agent
        self.host = host
        self.scope = trio.CancelScope()

    def break_off(self) -> None:
        """End the connection at both ends, and lose what is under way."""
        self.agent.close()
        self.host.close()
        self.scope.cancel()


@final
class SimulatedListener(Listener):
    """Accepts the connections of one site."""

    def __init__(self, site: Site, listener: MemoryListener) -> None:
        self._site = site
        self._listener = listener

    @property
    def bound(self) -> Address:
        """The name that the agent connects to."""
        return self._listener.bound

    async def accept(self) -> MemoryStream:
        """The host's end of the next connection. If cancelled, it stays queued."""
        while True:
            stream = await self._listener.accept()
            if not self._site.is_closed:
                return self._site.connect(stream)
            stream.close()  # tasks of a process that has ended connect to nothing

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
        """The address that ``memory:name`` names. Raises ConfigurationError."""
        return self._memory.parse(address)

    def listen(self, options: ListenOptions) -> Opening[Listener]:
        """Listen for the instance that is being started, for as long as the block runs."""
        return Opening(self._listen, options.name)

    async def _listen(self, name: str) -> Listener:
        await trio.lowlevel.checkpoint()
        return self._network.sites[name].listen()

    def connect(self, address: Address, options: ConnectOptions) -> Opening[MemoryStream]:
        """A connection, as the instance makes it."""
        return self._memory.connect(address, options)
