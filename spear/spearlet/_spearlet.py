"""The host: deploys files of functions and calls them."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from difflib import get_close_matches
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._errors import ConfigurationError, NotFound, SpearError
from spear._limits import DEFAULT_LIMITS, Limits
from spear._targets import GUARD, being_loaded, split_target
from spear._util import NoPublicConstructor
from spear.channels import CommunicationFactory, open_communication_factory, open_private_nursery
from spear.runtimes import InstanceSpec, ProcessRuntime, ProcessSettings

from ._callbacks import Callbacks
from ._deployments import (
    Deployment,
    DeploymentStatistics,
    OpenReplica,
    StartedReplica,
    run_deployment,
)
from ._executions import Execution, Work, run_execution
from ._functions import Function
from ._local import LocalAgent, open_local_replica

if TYPE_CHECKING:
    from spear._ids import InstanceId, RuntimeType
    from spear.runtimes import InstanceEvent

MAX_REPLICAS: Final = 1024
"""Of one deployment: each costs a process, three descriptors and 15 MiB."""

MAX_NAME: Final = 48
"""Of a deployment: an instance's name, which is this and a number, has at most 63 characters."""

_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_NAME - 1}}}")


@final
@attrs.frozen(kw_only=True)
class SpearletStatistics:
    """A spearlet's counters.

    Attributes:
        deployments: by name, how they are doing.
        executions: submitted calls that have not ended.
        refused_connections: connections that were not let in, by reason.
    """

    deployments: dict[str, DeploymentStatistics]
    executions: int
    refused_connections: dict[str, int]


@final
class Spearlet(metaclass=NoPublicConstructor):
    """Hosts functions. Made by :func:`open_spearlet`.

    Attributes:
        limits: for everything in it.
    """

    def __init__(
        self, limits: Limits, factory: CommunicationFactory, nursery: trio.Nursery
    ) -> None:
        self.limits = limits
        self._factory = factory
        self._nursery = nursery  # of deployments and executions; ends with open_spearlet's block
        self._runtime = ProcessRuntime(factory)
        self._callbacks = Callbacks(self.find_function)
        self._deployments: dict[str, Deployment] = {}
        self._numbers = count(1)
        self._executions = 0
        self._has_ended = False

    # -- deploying ----------------------------------------------------------------------------

    async def deploy(
        self,
        target: str | Path | ProcessSettings | LocalAgent,
        *,
        replicas: int = 1,
        name: str | None = None,
        debug: bool = False,
        on_event: Callable[[InstanceEvent], None] | None = None,
    ) -> Deployment:
        """Start a file of functions; returns when all of its replicas take calls.

        If cancelled, what was started is killed. The deployment ends with the spearlet, with its own
        ``async with`` block, or with :meth:`Deployment.stop`.

        Args:
            target: a Python file; a module's dotted name, which is looked for where this process
                looks; settings, to say more about the processes; or an Agent, which then runs inside
                this process. A file or module with several agents needs the name of one, as in
                ``shop.py:app``.
            replicas: how many processes.
            name: for the deployment and its instances; by default taken from the target.
            debug: send tracebacks with errors.
            on_event: told of every state that a process comes to, in order; must neither block nor raise.

        Raises:
            ConfigurationError: the target, the name or a setting cannot be used.
            SpawnFailed: a replica did not become ready; the message holds what it wrote last.
        """
        _expect_a_program()
        if type(replicas) is not int:
            raise ConfigurationError(f"replicas must be a whole number, not {replicas!r}")
        if not 1 <= replicas <= MAX_REPLICAS:
            raise ConfigurationError(f"replicas must be from 1 to {MAX_REPLICAS}, not {replicas}")
        if target == "":
            raise ConfigurationError("deploy() needs a file, a module, settings or an Agent")
        runtime: RuntimeType
        runtime, default_name, open_replica = self._prepare(target, debug, on_event)
        name = default_name if name is None else name
        if not _is_name(name):
            raise ConfigurationError(
                f"{name!r} cannot name a deployment: 1 to {MAX_NAME} of A-Z a-z 0-9 _ -, the first a "
                "letter or digit"
            )
        if name in self._deployments:
            raise ConfigurationError(f"there is a deployment {name!r} already: choose another name")
        self._expect_open()
        deployment: Deployment = Deployment._create(
            name, runtime, open_replica, self._launch, self.limits.call_seconds
        )
        self._deployments[name] = deployment
        await self._nursery.start(self._run, deployment, replicas)
        return deployment

    def _prepare(
        self,
        target: str | Path | ProcessSettings | LocalAgent,
        debug: bool,
        on_event: Callable[[InstanceEvent], None] | None,
    ) -> tuple[RuntimeType, str, OpenReplica]:
        """(runtime, default name, how to start a replica) of a target."""
        if isinstance(target, LocalAgent):
            return "memory", _name_of(target.name), partial(self._open_local, target, debug)
        if isinstance(target, str | Path):
            target = ProcessSettings(target=str(target))
        elif not isinstance(target, ProcessSettings):
            raise ConfigurationError(
                f"{target!r} cannot be deployed: give a file, a module's name, or an Agent"
            )
        settings = attrs.evolve(target, debug=debug or target.debug)
        if settings.target and settings.split_target()[0] is None:
            search = dict.fromkeys((*settings.python_path, *_search_path()))
            settings = attrs.evolve(settings, python_path=tuple(search))
        self._runtime.validate(settings)
        name = _name_of(settings.target or settings.program())
        return "process", name, partial(self._open_process, settings, on_event)

    async def _run(
        self, deployment: Deployment, replicas: int, *, task_status: trio.TaskStatus[None]
    ) -> None:
        try:
            await run_deployment(deployment, replicas, task_status=task_status)
        finally:
            del self._deployments[deployment.name]

    def _open_process(
        self,
        settings: ProcessSettings,
        on_event: Callable[[InstanceEvent], None] | None,
        instance_id: InstanceId,
    ) -> AbstractAsyncContextManager[StartedReplica]:
        spec = InstanceSpec(
            instance_id=instance_id,
            settings=settings,
            service=self._callbacks,
            on_event=on_event,
        )
        return self._runtime.open_instance(spec)

    def _open_local(
        self, agent: LocalAgent, debug: bool, instance_id: InstanceId
    ) -> AbstractAsyncContextManager[StartedReplica]:
        return open_local_replica(agent, debug, instance_id, self._callbacks, self.limits)

    @property
    def deployments(self) -> dict[str, Deployment]:
        """The deployments by name."""
        return dict(self._deployments)

    def find_function(self, name: str) -> Function:
        """A function by its name, or by ``deployment.name`` if several deployments have it.

        Raises:
            NotFound: there is none, or there are several.
        """
        homes = [
            (deployment, each)
            for deployment in self._deployments.values()
            for each in (name, name.removeprefix(f"{deployment.name}."))
            if each in deployment.functions
        ]
        if not homes:
            known = [
                each
                for deployment in self._deployments.values()
                for function in deployment.functions
                for each in (function, f"{deployment.name}.{function}")
            ]
            close = get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise NotFound(f"no deployment has a function {name[:100]!r}{hint}")
        found = dict.fromkeys(homes)
        if len(found) > 1:
            choices = ", ".join(f"{deployment.name}.{each}" for deployment, each in found)
            raise NotFound(f"several deployments have a function {name!r}: say {choices}")
        deployment, own_name = homes[0]
        return deployment.function(own_name)

    # -- executions ---------------------------------------------------------------------------

    def _launch(self, function: str, work: Work) -> Execution:
        self._expect_open()
        execution: Execution = Execution._create(next(self._numbers), function)
        self._executions += 1
        self._nursery.start_soon(self._execute, execution, work, name=f"execution of {function}")
        return execution

    async def _execute(self, execution: Execution, work: Work) -> None:
        try:
            await run_execution(execution, work)
        finally:
            self._executions -= 1

    def _expect_open(self) -> None:
        if self._has_ended:
            raise SpearError("this spearlet has ended")

    # -- the end ------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop all deployments: what runs may finish for a while. A checkpoint.

        If cancelled, they are being stopped all the same, but nobody waits for it.
        """
        async with trio.open_nursery() as nursery:
            for deployment in self._deployments.values():
                nursery.start_soon(deployment.stop)

    def statistics(self) -> SpearletStatistics:
        """The counters."""
        manager = self._factory.manager.statistics()
        return SpearletStatistics(
            deployments={name: each.statistics() for name, each in self._deployments.items()},
            executions=self._executions,
            refused_connections=dict(manager.acceptor.refused),
        )


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _name_of(target: str) -> str:
    """A name for instances, out of a path, a module's name or an agent's."""
    program, _ = split_target(target)
    name = Path(program).stem if program.endswith(".py") else re.split(r"[./]", program)[-1]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:MAX_NAME] or "functions"


def _search_path() -> tuple[str, ...]:
    """Where this process looks for modules that are not installed."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = tuple(os.path.join(sysconfig.get_path(each), "") for each in kinds)
    places = [os.path.abspath(each) for each in sys.path if os.path.isdir(each or ".")]
    return tuple(each for each in places if not os.path.join(each, "").startswith(installed))


