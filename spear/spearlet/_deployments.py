"""A deployed file: its replicas, and its functions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol, TypeAlias, final

import attrs
import trio

from spear._errors import ChannelBroken, NotFound, SpearError
from spear._ids import InstanceId
from spear._util import NoPublicConstructor

from ._functions import Function, Launch
from ._replicas import Replica, ReplicaSet, ServingReplica

if TYPE_CHECKING:
    from types import TracebackType

    from spear._ids import RuntimeType
    from spear.channels import CommunicationChannel


class StartedReplica(ServingReplica, Protocol):
    """A replica that is being started, or has been."""

    async def wait_ready(self) -> CommunicationChannel:
        """Wait until it takes calls. Raises SpawnFailed."""

    async def wait_exited(self) -> object:
        """Wait until it is gone."""


OpenReplica: TypeAlias = Callable[[InstanceId], AbstractAsyncContextManager[StartedReplica]]
"""Starts a replica, and stops it when the block is left."""


@final
@attrs.frozen(kw_only=True)
class DeploymentStatistics:
    """How a deployment is doing.

    Attributes:
        ready: replicas that take calls now.
        started: replicas that were started.
        lost: replicas that ended without being asked to.
        calls_in_flight: calls that the ready replicas are working on.
    """

    ready: int
    started: int
    lost: int
    calls_in_flight: int


@final
class Deployment(metaclass=NoPublicConstructor):
    """A file of functions, running in some replicas. Its functions are its attributes.

    Made by :meth:`Spearlet.deploy`. A block of ``async with deployment`` stops it at its end; left by
    an exception, or cancelled, it kills it at once.

    Attributes:
        name: names its instances, too.
        functions: the names of its functions. One that has the name of an attribute listed here is
            reached by :meth:`function`.
    """

    def __init__(
        self,
        name: str,
        runtime: RuntimeType,
        open_replica: OpenReplica,
        launch: Launch,
        call_seconds: float,
    ) -> None:
        self.name = name
        self.functions: tuple[str, ...] = ()
        self._runtime: RuntimeType = runtime
        self._open_replica = open_replica
        self._launch = launch
        self._streams: frozenset[str] = frozenset()
        self._by_name: dict[str, Function] = {}
        self._replicas = ReplicaSet(name, call_seconds)
        self._scope = trio.CancelScope()  # of all that runs for it
        self._stopping = trio.Event()
        self._stopped = trio.Event()
        self._started = 0

    def __repr__(self) -> str:
        return f"<Deployment {self.name}: {len(self.replicas)} replicas ready>"

    # -- functions ----------------------------------------------------------------------------

    def function(self, name: str) -> Function:
        """One of its functions.

        Raises:
            NotFound: it has none of that name; the message suggests one.
        """
        known = self._by_name.get(name)
        if known is not None:
            return known
        if name not in self.functions:
            close = get_close_matches(name, self.functions, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {self._list_functions()}"
            raise NotFound(f"{self.name} has no function {name!r}; {hint}")
        function: Function = Function._create(
            name, self._replicas, self._launch, is_stream=name in self._streams
        )
        self._by_name[name] = function
        return function

    def _list_functions(self) -> str:
        return ", ".join(self.functions) or "none at all"

    def __getattr__(self, name: str) -> Function:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self.function(name)
        except NotFound as error:
            raise AttributeError(str(error)) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.functions]

    # -- life ---------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop all replicas: what runs may finish for a while. A checkpoint.

        If cancelled, they are being stopped all the same, but nobody waits for it.
        """
        self._stopping.set()
        await self._stopped.wait()

    async def __aenter__(self) -> Deployment:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._scope.cancel()
        await self.stop()

    async def _start(
        self,
        nursery: trio.Nursery,
        number: int,
        failures: list[SpearError],
        starting: trio.CancelScope,
    ) -> None:
        try:
            await nursery.start(self._keep, number)
        except SpearError as failure:
            failures.append(failure)
            starting.cancel()

    async def _keep(self, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        """One replica, from its start to its end."""
        instance_id = InstanceId(self._runtime, f"{self.name}-{number}")
        async with self._open_replica(instance_id) as replica:
            channel = await replica.wait_ready()
            self._started += 1
            self.functions = tuple(channel.functions)
            self._streams = channel.streams
            self._replicas.add(replica)
            task_status.started()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch, replica, nursery.cancel_scope)
                    await self._stopping.wait()
                    nursery.cancel_scope.cancel()
            finally:
                self._replicas.remove(replica, f"{replica.id} was stopped")

    async def _watch(self, replica: StartedReplica, scope: trio.CancelScope) -> None:
        await replica.wait_exited()
        reason = await replica.explain_loss(ChannelBroken("the connection ended"))
        self._replicas.lose(replica, str(reason))
        scope.cancel()

    # -- what it is ---------------------------------------------------------------------------

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The replicas that take calls now.

        One that is a process is a :class:`spear.runtimes.Instance`, which can do more.
        """
        return self._replicas.ready

    def statistics(self) -> DeploymentStatistics:
        """The counters."""
        ready = self.replicas
        return DeploymentStatistics(
            ready=len(ready),
            started=self._started,
            lost=self._replicas.lost,
            calls_in_flight=sum(replica.health().calls_in_flight for replica in ready),
        )


async def run_deployment(
    deployment: Deployment,
    replicas: int,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Start the replicas, say so when all are ready, and keep them until they are to be stopped.

    If cancelled, they are killed.

    Raises:
        SpearError: one of them did not become ready; the others have been killed.
    """
    failures: list[SpearError] = []
    try:
        with deployment._scope:
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as starting:
                    for number in range(1, replicas + 1):
                        starting.start_soon(
                            deployment._start, nursery, number, failures, starting.cancel_scope
                        )
                if failures:
                    nursery.cancel_scope.cancel()
                else:
                    task_status.started()
                    await deployment._stopping.wait()
    finally:
        deployment._stopped.set()
    if failures:
        raise failures[0]
