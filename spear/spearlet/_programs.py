"""Targets of ``deploy``, and the programs that they mean, each with its runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, final

import attrs

from spear._errors import ConfigurationError
from spear._ids import MAX_DEPLOYMENT_NAME, problem_of_deployment_name
from spear._targets import defines_function, name_of
from spear._util import did_you_mean
from spear.channels import protected_block
from spear.runtimes import (
    LocalAgent,
    ProcessSettings,
    RuntimeSettings,
    blaming_runtime,
    call_runtime,
    title_of,
)

from ._held_template import HeldTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spear.channels import CommunicationFactory, Service
    from spear.runtimes import OnEvent, OnLine, Runtime, RuntimeRegistry

    from ._settings import DeploymentSettings

Target: TypeAlias = str | Path | RuntimeSettings | LocalAgent
"""A Python file; a module's dotted name; settings of processes or of another runtime; or an Agent."""


@final
@attrs.frozen
class Program:
    """A program that a deployment runs.

    Attributes:
        runtime: the runtime of its instances.
        settings: the settings of the instances, of the runtime's ``settings_class``.
        name: the default name of a deployment of the program.
        title: a name for people.
    """

    runtime: Runtime
    settings: RuntimeSettings
    name: str
    title: str

    def check_replicas(self, most: int) -> None:
        """Raise ConfigurationError if a deployment of the program cannot have so many replicas."""
        call_runtime(self.runtime.name, "check_replicas", self.settings.check_replicas, most)

    def hint_about(self, name: str, known: Sequence[str]) -> str:
        """Return the end of a message about a function that the program has not registered.

        Reads the program's file, if it has one.

        Args:
            name: the function that is wanted.
            known: the functions that are registered.
        """
        settings = self.settings
        file = settings.split_target()[0] if isinstance(settings, ProcessSettings) else None
        if file is not None and defines_function(file, name):
            return (
                f": {file.name} defines {name}(), but does not register it; put `@app.function` above "
                f"`def {name}`"
            )
        return did_you_mean(name, known) or f"; known functions: {', '.join(known) or 'none'}"


@final
class Programs:
    """A resolver of targets, and an opener of templates, for one spearlet.

    Args:
        runtimes: finds the runtime that takes a target.
        service: the service that instances can call at their host.
        factory: opens the channels to instances.
    """

    def __init__(
        self, runtimes: RuntimeRegistry, service: Service, factory: CommunicationFactory
    ) -> None:
        self._runtimes = runtimes
        self._service = service
        self._factory = factory

    def resolve(self, target: Target, *, debug: bool) -> Program:
        """Return the program that a target means.

        Raises:
            ConfigurationError: the target cannot be deployed.
        """
        if target == "":
            raise ConfigurationError(
                "deploy() needs a file, a module's name, settings or an Agent, not ''"
            )
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
        """Open a template that starts replicas of a program, for as long as the block runs.

        Args:
            program: the program.
            settings: the deployment's settings.
            on_event: receives the events of the replicas.
            on_line: receives the lines of the replicas, and lines written before there are any.

        Raises:
            SpearError: the runtime cannot prepare the program.
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
    """Raise ConfigurationError unless ``name`` can name a deployment."""
    if problem := problem_of_deployment_name(name):
        raise ConfigurationError(f"{name!r} {problem}")


def _default_name(title: str) -> str:
    """Make a deployment's name from a path, a module's name or an agent's name."""
    return name_of(title)[:MAX_DEPLOYMENT_NAME] or "functions"
