"""The process runtime: each instance is a process in a session of its own.

This module only combines others: ``_instance`` runs an instance from start to end, ``_launch`` starts the
process, ``_body`` watches the process, ``_zygote`` forks it if the program can be forked.
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
    """A runtime that runs instances as processes on this machine.

    Attributes:
        max_instances: see :class:`Runtime`.
    """

    name: ClassVar[str] = "process"
    settings_class: ClassVar[type[RuntimeSettings]] = ProcessSettings

    def capabilities(self) -> RuntimeCapabilities:
        """Return what processes support."""
        return RuntimeCapabilities(
            can_limit_memory=True,
            can_limit_cpu=True,
            can_be_signalled=True,
            can_drain=True,
            can_run_any_program=True,
        )

    def takes(self, target: object) -> ProcessSettings | None:
        """Return settings for a Python file, a directory with a ``main.py``, or a module's dotted name.

        A module is accepted only if it is found on this process's search path.

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
        """Open a template, which starts processes of one program.

        If several instances are expected, or ``settings.start`` is ``zygote``, a process starts to load
        the program, to be forked; entering the block does not wait for it. Forked instances that outlive
        the block keep running, but their exit statuses are unknown. Leaving the block takes at most
        ``terminate_seconds``, even if cancelled.
        """
        settings = spec.settings
        assert isinstance(settings, ProcessSettings)  # checked by open_template
        settings = settings.made_absolute()
        is_directory_named = settings.working_directory is not None
        if not is_directory_named and not settings.private_directory:
            settings = attrs.evolve(settings, working_directory=_own_directory())
        async with AsyncExitStack() as stack:
            zygote: Zygote | None = None
            # For a single instance, a zygote would only load the program once more.
            if settings.start == "zygote" or (spec.several and not settings.command):
                children = HostChildren.of(spec.factory)
                guard = await children.get_guard(spec.factory)
                instruments = spec.factory.manager.instruments
                opening = open_zygote(
                    settings, spec.limits, children.starters, guard, spec.on_line, instruments
                )
                zygote = await stack.enter_async_context(opening)
            yield ProcessTemplate(
                self, spec, settings, zygote, is_directory_named=is_directory_named
            )


@final
@protected_class
class ProcessTemplate(InstanceTemplate):
    """A template that starts processes of one program. Made by :meth:`ProcessRuntime.open_template`."""

    def __init__(
        self,
        runtime: ProcessRuntime,
        spec: TemplateSpec,
        settings: ProcessSettings,
        zygote: Zygote | None,
        *,
        is_directory_named: bool,
    ) -> None:
        super().__init__(runtime, spec)
        self._settings = settings
        self._zygote = zygote
        self._is_directory_named = is_directory_named

    def __repr__(self) -> str:
        how = f"spawns, because it {self.obstacle}" if self.obstacle else "forks"
        return f"<ProcessTemplate of {self._settings.title}: {how}>"

    @property
    def obstacle(self) -> str:
        """The reason why processes are spawned, as text to follow "it"; empty while they are forked."""
        return self.statistics().obstacle

    def refresh(self) -> None:
        """Load the program again for all further instances; running instances are unaffected.

        The program is loaded again automatically when the file of one of its modules has changed. Call
        this method when other data has changed that the program reads while it is loaded, or to try again
        to fork a program that could not be forked.
        """
        if self._zygote is not None:
            self._zygote.refresh()

    def statistics(self) -> ZygoteStatistics:
        """Return the counters."""
        if self._zygote is not None:
            return self._zygote.statistics()
        return ZygoteStatistics(obstacle="has only one instance")

    def configure_channel(self, config: ChannelConfig) -> ChannelConfig:
        """Return ``config``, with low latency if the settings ask for it."""
        return attrs.evolve(config, low_latency=True) if self._settings.low_latency else config

    @protected_block
    async def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AsyncIterator[ProcessBody]:
        """Fork or spawn a process; see :meth:`InstanceTemplate.launch`."""
        factory, settings = self.spec.factory, self._settings
        directory = settings.working_directory
        if directory and not self._is_directory_named and not os.access(directory, os.X_OK):
            settings = attrs.evolve(settings, working_directory=None)  # it was removed meanwhile
        if self._zygote is None:
            settings.validate()
        else:  # the zygote has loaded the program
            settings.validate_surroundings()
        children = HostChildren.of(factory)
        await children.sweep()
        limits = attrs.evolve(self.spec.limits, timeouts=timeouts)
        guard = await children.get_guard(factory)
        async with launch_process(
            settings, limits, children.starters, guard, endpoint, book, self._zygote
        ) as body:
            yield body


def _own_directory() -> str | None:
    """Return the working directory of this process; None if it was removed, or cannot be entered."""
    here = working_directory()
    return here if here is not None and os.access(here, os.X_OK) else None


def _search_path() -> tuple[str, ...]:
    """Return the directories where this process searches for modules that are not installed."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = tuple(os.path.join(sysconfig.get_path(each), "") for each in kinds)
    here = working_directory()
    known = [each for each in sys.path if here or os.path.isabs(each)]
    places = [absolute(each, here) for each in known if os.path.isdir(each or ".")]
    return tuple(each for each in places if not os.path.join(each, "").startswith(installed))
