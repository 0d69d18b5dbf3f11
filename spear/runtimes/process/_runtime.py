"""The process runtime: each instance is a process in a session of its own.

Here only the pieces are put together: ``_instance`` leads an instance's life, ``_launch`` starts
its process, ``_body`` watches it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._directories import temporary_directory
from spear._errors import ConfigurationError, SpawnFailed
from spear.channels import call_unprotected, protected_block, protected_class

from .._abc import Runtime, RuntimeCapabilities, RuntimeStatistics
from .._body import InstanceSpec, RuntimeSettings
from .._instance import Instance, host_instance
from .._states import InstanceEvent, InstanceState
from ._directory import sweep_working_directories
from ._guard import Guard
from ._launch import launch_process
from ._orphans import Orphans, inherits_orphans
from ._settings import ProcessSettings
from ._zygote import Zygote, open_zygote

if TYPE_CHECKING:
    from spear._ids import RuntimeType
    from spear.channels import CommunicationFactory, Endpoint

    from .._logs import LogBook, OnLine
    from .._states import OnEvent
    from ._body import ProcessBody

MAX_STARTS_AT_ONCE: Final = 8
"""Processes that are being forked; more of them at once would be ready no earlier."""


@final
@protected_class
class ProcessRuntime(Runtime):
    """Starts processes on this machine.

    Args:
        factory: opens the channels to them; its limits are those of the instances.
        max_instances: at the same time.
    """

    def __init__(self, factory: CommunicationFactory, *, max_instances: int | None = None) -> None:
        self._factory = factory
        self._max_instances = max_instances
        self._starters = trio.CapacityLimiter(MAX_STARTS_AT_ONCE)
        self._has_swept = False
        self._guard: Guard | None = None
        self._getting_guard = trio.Lock()
        self._instances = 0
        self._seen: Counter[InstanceState] = Counter()

    @property
    def runtime_type(self) -> RuntimeType:
        """Processes."""
        return "process"

    def capabilities(self) -> RuntimeCapabilities:
        """What can be asked of processes."""
        return RuntimeCapabilities(
            can_limit_memory=True,
            can_limit_cpu=True,
            can_be_signalled=True,
            can_drain=True,
            can_run_any_program=True,
            max_instances=self._max_instances,
        )

    def validate(self, settings: RuntimeSettings) -> None:
        """Find out whether a process could be started so, without starting one.

        Raises:
            ConfigurationError: no; the message says what to change.
        """
        _own(settings).validate()

    @protected_block
    async def open_zygote(
        self, settings: ProcessSettings, *, on_line: OnLine | None = None
    ) -> AsyncIterator[Zygote]:
        """What forks instances of one program, for as long as the block runs.

        The program is being loaded from now on; nobody has to wait for it. Instances that outlive the
        block live on, but how they end is not known. Leaving the block ends the zygote, which takes no
        longer than ``limits.timeouts.terminate_seconds`` and is not cut short if cancelled.

        Args:
            settings: of the instances; those of an instance may differ in limits, debug and low_latency.
            on_line: told of every line that is written while the program is loaded; must neither block
                nor raise.

        Raises:
            ConfigurationError: see :meth:`validate`.
        """
        settings = _own(settings)
        settings.validate()
        limits = self._factory.manager.limits
        guard = await self._get_guard()
        async with open_zygote(settings, limits, self._starters, guard, on_line) as zygote:
            yield zygote

    @protected_block
    async def open_instance(
        self, spec: InstanceSpec, *, zygote: Zygote | None = None
    ) -> AsyncIterator[Instance]:
        """A process that is starting; see :meth:`Runtime.open_instance`.

        Args:
            spec: what is wanted.
            zygote: forks it, if its program can be forked, and ``settings.start`` allows it.
        """
        settings = _own(spec.settings)
        if zygote is not None:
            zygote._expect_to_fit(settings)  # and the zygote's have been found good
            settings.validate_surroundings()
        else:
            settings.validate()
            if settings.start == "zygote":
                raise ConfigurationError(
                    "start='zygote' needs one: open_instance(spec, zygote=...), from open_zygote()"
                )
        if self._max_instances is not None and self._instances >= self._max_instances:
            raise SpawnFailed(f"{spec.instance_id} did not start: {self._instances} run already")
        config = spec.channel
        if settings.low_latency:
            config = attrs.evolve(config, low_latency=True)
        counted = attrs.evolve(spec, on_event=partial(self._count, spec.on_event))
        launch = partial(self._launch, settings, zygote)
        self._instances += 1
        try:
            async with host_instance(counted, self._factory, config, launch) as instance:
                yield instance
        finally:
            self._instances -= 1

    @protected_block
    async def _launch(
        self,
        settings: ProcessSettings,
        zygote: Zygote | None,
        endpoint: Endpoint,
        book: LogBook,
    ) -> AsyncIterator[ProcessBody]:
        if not self._has_swept:
            parent = temporary_directory()
            self._has_swept = True
            await sweep_working_directories(parent)
        limits, guard = self._factory.manager.limits, await self._get_guard()
        async with launch_process(
            settings, limits, self._starters, guard, endpoint, book, zygote
        ) as body:
            yield body

    async def _get_guard(self) -> Guard:
        """The guard of this host's instances, which ends with the factory."""
        async with self._getting_guard:
            if self._guard is None:
                if inherits_orphans():  # pragma: no cover  # where coverage measures nothing
                    await self._factory.start(Orphans().run)
                self._guard = await self._factory.start(Guard().run)
        return self._guard

    def _count(self, on_event: OnEvent | None, event: InstanceEvent) -> None:
        self._seen[event.state] += 1
        if on_event is not None:
            call_unprotected(on_event, event)

    def statistics(self) -> RuntimeStatistics:
        """The counters."""
        return RuntimeStatistics(
            instances=self._instances,
            started=self._seen[InstanceState.STARTING],
            failed=self._seen[InstanceState.FAILED],
            exited=self._seen[InstanceState.EXITED],
        )


def _own(settings: RuntimeSettings) -> ProcessSettings:
    if not isinstance(settings, ProcessSettings):
        raise ConfigurationError(
            f"the process runtime needs ProcessSettings, not {type(settings).__name__}"
        )
    return settings.made_absolute()
