"""A runtime whose blocks do whatever a test wants to see survived. Its instances are tasks."""

from __future__ import annotations

import signal
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import attrs
import trio

from spear.channels import CommunicationStrategy
from spear.runtimes import InstanceBody, InstanceTemplate, Runtime, RuntimeSettings
from spear.testing import Functions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from spear import InstanceTimeouts
    from spear.channels import ChannelConfig, CommunicationChannel, Endpoint, InboundCall
    from spear.runtimes import LogBook, TemplateSpec

Prepare: TypeAlias = "Callable[[InstanceTemplate], AbstractAsyncContextManager[InstanceTemplate]]"
Launch: TypeAlias = "Callable[[Endpoint], AbstractAsyncContextManager[InstanceBody]]"


async def echo(call: InboundCall) -> bytes:
    return call.payload


class GadgetBody(InstanceBody):
    """Runs until it is asked to end."""

    def __init__(self, channel: CommunicationChannel) -> None:
        self._channel = channel
        self._ended = trio.Event()

    async def wait_exited(self) -> None:
        await self._ended.wait()

    async def watch(self) -> None:
        await self._channel.closed.wait()
        self.end(0)

    async def terminate(self) -> None:
        self.end(-signal.SIGTERM)

    async def kill(self) -> None:
        self.end(-signal.SIGKILL)

    def end(self, exit_status: int) -> None:
        if not self.has_ended:
            self.exit_status, self.has_ended = exit_status, True
            self._ended.set()


@asynccontextmanager
async def prepares(template: InstanceTemplate) -> AsyncIterator[InstanceTemplate]:
    yield template


@asynccontextmanager
async def launches(
    endpoint: Endpoint, make_body: Callable[[CommunicationChannel], InstanceBody] = GadgetBody
) -> AsyncIterator[InstanceBody]:
    functions = Functions({"echo": echo})
    async with endpoint.attach(service=functions, functions=functions.names) as channel:
        yield make_body(channel)


@attrs.frozen(kw_only=True)
class GadgetSettings(RuntimeSettings):
    """Settings without a field."""


class GadgetTemplate(InstanceTemplate):
    """Starts tasks."""

    def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AbstractAsyncContextManager[InstanceBody]:
        assert isinstance(self.runtime, GadgetRuntime)
        return self.runtime.how_launched(endpoint)


class ClumsyTemplate(GadgetTemplate):
    """Raises wherever a host asks it for something before it launches an instance."""

    @property
    def obstacle(self) -> str:
        raise ZeroDivisionError("no beads")

    def configure_channel(self, config: ChannelConfig) -> ChannelConfig:
        raise ZeroDivisionError("no beads")


@attrs.define(eq=False, kw_only=True)
class GadgetRuntime(Runtime):
    """Starts tasks, as a test wants."""

    name: ClassVar[str] = "gadget"
    settings_class: ClassVar[type[RuntimeSettings]] = GadgetSettings
    strategy: ClassVar[CommunicationStrategy | None] = CommunicationStrategy(("memory",))

    how_prepared: Prepare = prepares
    how_launched: Launch = launches
    template_class: type[InstanceTemplate] = GadgetTemplate

    def prepare(self, spec: TemplateSpec) -> AbstractAsyncContextManager[InstanceTemplate]:
        return self.how_prepared(self.template_class(self, spec))
