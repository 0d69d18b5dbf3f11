"""What a target of ``deploy`` means: a program, which a runtime runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, final

import attrs

from spear._errors import ConfigurationError
from spear._ids import MAX_DEPLOYMENT_NAME, problem_of_deployment_name
from spear._targets import name_of
from spear.channels import protected_block
from spear.runtimes import LocalAgent, RuntimeSettings, blaming_runtime, call_runtime, title_of

from ._held_template import HeldTemplate

if TYPE_CHECKING:
    from spear.channels import CommunicationFactory, Service
    from spear.runtimes import OnEvent, OnLine, Runtime, RuntimeRegistry

    from ._settings import DeploymentSettings

Target: TypeAlias = str | Path | RuntimeSettings | LocalAgent
"""A Python file; a module's dotted name; settings of processes or of another runtime; or an Agent."""


@final
@attrs.frozen
class Program:
    """What a deployment runs.

    Attributes:
        runtime: runs its instances.
        settings: of them, and of that runtime.
        name: a name for a deployment of it, if its caller gives none.
        title: for people.
    """

    runtime: Runtime
    settings: RuntimeSettings
    name: str
    title: str

    def check_replicas(self, most: int) -> None:
        """Raise ConfigurationError if a deployment of it cannot have so many replicas."""
        call_runtime(self.runtime.name, "check_replicas", self.settings.check_replicas, most)


@final
class Programs:
    """Understands targets, and opens templates, for one spearlet.

    Args:
        runtimes: are asked who takes a target.
        service: what instances can call at their host.
        factory: opens the channels to them.
    """

    def __init__(
        self, runtimes: RuntimeRegistry, service: Service, factory: CommunicationFactory
    ) -> None:
        self._runtimes = runtimes
        self._service = service
        self._factory = factory

    def resolve(self, target: Target, *, debug: bool) -> Program:
        """The program that a target means.

        Raises:
            ConfigurationError: it cannot be deployed.
        """
        if target == "":
            raise ConfigurationError("deploy() needs a file, a module, settings or an Agent")
        runtime, settings = self._runtimes.resolve(target)
        with blaming_runtime(runtime.name, "settings class"):
            settings = attrs.evolve(settings, debug=debug or settings.debug)
        call_runtime(runtime.name, "validate", runtime.validate, settings)
        is_text = isinstance(target, str | Path)
        title = str(target) if is_text else title_of(runtime.name, settings)
        name = _default_name(title) if title else runtime.name
        return Program(runtime, settings, name, title or runtime.name)

    @protected_block
    async def open_template(
        self,
        program: Program,
        settings: DeploymentSettings,
        on_event: OnEvent,
        on_line: OnLine,
    ) -> AsyncIterator[HeldTemplate]:
        """What starts replicas of a program, for as long as the block runs.

        Args:
            program: is run.
            settings: of the deployment.
            on_event: receives what happens to the replicas.
            on_line: receives what they write, and what is written before there are any.

        Raises:
            SpearError: its runtime cannot prepare it.
        """
        opening = program.runtime.open_template(
            program.settings,
            self._factory,
            several=settings.replicas.is_several,
            timeouts=settings.timeouts,
            on_line=on_line,
        )
        async with opening as template:
            yield HeldTemplate(program.runtime.name, template, self._service, on_event, on_line)


def check_name(name: object) -> None:
    """Raise ConfigurationError for what cannot name a deployment."""
    if problem := problem_of_deployment_name(name):
        raise ConfigurationError(f"{name!r} {problem}")


def _default_name(title: str) -> str:
    """A name for a deployment, out of a path, a module's name or an agent's."""
    return name_of(title)[:MAX_DEPLOYMENT_NAME] or "functions"
