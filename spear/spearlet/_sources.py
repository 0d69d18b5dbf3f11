"""What a target of ``deploy`` means, and how its replicas are opened."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

import attrs

from spear._errors import ConfigurationError
from spear._paths import absolute, working_directory
from spear._targets import split_target
from spear.channels import protected_block
from spear.runtimes import InstanceSpec, ProcessSettings, RuntimeSettings

from ._local import LocalAgent, open_local_replica

if TYPE_CHECKING:
    from spear._ids import InstanceId, RuntimeType
    from spear.channels import CommunicationFactory, ConnectionManager, Service
    from spear.runtimes import OnEvent, OnLine, ProcessRuntime, Runtime, Zygote

    from ._callbacks import Callbacks
    from ._supervisor import StartedReplica

MAX_NAME: Final = 48
"""Of a deployment: an instance's name, which is this and a number, has at most 63 characters."""

_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_NAME - 1}}}")

Target: TypeAlias = str | Path | RuntimeSettings | LocalAgent
"""A Python file; a module's dotted name; settings of processes or of another runtime; or an Agent."""

OpenRuntime: TypeAlias = "Callable[[CommunicationFactory], Runtime]"
"""Makes a runtime, whose instances connect through this factory."""


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
        runtime: what its replicas are.
        name: a name for it, if nobody gives another.
        text: for people.
        open: what starts them, for as long as a block runs; told whether there may be several, and who is
            told of the lines that are written before there are any.
    """

    runtime: RuntimeType
    name: str
    text: str
    open: Callable[[bool, OnLine], AbstractAsyncContextManager[Launcher]]


@final
@attrs.frozen
class _ProcessLauncher:
    """Starts processes: forks them if there is a zygote."""

    runtime: ProcessRuntime
    settings: ProcessSettings
    service: Service
    zygote: Zygote | None

    def open_replica(
        self, instance_id: InstanceId, on_event: OnEvent, on_line: OnLine
    ) -> AbstractAsyncContextManager[StartedReplica]:
        spec = InstanceSpec(
            instance_id=instance_id,
            settings=self.settings,
            service=self.service,
            on_event=on_event,
            on_line=on_line,
        )
        return self.runtime.open_instance(spec, zygote=self.zygote)

    @property
    def obstacle(self) -> str:
        return "has but one instance" if self.zygote is None else self.zygote.statistics().obstacle


@final
@attrs.frozen
class _RuntimeLauncher:
    """Starts the instances of a runtime that :func:`open_spearlet` was given."""

    runtime: Runtime
    settings: RuntimeSettings
    service: Service

    obstacle = ""

    def open_replica(
        self, instance_id: InstanceId, on_event: OnEvent, on_line: OnLine
    ) -> AbstractAsyncContextManager[StartedReplica]:
        spec = InstanceSpec(
            instance_id=instance_id,
            settings=self.settings,
            service=self.service,
            on_event=on_event,
            on_line=on_line,
        )
        return self.runtime.open_instance(spec)


@final
@attrs.frozen
class _LocalLauncher:
    """Runs an agent in this process."""

    agent: LocalAgent
    debug: bool
    service: Service
    manager: ConnectionManager

    obstacle = ""

    def open_replica(
        self, instance_id: InstanceId, on_event: OnEvent, on_line: OnLine
    ) -> AbstractAsyncContextManager[StartedReplica]:
        return open_local_replica(self.agent, self.debug, instance_id, self.service, self.manager)


@final
class Sources:
    """Understands targets, for one spearlet."""

    def __init__(
        self,
        runtime: ProcessRuntime,
        callbacks: Callbacks,
        manager: ConnectionManager,
        others: Mapping[type[RuntimeSettings], Runtime],
    ) -> None:
        self._runtime = runtime
        self._others = others
        self._callbacks = callbacks
        self._manager = manager

    def resolve(self, target: Target, *, debug: bool) -> Source:
        """What a target means.

        Raises:
            ConfigurationError: it cannot be deployed.
        """
        if target == "":
            raise ConfigurationError("deploy() needs a file, a module, settings or an Agent")
        if isinstance(target, LocalAgent):
            return self._local(target, debug)
        if isinstance(target, RuntimeSettings) and type(target) in self._others:
            return self._other(self._others[type(target)], target)
        if isinstance(target, str | Path):
            target = ProcessSettings(target=str(target))
        elif not isinstance(target, ProcessSettings):
            raise ConfigurationError(
                f"{target!r} cannot be deployed: give a file, a module's name, or an Agent"
            )
        text = target.target or target.program()
        settings = attrs.evolve(target.made_absolute(), debug=debug or target.debug)
        if settings.target and settings.split_target()[0] is None:
            search = dict.fromkeys((*settings.python_path, *_search_path()))
            settings = attrs.evolve(settings, python_path=tuple(search))
        self._runtime.validate(settings)
        return self._process(settings, text)

    def _process(self, settings: ProcessSettings, text: str) -> Source:
        @protected_block
        async def open_launcher(several: bool, on_line: OnLine) -> AsyncIterator[Launcher]:
            async with AsyncExitStack() as stack:
                zygote: Zygote | None = None
                if settings.start == "zygote" or (several and not settings.command):
                    # Loads the program once for all of them; for one alone that would be once too often.
                    opening = self._runtime.open_zygote(settings, on_line=on_line)
                    zygote = await stack.enter_async_context(opening)
                yield _ProcessLauncher(self._runtime, settings, self._callbacks, zygote)

        return Source("process", _name_of(text), text, open_launcher)

    def _other(self, runtime: Runtime, settings: RuntimeSettings) -> Source:
        runtime.validate(settings)

        @protected_block
        async def open_launcher(_: bool, __: OnLine) -> AsyncIterator[Launcher]:
            yield _RuntimeLauncher(runtime, settings, self._callbacks)

        text = repr(settings)
        return Source(runtime.runtime_type, runtime.runtime_type, text, open_launcher)

    def _local(self, agent: LocalAgent, debug: bool) -> Source:
        @protected_block
        async def open_launcher(_: bool, __: OnLine) -> AsyncIterator[Launcher]:
            yield _LocalLauncher(agent, debug, self._callbacks, self._manager)

        return Source("memory", _name_of(agent.name), repr(agent), open_launcher)


def check_name(name: object) -> None:
    """Raise ConfigurationError for what cannot name a deployment."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"{name!r} cannot name a deployment: 1 to {MAX_NAME} of A-Z a-z 0-9 _ -, the first a "
            "letter or digit"
        )


def _name_of(target: str) -> str:
    """A name for instances, out of a path, a module's name or an agent's."""
    program = split_target(target)[0].rstrip("/")
    name = Path(program).stem if program.endswith(".py") else re.split(r"[./]", program)[-1]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:MAX_NAME] or "functions"


def _search_path() -> tuple[str, ...]:
    """Where this process looks for modules that are not installed."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = tuple(os.path.join(sysconfig.get_path(each), "") for each in kinds)
    here = working_directory()
    known = [each for each in sys.path if here or os.path.isabs(each)]
    places = [absolute(each, here) for each in known if os.path.isdir(each or ".")]
    return tuple(each for each in places if not os.path.join(each, "").startswith(installed))
