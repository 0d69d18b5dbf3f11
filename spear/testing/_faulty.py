"""An agent whose calls suffer faults: the instance dies, or the call hangs or is slow.

The agent runs in the process of the test, so that a virtual clock works. A death looks to the host like
that of a process: the channel is lost, the exit status and the end of stderr are known, and the
supervisor starts the next incarnation. Which calls suffer depends on their numbers alone, or on a seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from random import Random
from signal import SIGKILL
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

import attrs
import trio

import spear.agent
from spear._errors import CallFailed, ConfigurationError, NotFound
from spear._limits import expect_seconds, shown
from spear._signatures import BATCH
from spear._util import did_you_mean

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from spear._ids import InstanceId
    from spear._limits import WireLimits
    from spear._retry_policy import RetryPolicy
    from spear.agent import Agent
    from spear.channels import InboundCall, Service, ThreadedFunctions
    from spear.transports import TransportRegistry
    from spear.wire import BootstrapRecord, Head, Payload

CallNumbers: TypeAlias = int | float | Collection[int]
"""Calls by number, from 1: one, or several; or, as a ``float``, each call with this probability."""

FaultyCalls: TypeAlias = CallNumbers | Mapping[str, CallNumbers]
"""Calls of all functions, counted together; or calls by function, counted for each function."""

FaultKind: TypeAlias = Literal["die", "die_at_end", "hang", "slow"]

OWN: Final = "spear."
"""The prefix of Spear's own functions, such as health checks, which suffer no fault."""


@final
@attrs.frozen
class InjectedFault:
    """A fault that a call has suffered.

    Attributes:
        kind: the argument of :class:`Faulty` that asked for the fault.
        function: the name of the called function.
        number: the number of the call among all calls of the agent's functions, from 1.
    """

    kind: FaultKind
    function: str
    number: int


@final
class Faulty:
    """An agent whose calls suffer faults, to be deployed in place of the agent.

    ::

        stock = await spear_deploy(Faulty(app, die=2, slow={"order": 0.1}, seed=7))

    Calls are counted when they arrive, so that an attempt of a retry is a call of its own. Numbers count
    from 1, over all incarnations. A probability is a ``float``: ``die=0.1`` is each tenth call, drawn
    from the seed and the number of the call; ``die=1`` is the first call.

    A call may suffer several faults: it is slow, then hangs or dies. Items of a map are calls of their
    own. Faults take time of Trio's clock, which may be virtual. Virtual
    time does not wait for threads, so use async functions with it.

    Args:
        agent: the agent. Its objects stay when an instance dies, unlike those of a process.
        die: calls at whose beginning the instance dies: the function does not run.
        die_at_end: calls at whose end the instance dies: the function has run, and its result is lost.
        hang: calls that never begin, until they are cancelled.
        slow: calls that begin ``slow_seconds`` late.
        slow_seconds: seconds by which slow calls are late.
        exit_status: the exit status of instances that die, as in ``subprocess``; SIGKILL by default.
        stderr: the last lines on stderr of instances that die.
        seed: the seed of calls with a probability.

    Attributes:
        faults: the faults so far, in their order.

    Raises:
        ConfigurationError: an argument is out of range, or names an unknown function.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        die: FaultyCalls = (),
        die_at_end: FaultyCalls = (),
        hang: FaultyCalls = (),
        slow: FaultyCalls = (),
        slow_seconds: float = 10.0,
        exit_status: int = -SIGKILL,
        stderr: str = "",
        seed: int = 0,
    ) -> None:
        expect_seconds("slow_seconds", slow_seconds)
        if not isinstance(agent, spear.agent.Agent):
            raise ConfigurationError.about(
                "agent", f"must be a spear.Agent in this process, not {agent!r:.60}"
            )
        wanted: dict[FaultKind, FaultyCalls] = {
            "slow": slow,
            "hang": hang,
            "die": die,
            "die_at_end": die_at_end,
        }
        for kind, calls in wanted.items():
            _expect_calls(kind, calls, agent.functions)
        self.faults: list[InjectedFault] = []
        self._agent = agent
        self._wanted = wanted
        self._end = int(exit_status), stderr
        self._deaths: dict[InstanceId, trio.Event] = {}
        self._service = _FaultyService(self, agent, wanted, slow_seconds, seed)

    def __repr__(self) -> str:
        given = ", ".join(
            f"{kind}={calls!r}" for kind, calls in self._wanted.items() if calls != ()
        )
        return f"<Faulty {self.name or 'agent'}: {given or 'no faults'}>"

    async def wait_crashed(self, instance: InstanceId) -> tuple[int, str]:
        """Wait until a fault ends an instance; return its exit status and its last lines on stderr."""
        try:
            await self._death_of(instance).wait()
        finally:
            del self._deaths[instance]
        return self._end

    def _death_of(self, instance: InstanceId) -> trio.Event:
        return self._deaths.setdefault(instance, trio.Event())

    # -- the interface of an agent, see LocalAgent ----------------------------------------------------

    @property
    def name(self) -> str:
        """The agent's name."""
        return self._agent.name

    @property
    def debug(self) -> bool:
        """Whether errors carry tracebacks."""
        return self._agent.debug

    @property
    def service(self) -> Service:
        """The service that handles calls, with their faults."""
        return self._service

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the agent's functions."""
        return self._agent.functions

    @property
    def streams(self) -> frozenset[str]:
        """The names of the functions that send a stream of items."""
        return self._agent.streams

    @property
    def retry_policies(self) -> dict[str, RetryPolicy]:
        """The retry policies of functions that have one, by name."""
        return self._agent.retry_policies

    def limits(self, base: WireLimits) -> WireLimits:
        """Return the limits ``base`` with the agent's own concurrency."""
        return self._agent.limits(base)

    def running(
        self, limits: WireLimits, *, debug: bool = False
    ) -> AbstractAsyncContextManager[None]:
        """Run the agent's lifespan around a block."""
        return self._agent.running(limits, debug=debug)

    async def wait_failed(self) -> str:
        """Wait until the agent can no longer run functions, and return the reason."""
        return await self._agent.wait_failed()

    async def serve(
        self, record: BootstrapRecord, *, stop: trio.Event, transports: TransportRegistry
    ) -> None:
        """Raise ConfigurationError: faults need a channel in memory, which is the default."""
        raise ConfigurationError(
            f"{self!r} needs a channel in memory: remove the strategy of the runtime 'memory'"
        )


