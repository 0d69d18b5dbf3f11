"""A whole spearlet with its instances in one Trio run, which a seed repeats step by step.

The program under test gets a :class:`Simulation`: it deploys agents, calls their functions, and makes
things fail. Time is virtual, and the order of tasks, the network's delays, the policies' choices and the
restart delays are drawn from the seed. Everything between the two ends is the code of production: pool,
supervisor, instance, login, channel, wire, agent.

What a seed cannot repeat is kept out: threads, processes, sockets, the real clock. Keys and nonces stay
random, because nothing depends on their values; neither they nor payloads are in the trace.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

import attrs
import trio
import trio.testing

from spear._errors import ConfigurationError
from spear._host_limits import DEFAULT_HOST_LIMITS, HostLimits
from spear._limits import expect_seconds
from spear._util import NoPublicConstructor
from spear.channels import machine_clock, open_private_nursery
from spear.spearlet import open_spearlet
from spear.telemetry import CallRecord

from ._simulated_network import Network, SimulatedTransport, check_loss
from ._simulated_runtime import START_SECONDS, SimulatedRuntime, SimulatedSettings, here
from ._trio_scheduling import seeded_scheduling

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.agent import Agent
    from spear.spearlet import Deployment, DeploymentSettings, Scale, Spearlet

    from ._simulated_runtime import SimulatedBody

KEPT_EVENTS: Final = 10_000
"""The last events of a trace; the digest is of all of them."""

SHOWN_EVENTS: Final = 30
"""Events that the note of a failure shows."""

FAULTS: Final = ("delay", "drop", "cut", "partition", "freeze", "crash")

ENDS: Final = {"delay": "restore", "drop": "restore", "partition": "heal", "freeze": "thaw"}
"""Faults that last, and the methods that end them."""


class SimulatedEvent(NamedTuple):
    """Something that happened in a simulation.

    Attributes:
        seconds: since the start, in virtual time.
        kind: an instance state, ``connect``, ``disconnect``, ``deliver``, ``call``, ``note``, a fault, or
            the end of one (``restore``, ``heal``, ``thaw``).
        subject: the instance or function, as text.
        detail: more of it.
    """

    seconds: float
    kind: str
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{self.seconds:10.6f} {self.kind} {self.subject} {self.detail}".rstrip()


@final
@attrs.frozen(kw_only=True)
class SimulationReport:
    """How a simulation went.

    Attributes:
        seed: what it was run with.
        digest: of all events. Two runs with one seed have one digest, also in different processes.
        events: the last 10,000.
        notes: what the program and its instances have noted: (instance or "", values).
        seconds: virtual time of the last event.
    """

    seed: int
    digest: str
    events: tuple[SimulatedEvent, ...]
    notes: tuple[tuple[str, tuple[object, ...]], ...]
    seconds: float


@final
class Simulation(metaclass=NoPublicConstructor):
    """A spearlet, its instances and its network, under one seed. Made by :func:`simulate`.

    Attributes:
        seed: what everything is drawn from.
        rng: for what the program draws itself.
        spearlet: the host, which is open until the program returns.
        notes: what was noted so far: (instance or "" for the program, values).
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = self.generator("program")
        self.spearlet: Spearlet
        self.notes: list[tuple[str, tuple[object, ...]]] = []
        self._runtime: SimulatedRuntime
        self._events: deque[SimulatedEvent] = deque(maxlen=KEPT_EVENTS)
        self._hash = hashlib.sha256()
        self._seconds = 0.0

    def generator(self, purpose: str) -> Random:
        """Return a generator for one purpose.

        Two generators of one purpose give the same numbers; draws from one do not affect the other.
        """
        # A text, because Random hashes it without Python's own seed of hashes.
        return Random(f"{purpose} {self.seed}")  # noqa: S311  # reproduces, protects nothing

    async def deploy(
        self,
        make_agent: Callable[[], Agent],
        *,
        name: str,
        replicas: int | Scale | None = None,
        settings: DeploymentSettings | None = None,
        start_seconds: tuple[float, float] = START_SECONDS,
        debug: bool = False,
    ) -> Deployment:
        """Deploy agents; returns when all replicas take calls. See :meth:`Spearlet.deploy`.

        Args:
            make_agent: makes the agent of one instance; called anew for each incarnation. Plain functions
                run in Trio's thread; functions that cannot (asyncio's, and plain ones with ``yield``) let
                the instance fail to start.
            name: for the deployment and its instances.
            replicas: how many, or between which numbers they follow the load.
            settings: everything else about how they are kept.
            start_seconds: least and most time that a start takes.
            debug: send tracebacks with errors.
        """
        target = SimulatedSettings(make_agent=make_agent, start_seconds=start_seconds, debug=debug)
        return await self.spearlet.deploy(target, name=name, replicas=replicas, settings=settings)

    # -- what happens -------------------------------------------------------------------------

    def note(self, *values: object) -> None:
        """Note an effect, in the trace and in :attr:`notes`.

        Agents note what they do to the outside, such as a payment. A crashed instance notes nothing,
        though its tasks unwind and their ``finally`` blocks run.

        Args:
            values: the effect. Their reprs must not contain addresses, which no seed repeats.
        """
        site = here.get()
        if site is None:
            self.notes.append(("", values))
            self._record("note", "", values)
        elif not site.is_closed:
            self.notes.append((str(site.instance), values))
            self._record("note", site.instance, values)

    def _record(self, kind: str, subject: object, detail: object) -> None:
        event = SimulatedEvent(trio.current_time(), kind, str(subject), str(detail))
        self._events.append(event)
        self._hash.update(f"{event.seconds!r} {kind} {event.subject} {event.detail}\n".encode())
        self._seconds = event.seconds

    def _on_call(self, record: CallRecord) -> None:
        outcome = "returned" if record.failure is None else type(record.failure).__name__
        self._record("call", f"{record.deployment}.{record.function}", outcome)

    # -- faults -------------------------------------------------------------------------------

    @property
    def instances(self) -> tuple[InstanceId, ...]:
        """The instances whose processes run, in the order of their starts."""
        return tuple(each for each, body in self._runtime.bodies.items() if not body.has_ended)

    def _body(self, instance: InstanceId, fault: str) -> SimulatedBody:
        body = self._runtime.bodies.get(instance)
        if body is None or body.has_ended:
            raise ConfigurationError(f"{instance} does not run: choose one of simulation.instances")
        self._record(fault, instance, "")
        return body

    def delay(self, instance: InstanceId, seconds: float = 0.1) -> None:
        """Let bytes between host and instance take so much longer until :meth:`restore`.

        Raises:
            ConfigurationError: the instance does not run; so do all methods for faults. Or ``seconds`` is
                no number of seconds.
        """
        expect_seconds("seconds", seconds)
        self._body(instance, "delay").site.delay_seconds = seconds

    def drop(self, instance: InstanceId, probability: float = 0.3) -> None:
        """Lose each chunk between host and instance with this probability, until :meth:`restore`.

        A lost chunk is sent again after 0.2 s, as TCP does, and those behind it wait.
        """
        check_loss("probability", probability)
        self._body(instance, "drop").site.loss = probability

    def restore(self, instance: InstanceId) -> None:
        """End :meth:`delay` and :meth:`drop`."""
        self._body(instance, "restore").site.restore()

    def cut(self, instance: InstanceId) -> None:
        """Break the instance's connections. Bytes under way are lost, and it may reconnect."""
        self._body(instance, "cut").site.cut()

    def partition(self, instance: InstanceId) -> None:
        """Let no byte pass between host and instance until :meth:`heal`; those under way wait."""
        self._body(instance, "partition").site.partition(True)

    def heal(self, instance: InstanceId) -> None:
        """End a partition: bytes that have waited arrive."""
        self._body(instance, "heal").site.partition(False)

    def freeze(self, instance: InstanceId) -> None:
        """Stop the instance at its edge until :meth:`thaw`, as SIGSTOP stops a process.

        A frozen instance receives and sends nothing, and obeys a request to end only after the thaw. Its
        code keeps running: its notes are recorded at once, other effects appear after the thaw.
        """
        self._body(instance, "freeze").freeze(True)

    def thaw(self, instance: InstanceId) -> None:
        """Let a frozen instance go on."""
        self._body(instance, "thaw").freeze(False)

    def crash(self, instance: InstanceId) -> None:
        """Kill the instance, as SIGKILL kills a process.

        Its connections end before its tasks unwind, so nothing that ``finally`` blocks do reaches the
        host; nor do its notes count any more.
        """
        self._body(instance, "crash").kill_now()

    async def disturb(
        self,
        *,
        faults: tuple[str, ...] = FAULTS,
        pause_seconds: tuple[float, float] = (0.05, 0.5),
        fault_seconds: tuple[float, float] = (0.01, 6.0),
    ) -> None:
        """Let instances fail, one drawn fault after the other, until cancelled, which ends all faults.

        Args:
            faults: names of the methods to draw from: "delay", "drop", "cut", "partition", "freeze" and
                "crash".
            pause_seconds: least and most time between two faults.
            fault_seconds: least and most time of a fault that lasts. Limits decide what it comes to: an
                instance that is silent for longer than its heartbeats allow is killed. Of overlapping
                faults of one instance, the first to end may end the others.

        Raises:
            ConfigurationError: there is no fault of a name, or none was given.
        """
        if not faults or not set(faults) <= set(FAULTS):
            raise ConfigurationError(f"faults must be some of {', '.join(FAULTS)}, not {faults!r}")
        rng = self.generator("faults")
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(rng.uniform(*pause_seconds))
                fault, seconds = rng.choice(faults), rng.uniform(*fault_seconds)
                if instances := self.instances:
                    nursery.start_soon(self._disturb, rng.choice(instances), fault, seconds)

    async def _disturb(self, instance: InstanceId, fault: str, seconds: float) -> None:
        if instance not in self.instances:  # it has ended since it was drawn
            return
        getattr(self, fault)(instance)
        if fault in ENDS:
            try:
                await trio.sleep(seconds)
            finally:
                if instance in self.instances:
                    getattr(self, ENDS[fault])(instance)

    # -- running ------------------------------------------------------------------------------

    async def _run(
        self,
        program: Callable[[Simulation], Awaitable[object]],
        limits: HostLimits,
        latency_seconds: tuple[float, float],
        loss: float,
    ) -> None:
        async with open_private_nursery() as nursery:
            network = Network(
                self.generator("network"), nursery, self._record, latency_seconds, loss
            )

            self._runtime = SimulatedRuntime(network=network, seed=self.seed)
            async with open_spearlet(
                limits=limits,
                on_call=self._on_call,
                rng=self.generator("host"),
                runtimes=[self._runtime],
                transports=(SimulatedTransport(network),),
            ) as self.spearlet:
                await program(self)

    def _report(self) -> SimulationReport:
        return SimulationReport(
            seed=self.seed,
            digest=self._hash.hexdigest(),
            events=tuple(self._events),
            notes=tuple(self.notes),
            seconds=self._seconds,
        )

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Add to a failure what brings it back."""
        try:
            yield
        except BaseException as error:
            last = "\n".join(f"  {each}" for each in list(self._events)[-SHOWN_EVENTS:])
            error.add_note(
                f"simulated with seed {self.seed}, digest {self._hash.hexdigest()[:16]}; to replay: "
                f"simulate(..., seed={self.seed}). The last events:\n{last}"
            )
            raise


SimulatedProgram: TypeAlias = Callable[[Simulation], Awaitable[object]]
"""What is simulated."""


def simulate(
    program: SimulatedProgram,
    seed: int,
    *,
    limits: HostLimits = DEFAULT_HOST_LIMITS,
    latency_seconds: tuple[float, float] = (0.0, 0.002),
    loss: float = 0.0,
    seconds: float = 3600.0,
) -> SimulationReport:
    """Run ``await program(simulation)`` with a spearlet and its instances in one Trio run.

    One seed gives one order of events. A failure of the program, or of an assertion in it, is raised as
    it is, with a note that has the seed and the last events. Not to be called inside of Trio, nor in two
    threads at a time.

    Args:
        program: what is tested. The spearlet ends when it returns.
        seed: what everything is drawn from.
        limits: of the host and its instances.
        latency_seconds: least and most time that bytes are under way. A connection carries one chunk at a
            time in each direction, so a slow network is also a narrow one.
        loss: probability that a chunk has to be sent again, 0.2 s later. Each of up to four further
            losses doubles the pause, so a chunk is at most 6.2 s late.
        seconds: of virtual time, after which the program is taken to hang.

    Raises:
        ConfigurationError: an argument is out of range, or this release of Trio cannot be seeded.
        trio.TooSlowError: ``seconds`` are over.
        And whatever ``program`` raises.
    """
    simulation: Simulation = Simulation._create(seed)

    async def main() -> None:
        machine_clock.set(trio.current_time)
        with trio.fail_after(seconds):
            await simulation._run(program, limits, latency_seconds, loss)

    clock = trio.testing.MockClock(autojump_threshold=0)
    with seeded_scheduling(simulation.generator("schedule")), simulation._explaining():
        trio.run(main, clock=clock)
    return simulation._report()
