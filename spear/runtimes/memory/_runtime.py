"""The memory runtime: each instance is a task of its host.

Several instances of one agent share the interpreter and the objects of the program. A deployment of an
agent therefore has one replica, unless its settings allow more with ``shares_process``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, ClassVar, final

import attrs
import trio

from spear._errors import ConfigurationError
from spear.channels import open_private_nursery, protected_block, protected_class

from .._abc import InstanceTemplate, Runtime, TemplateSpec
from .._body import RuntimeSettings
from ._agent import LocalAgent
from ._body import MemoryBody

if TYPE_CHECKING:
    from spear._host_limits import InstanceTimeouts
    from spear.channels import Endpoint

    from .._logs import LogBook


@final
@attrs.frozen(kw_only=True)
class MemorySettings(RuntimeSettings):
    """An agent that runs inside the host's process.

    Attributes:
        agent: a :class:`spear.Agent`.
        shares_process: whether several replicas may share this process. They share the interpreter, the
            memory and the objects of the program, so they add slots for calls but no processor.
    """

    agent: LocalAgent
    shares_process: bool = False

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.agent, LocalAgent):
            raise ConfigurationError.about("agent", f"must be a spear.Agent, not {self.agent!r}")

    @property
    def title(self) -> str:
        """The agent's name."""
        return self.agent.name or "functions"

    def check_replicas(self, most: int) -> None:
        """Raise ConfigurationError for several replicas without ``shares_process``."""
        if most > 1 and not self.shares_process:
            raise ConfigurationError(
                f"{most} replicas of an Agent would all run inside this process: deploy the agent's "
                'file, as in deploy("shop.py"), to run several processes, or allow replicas in one '
                "process with MemorySettings(agent=..., shares_process=True)",
                key="replicas",
                code="one_process",
            )


@final
@protected_class
@attrs.define(eq=False, kw_only=True)
class MemoryRuntime(Runtime):
    """A runtime that runs agents inside this process."""

    name: ClassVar[str] = "memory"
    settings_class: ClassVar[type[RuntimeSettings]] = MemorySettings

    def takes(self, target: object) -> RuntimeSettings | None:
        """Return settings for an agent."""
        if isinstance(target, LocalAgent):
            return MemorySettings(agent=target)
        return super().takes(target)

    @protected_block
    async def prepare(self, spec: TemplateSpec) -> AsyncIterator[MemoryTemplate]:
        """Open a template without any preparation: the program is already loaded."""
        assert isinstance(spec.settings, MemorySettings)  # checked by open_template
        await trio.lowlevel.checkpoint()
        yield MemoryTemplate(self, spec, spec.settings)


@final
@protected_class
class MemoryTemplate(InstanceTemplate):
    """A template that starts tasks, each of which runs one agent."""

    def __init__(
        self, runtime: MemoryRuntime, spec: TemplateSpec, settings: MemorySettings
    ) -> None:
        super().__init__(runtime, spec)
        self._settings = settings

    @protected_block
    async def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AsyncIterator[MemoryBody]:
        """Start a task; see :meth:`InstanceTemplate.launch`."""
        settings, limits = self._settings, self.spec.limits.wire
        transports = self.spec.factory.transports
        body = MemoryBody(
            settings.agent, endpoint, book, limits, timeouts, transports, debug=settings.debug
        )
        async with open_private_nursery() as nursery:
            await nursery.start(body.run)
            yield body
