"""A zygote: the manager of the processes that fork instances of one program.

A zygote starts a template (see ``_template``), and replaces it when the program's files have changed or
the template has died. Without a template, instances are spawned. Loading a program shows whether it can
be forked. If the templates of a program die repeatedly, the zygote stops starting new ones.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._errors import ConfigurationError, SpawnFailed
from spear._ids import InstanceId
from spear._targets import name_of
from spear._util import NoPublicConstructor
from spear.channels import open_private_nursery, protected_block, protected_class

from ._settings import ProcessSettings
from ._template import Template

if TYPE_CHECKING:
    from spear._host_limits import HostLimits
    from spear.telemetry import Instruments

    from .._logs import OnLine
    from ._body import ForkedBody
    from ._guard import Guard
    from ._spawn import Plumbing

logger: Final = logging.getLogger("spear.runtimes")

MOST_DEATHS: Final = 3
"""Templates that may die within MEMORY_SECONDS before instances are spawned instead."""

MOST_ATTEMPTS: Final = 3
"""Templates that one start asks before it spawns; each has died or its files have changed."""

MEMORY_SECONDS: Final = 60.0


@final
@attrs.frozen(kw_only=True)
class ZygoteStatistics:
    """A zygote's counters and state.

    Attributes:
        pid: the pid of the process that forks instances; None if there is none now.
        forked: instances that were forked.
        spawned: instances that had to be spawned instead.
        loaded: processes that were started to load the program and fork instances.
        died: processes that had loaded the program and then died unexpectedly.
        obstacle: why instances are spawned, as text to follow "it" ("has other threads: ..."); empty
            while they are forked.
    """

    pid: int | None = None
    forked: int = 0
    spawned: int = 0
    loaded: int = 0
    died: int = 0
    obstacle: str = ""


@final
@attrs.define(eq=False)
class ForkedStart:
    """A start of one instance, which may ask several templates until one forks the instance.

    Attributes:
        instance_id: the id of the instance.
        directory: the working directory of the instance.
        seconds: the time limit of the start.
        attempts: the number of templates asked so far.
        deadline: the end of the time limit, on Trio's clock.
    """

    instance_id: InstanceId
    directory: str
    seconds: float
    attempts: int = 0
    deadline: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.deadline = trio.current_time() + self.seconds

    @property
    def is_hopeful(self) -> bool:
        """Whether to ask another template; otherwise half of the time is left to spawn the program."""
        has_time = trio.current_time() < self.deadline - self.seconds / 2
        return self.attempts == 0 or (has_time and self.attempts < MOST_ATTEMPTS)


@final
@protected_class
class Zygote(metaclass=NoPublicConstructor):
    """A manager of templates that fork instances of one program. Made by :func:`open_zygote`."""

    def __init__(
        self,
        settings: ProcessSettings,
        limits: HostLimits,
        starters: trio.CapacityLimiter,
        guard: Guard,
        nursery: trio.Nursery,
        on_line: OnLine | None,
        instruments: Instruments,
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._starters = starters
        self._guard = guard
        self._nursery = nursery  # runs the templates; ends with the block of open_zygote
        self._on_line = on_line
        self._instruments = instruments
        self._is_open = True
        self._template: Template | None = None
        self._obstacle = ""
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self._died = self._forked = self._spawned = self._loaded = 0
        self.refresh()

    def __repr__(self) -> str:
        how = f"spawns, because it {self._obstacle}" if self._obstacle else "forks"
        return f"<Zygote of {self._settings.target}: {how}>"

    def refresh(self) -> None:
        """Load the program again for all further instances; running instances are unaffected.

        The program is loaded again automatically when the file of one of its modules has changed. Call
        this method when other data has changed that the program reads while it is loaded, or to try again
        to fork a program that could not be forked.
        """
        if self._template is not None:
            self._template.retire()
            self._template = None
        self._deaths.clear()
        self._obstacle = ""
        if self._settings.command:
            self._obstacle = "is a command"
        elif self._settings.start == "spawn":
            self._obstacle = "has start='spawn'"
        elif self._is_open:
            self._load()

    def statistics(self) -> ZygoteStatistics:
        """Return the counters."""
        self._look_after_template()
        return ZygoteStatistics(
            pid=self._template.pid if self._template else None,
            forked=self._forked,
            spawned=self._spawned,
            loaded=self._loaded,
            died=self._died,
            obstacle=self._obstacle,
        )

    # -- templates ----------------------------------------------------------------------------

    def _load(self) -> Template:
        self._loaded += 1
        program = name_of(self._settings.title)[:40] or "program"
        name = InstanceId("process", f"{program}-zygote", self._loaded)
        self._template = template = Template(name, self._limits, self._on_line, self._instruments)
        self._nursery.start_soon(template.run, self._settings, self._starters, self._guard)
        return template

    def _look_after_template(self) -> None:
        """Forget a template that forks no more, and count it if it has died."""
        template = self._template
        if template is None or not template.settled.is_set() or template.is_current:
            return
        self._template = None
        if template.has_died:
            self._died += 1
            self._deaths.append(trio.current_time())
            logger.warning("%s %s", template.name, template.death)
            if (
                len(self._deaths) == MOST_DEATHS
                and self._deaths[-1] - self._deaths[0] < MEMORY_SECONDS
            ):
                self._give_up(f"was loaded {MOST_DEATHS} times to be forked, and died each time")

    def _give_up(self, obstacle: str) -> None:
        self._obstacle = obstacle
        logger.warning("%s is spawned, not forked: it %s", self._settings.target, obstacle)

    # -- called by _launch --------------------------------------------------------------------

    async def _fork(self, start: ForkedStart, plumbing: Plumbing) -> ForkedBody | None:
        """Ask one template for a new instance; return None if it must be spawned.

        Raises:
            SpawnFailed: the program cannot be loaded, or the start's deadline has passed.
            ConfigurationError: ``start`` is ``zygote`` and the program cannot be forked, or the zygote's
                block has ended.
            TemplateDied: the caller may retry with new pipes; a forked child may hold the old ones.
            OSError: the system refuses to fork.
        """
        self._look_after_template()
        if not self._obstacle and (start.is_hopeful or self._settings.start == "zygote"):
            if not self._is_open:
                raise ConfigurationError(
                    f"{start.instance_id}: the block of its template has ended"
                )
            start.attempts += 1
            template = self._template or self._load()
            try:
                with trio.fail_at(start.deadline):
                    body = await self._ask(template, start, plumbing)
            except trio.TooSlowError:
                raise self._too_late(start, template) from None
            if body is not None:
                self._forked += 1
                return body
        if self._settings.start == "zygote":
            raise ConfigurationError(
                f"{self._settings.target} cannot be forked: it {self._obstacle}; move this into the "
                "program's lifespan, or remove start='zygote'"
            )
        self._spawned += 1
        return None

    async def _ask(
        self, template: Template, start: ForkedStart, plumbing: Plumbing
    ) -> ForkedBody | None:
        """Return a new instance; None if the program cannot be forked."""
        await template.settled.wait()
        if template.failure:
            if self._template is template:
                self._template = None  # the next start loads the program again
            raise SpawnFailed(
                f"{start.instance_id} did not start: it {template.failure}",
                stderr_tail=template.stderr_tail,
            )
        if template.obstacle:
            if not self._obstacle:
                self._give_up(template.obstacle)
            return None
        return await template.fork(start.directory, plumbing)

    def _too_late(self, start: ForkedStart, template: Template) -> SpawnFailed:
        has_loaded = (
            template.settled.is_set() and not template.failure
        )  # the loading has the same time limit
        does = "was not forked" if has_loaded else "did not load its program"
        seconds = f"{start.seconds:g} s (startup_seconds)"
        return SpawnFailed(
            f"{start.instance_id} did not start: it {does} within {seconds}",
            stderr_tail=template.stderr_tail,
        )


@protected_block
async def open_zygote(
    settings: ProcessSettings,
    limits: HostLimits,
    starters: trio.CapacityLimiter,
    guard: Guard,
    on_line: OnLine | None,
    instruments: Instruments,
) -> AsyncIterator[Zygote]:
    """Open a zygote, which forks instances of one program; see :meth:`ProcessRuntime.open_template`."""
    await trio.lowlevel.checkpoint()
    async with open_private_nursery() as nursery:
        zygote: Zygote = Zygote._create(
            settings, limits, starters, guard, nursery, on_line, instruments
        )
        try:
            yield zygote
        finally:
            zygote._is_open = False