def _expect_a_program() -> None:
    """Raise ConfigurationError where nothing can be hosted."""
    if program := being_loaded():
        # It would start itself, and that one itself again.
        raise ConfigurationError(
            f"a spearlet is wanted while the functions of {program} are loaded: {GUARD}"
        )
    if not trio.lowlevel.in_trio_run():
        raise ConfigurationError(
            "a spearlet needs Trio: start the program with trio.run(main), not asyncio.run(main())"
        )


def _check_limits(limits: Limits) -> None:
    """Raise ConfigurationError for what would only be noticed in the middle of a call."""
    if not isinstance(limits, Limits):
        raise ConfigurationError(f"limits must be spear.Limits(...), not {limits!r}")
    for name, value in attrs.asdict(limits).items():
        is_whole = isinstance(getattr(DEFAULT_LIMITS, name), int)
        if type(value) is not int and (is_whole or type(value) is not float):
            kind = "whole number" if is_whole else "number"
            raise ConfigurationError(f"{name} must be a {kind}, not {value!r}")
        if not value >= 0:
            raise ConfigurationError(f"{name} must not be negative, or no number: {value!r}")


@asynccontextmanager
async def open_spearlet(*, limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[Spearlet]:
    """A spearlet for as long as the block runs.

    Leaving the block stops its deployments: calls that run may finish for ``limits.drain_seconds``.
    Leaving it by an exception, or cancelled, kills them at once. Either way nothing is left. What the
    block raises comes out as it is, not in a group.

    Raises:
        ConfigurationError: an instance calls this while its functions are loaded, or it is not Trio
            that runs.
    """
    _expect_a_program()
    _check_limits(limits)
    async with open_communication_factory(limits) as factory, open_private_nursery() as nursery:
        spearlet: Spearlet = Spearlet._create(limits, factory, nursery)
        try:
            yield spearlet
            await spearlet.stop()
        finally:
            spearlet._has_ended = True
