"""What a target of ``deploy`` means, and how its replicas are opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, final

import attrs

from spear._errors import ConfigurationError
from spear._ids import MAX_DEPLOYMENT_NAME, problem_of_deployment_name
from spear._targets import name_of
from spear.channels import protected_block
from spear.runtimes import InstanceSpec, LocalAgent, RuntimeSettings

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.channels import CommunicationFactory, Service
    from spear.runtimes import InstanceTemplate, OnEvent, OnLine, RuntimeRegistry

    from ._callbacks import Callbacks
    from ._settings import DeploymentSettings
    from ._supervisor import StartedReplica

Target: TypeAlias = str | Path | RuntimeSettings | LocalAgent
"""A Python file; a module's dotted name; settings of processes or of another runtime; or an Agent."""


class Launcher(Protocol):
    """Starts replicas of one source; see :attr:`Source.open`."""

    def open_replica(
        self, instance_id: InstanceId, on_event: OnEvent, on_line: OnLine
    ) -> AbstractAsyncContextManager[StartedReplica]:
        """Start one, and stop it when the block is left."""

    @property
    def obstacle(self) -> str:
        """Why its processes are spawned one by one, as the end of "it ..."; empty if they are forked."""


@final
@attrs.frozen
class Source:
    """What a deployment runs.

    Attributes:
        runtime: the name of what runs its replicas.
        name: a name for it, if nobody gives another.
        text: for people.
        check_replicas: raises ConfigurationError if there cannot be so many replicas.
        open: what starts them, for as long as a block runs; told how the deployment is kept, and who
            receives the lines that are written before there are any.
    """

    runtime: str
    name: str
    text: str
    check_replicas: Callable[[int], None]
    open: Callable[[DeploymentSettings, OnLine], AbstractAsyncContextManager[Launcher]]


@final
@attrs.frozen
class _TemplateLauncher:
    """Starts the instances of a runtime."""

    template: InstanceTemplate
    service: Service

    def open_replica(
        self, instance_id: InstanceId, on_event: OnEvent, on_line: OnLine
    ) -> AbstractAsyncContextManager[StartedReplica]:
        spec = InstanceSpec(
            instance_id=instance_id, service=self.service, on_event=on_event, on_line=on_line
        )
        return self.template.open_instance(spec)

    @property
    def obstacle(self) -> str:
        return self.template.obstacle


@final
class Sources:
    """Understands targets, for one spearlet."""

    def __init__(
        self, runtimes: RuntimeRegistry, callbacks: Callbacks, factory: CommunicationFactory
    ) -> None:
        self._runtimes = runtimes
        self._callbacks = callbacks
        self._factory = factory

    def resolve(self, target: Target, *, debug: bool) -> Source:
        """What a target means.

        Raises:
            ConfigurationError: it cannot be deployed.
        """
        if target == "":
            raise ConfigurationError("deploy() needs a file, a module, settings or an Agent")
        runtime, settings = self._runtimes.resolve(target)
        settings = attrs.evolve(settings, debug=debug or settings.debug)
        runtime.validate(settings)
        title = str(target) if isinstance(target, str | Path) else settings.title
        name = _default_name(title) if title else runtime.name

        @protected_block
        async def open_launcher(
            kept: DeploymentSettings, on_line: OnLine
        ) -> AsyncIterator[Launcher]:
            opening = runtime.open_template(
                settings,
                self._factory,
                several=kept.replicas.is_several,
                timeouts=kept.timeouts,
                on_line=on_line,
            )
            async with opening as template:
                yield _TemplateLauncher(template, self._callbacks)

        return Source(
            runtime.name, name, title or repr(settings), settings.check_replicas, open_launcher
        )


def check_name(name: object) -> None:
    """Raise ConfigurationError for what cannot name a deployment."""
    if problem := problem_of_deployment_name(name):
        raise ConfigurationError(f"{name!r} {problem}")


def _default_name(title: str) -> str:
    """A name for a deployment, out of a path, a module's name or an agent's."""
    return name_of(title)[:MAX_DEPLOYMENT_NAME] or "functions"
