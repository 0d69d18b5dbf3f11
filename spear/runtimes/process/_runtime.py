"""The process runtime: each instance is a process in a session of its own.

Here only the pieces are put together: ``_instance`` leads an instance's life, ``_launch`` starts its
process, ``_body`` watches it, ``_zygote`` forks it if that can be.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import attrs

from spear._paths import absolute, working_directory
from spear.channels import protected_block, protected_class

from .._abc import InstanceTemplate, Runtime, RuntimeCapabilities, TemplateSpec
from .._body import RuntimeSettings
from ._children import HostChildren
from ._launch import launch_process
from ._settings import ProcessSettings, is_certain
from ._zygote import Zygote, ZygoteStatistics, open_zygote

if TYPE_CHECKING:
    from spear._host_limits import InstanceTimeouts
    from spear.channels import ChannelConfig, Endpoint

    from .._logs import LogBook
    from ._body import ProcessBody


@final
@protected_class
@attrs.define(eq=False, kw_only=True)
class ProcessRuntime(Runtime):
    """Runs instances as processes on this machine.

    Attributes:
        max_instances: see :class:`Runtime`.
    """

    name: ClassVar[str] = "process"
    settings_class: ClassVar[type[RuntimeSettings]] = ProcessSettings

    def capabilities(self) -> RuntimeCapabilities:
        """What can be asked of processes."""
        return RuntimeCapabilities(
            can_limit_memory=True,
            can_limit_cpu=True,
            can_be_signalled=True,
            can_drain=True,
            can_run_any_program=True,
        )

    def takes(self, target: object) -> ProcessSettings | None:
        """Return settings for a Python file, a directory with a ``main.py``, or a module's dotted name.

        A module is looked for where this process looks, and is taken only if it is found there.

        Raises:
            ConfigurationError: a path is relative, and the working directory has been removed.
        """
        if isinstance(target, str | Path) and is_certain(str(target)):
            target = ProcessSettings(target=str(target))
        if not isinstance(target, ProcessSettings):
            return None
        settings = target.made_absolute()
        if settings.target and settings.split_target()[0] is None:
            search = dict.fromkeys((*settings.python_path, *_search_path()))
            settings = attrs.evolve(settings, python_path=tuple(search))
        return settings

    @protected_block
    async def prepare(self, spec: TemplateSpec) -> AsyncIterator[ProcessTemplate]:
        """What starts processes of one program.

        If there may be several, or ``settings.start`` is ``zygote``, the program is being loaded from now
        on, to be forked; no task has to wait for that. Instances that outlive the block live on, but how
        they end is not known. Leaving the block takes no longer than ``terminate_seconds`` and is not cut
        short if cancelled.
        """
        settings = spec.settings
        assert isinstance(settings, ProcessSettings)  # open_template has seen to it
        settings = settings.made_absolute()
        async with AsyncExitStack() as stack:
            zygote: Zygote | None = None
            # For one instance alone, a zygote would load the program once too often.
            if settings.start == "zygote" or (spec.several and not settings.command):
                children = HostChildren.of(spec.factory)
                guard = await children.get_guard(spec.factory)
                instruments = spec.factory.manager.instruments
                opening = open_zygote(
                    settings, spec.limits, children.starters, guard, spec.on_line, instruments
                )
                zygote = await stack.enter_async_context(opening)
            yield ProcessTemplate(self, spec, settings, zygote)


@final
@protected_class
class ProcessTemplate(InstanceTemplate):
    """Starts processes of one program. Made by :meth:`ProcessRuntime.open_template`."""

    def __init__(
        self,
        runtime: ProcessRuntime,
        spec: TemplateSpec,
        settings: ProcessSettings,
        zygote: Zygote | None,
    ) -> None:
        super().__init__(runtime, spec)
        self._settings = settings
        self._zygote = zygote

    def __repr__(self) -> str:
        how = f"spawns, as it {self.obstacle}" if self.obstacle else "forks"
        return f"<ProcessTemplate of {self._settings.title}: {how}>"

    @property
    def obstacle(self) -> str:
        """Why processes are spawned one by one, as the end of "it ..."; empty if they are forked."""
        return self.statistics().obstacle

    def refresh(self) -> None:
        """Load the program anew, for all instances from now on; those that run are not touched.

        That happens by itself when a file has changed that one of its modules was loaded from. Call this
        when anything else has changed that it reads when it is loaded; or to try again to fork what could
        not be forked.
        """
        if self._zygote is not None:
            self._zygote.refresh()

    def statistics(self) -> ZygoteStatistics:
        """The counters."""
        if self._zygote is not None:
            return self._zygote.statistics()
        return ZygoteStatistics(obstacle="has but one instance")

    def configure_channel(self, config: ChannelConfig) -> ChannelConfig:
        """Return how to talk to an instance, for what its spec says."""
        return attrs.evolve(config, low_latency=True) if self._settings.low_latency else config

    @protected_block
    async def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AsyncIterator[ProcessBody]:
        """Fork or spawn a process; see :meth:`InstanceTemplate.launch`."""
        factory, settings = self.spec.factory, self._settings
        if self._zygote is None:
            settings.validate()
        else:  # and the program is loaded already
            settings.validate_surroundings()
        children = HostChildren.of(factory)
        await children.sweep()
        limits = attrs.evolve(self.spec.limits, timeouts=timeouts)
        guard = await children.get_guard(factory)
        async with launch_process(
            settings, limits, children.starters, guard, endpoint, book, self._zygote
        ) as body:
            yield body


def _search_path() -> tuple[str, ...]:
    """Where this process looks for modules that are not installed."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = tuple(os.path.join(sysconfig.get_path(each), "") for each in kinds)
    here = working_directory()
    known = [each for each in sys.path if here or os.path.isabs(each)]
    places = [absolute(each, here) for each in known if os.path.isdir(each or ".")]
    return tuple(each for each in places if not os.path.join(each, "").startswith(installed))