@final
class _FaultyService:
    """A service that lets calls suffer faults before or after the agent's service handles them."""

    def __init__(
        self,
        faulty: Faulty,
        agent: Agent,
        wanted: Mapping[FaultKind, FaultyCalls],
        slow_seconds: float,
        seed: int,
    ) -> None:
        self._faulty = faulty
        self._agent = agent
        self._wanted = wanted
        self._slow_seconds = slow_seconds
        self._seed = seed
        self._counts: Counter[str] = Counter()  # calls by function; calls of all functions under ""

    def refuse(self, function: int, head: Head | None) -> CallFailed | None:
        """Refuse what the agent refuses, and batches of items, so that each item is a call."""
        if head is not None and head.get("function") == BATCH:
            return NotFound("calls that may suffer faults come one by one")
        return self._agent.service.refuse(function, head)

    def threaded_functions(self, slots: int) -> ThreadedFunctions:
        """Return the functions that run in threads, if there are fewer threads than ``slots``."""
        return self._agent.service.threaded_functions(slots)

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        """Run the called function, unless a fault prevents it."""
        faults = self._begin(self._name_of(call))
        if "slow" in faults:
            await trio.sleep(self._slow_seconds)
        if "hang" in faults:
            await trio.sleep_forever()
        if "die" in faults:
            await self._die(call)
        result = await self._agent.service.handle(call)
        if "die_at_end" in faults:
            await self._die(call)
        return result

    async def _die(self, call: InboundCall) -> None:
        """End the instance; never returns, because this task is cancelled with it."""
        self._faulty._death_of(call.channel.instance_id).set()
        await trio.sleep_forever()

    def _name_of(self, call: InboundCall) -> str:
        if call.function:
            return self._agent.functions[call.function - 1]
        return str((call.head or {}).get("function"))

    def _begin(self, function: str) -> list[FaultKind]:
        """Count a call of a function, and return the faults that it suffers."""
        if function.startswith(OWN):
            return []
        self._counts[""] += 1
        self._counts[function] += 1
        kinds = [kind for kind in self._wanted if self._suffers(kind, function)]
        self._faulty.faults += [InjectedFault(kind, function, self._counts[""]) for kind in kinds]
        return kinds

    def _suffers(self, kind: FaultKind, function: str) -> bool:
        number, calls = self._counts[""], self._wanted[kind]
        if isinstance(calls, Mapping):
            number, calls = self._counts[function], calls.get(function, ())
        if isinstance(calls, float):
            # A generator for each call: the draw must not depend on the order of other calls.
            return Random(f"{self._seed} {kind} {function} {number}").random() < calls  # noqa: S311
        return number == calls if isinstance(calls, int) else number in calls


def _expect_calls(kind: FaultKind, calls: object, functions: Collection[str]) -> None:
    """Raise ConfigurationError unless ``calls`` says which calls suffer a fault."""
    if isinstance(calls, Mapping):
        for name, numbers in calls.items():
            if name not in functions:
                hint = did_you_mean(str(name), functions)
                raise ConfigurationError.about(
                    kind, f"names no function of the agent: {name!r}{hint}"
                )
            _expect_numbers(kind, numbers)
    else:
        _expect_numbers(kind, calls)


def _expect_numbers(kind: FaultKind, calls: object) -> None:
    if isinstance(calls, float):
        is_right = 0 <= calls <= 1
    elif isinstance(calls, Collection):
        is_right = all(type(each) is int and each > 0 for each in calls)
    else:
        is_right = type(calls) is int and calls > 0
    if not is_right:
        raise ConfigurationError.about(
            kind,
            "must be the number of a call, from 1, or several numbers, or a probability such as 0.1, or "
            f"a map of these by function; not {shown(calls)}",
        )
