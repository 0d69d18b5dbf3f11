"""A runtime and a transport whose blocks misbehave as a test wants."""

from __future__ import annotations

import signal
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import attrs
import trio

from spear.channels import CommunicationStrategy
from spear.runtimes import InstanceBody, InstanceTemplate, Runtime, RuntimeSettings
from spear.testing import Functions
from spear.transports import Listener, Transport, open_memory_listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from spear import InstanceTimeouts
    from spear.channels import ChannelConfig, CommunicationChannel, Endpoint, InboundCall
    from spear.runtimes import LogBook, TemplateSpec
    from spear.transports import Address, ByteStream, ConnectOptions, ListenOptions

Prepare: TypeAlias = "Callable[[InstanceTemplate], AbstractAsyncContextManager[InstanceTemplate]]"
Launch: TypeAlias = "Callable[[Endpoint], AbstractAsyncContextManager[InstanceBody]]"


async def echo(call: InboundCall) -> bytes:
    return call.payload


class GadgetBody(InstanceBody):
    """A body that runs until it is asked to end, or until its channel, if any, is closed."""

    def __init__(self, channel: CommunicationChannel | None = None) -> None:
        self._channel = channel
        self._ended = trio.Event()

    async def wait_exited(self) -> None:
        await self._ended.wait()

    async def watch(self) -> None:
        await (self._channel.closed.wait() if self._channel else trio.sleep_forever())
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
    """Settings without fields."""


class GadgetTemplate(InstanceTemplate):
    """A template that starts instances as tasks."""

    def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AbstractAsyncContextManager[InstanceBody]:
        assert isinstance(self.runtime, GadgetRuntime)
        return self.runtime.how_launched(endpoint)


class ClumsyTemplate(GadgetTemplate):
    """A template that raises at each request of the host before it launches an instance."""

    @property
    def obstacle(self) -> str:
        raise ZeroDivisionError("no beads")

    def configure_channel(self, config: ChannelConfig) -> ChannelConfig:
        raise ZeroDivisionError("no beads")


@attrs.define(eq=False, kw_only=True)
class GadgetRuntime(Runtime):
    """A runtime that starts tasks, with the template that a test chooses."""

    name: ClassVar[str] = "gadget"
    settings_class: ClassVar[type[RuntimeSettings]] = GadgetSettings
    strategy: ClassVar[CommunicationStrategy | None] = CommunicationStrategy(("memory",))

    how_prepared: Prepare = prepares
    how_launched: Launch = launches
    template_class: type[InstanceTemplate] = GadgetTemplate

    def prepare(self, spec: TemplateSpec) -> AbstractAsyncContextManager[InstanceTemplate]:
        return self.how_prepared(self.template_class(self, spec))


# -- a transport --------------------------------------------------------------------------------------

Listen: TypeAlias = "Callable[[ListenOptions], AbstractAsyncContextManager[Listener]]"


class GadgetListener(Listener):
    """A listener in memory; tests replace its methods."""

    def __init__(self, name: str) -> None:
        self.inner = open_memory_listener(name)

    @property
    def bound(self) -> Address:
        return self.inner.bound

    async def accept(self) -> ByteStream:
        return await self.inner.accept()

    def close(self) -> None:
        self.inner.close()


@asynccontextmanager
async def listens(
    options: ListenOptions, make_listener: Callable[[str], Listener] = GadgetListener
) -> AsyncIterator[Listener]:
    async with make_listener(f"gadget-{options.name}") as listener:
        yield listener


class GadgetTransport(Transport):
    """The memory transport under another name, with the listener that a test chooses."""

    name = "gadget"
    schemes = ()

    def __init__(self, how: Listen = listens) -> None:
        self._how = how

    def parse(self, address: str) -> Address:
        raise NotImplementedError

    def listen(self, options: ListenOptions) -> AbstractAsyncContextManager[Listener]:
        return self._how(options)

    def connect(
        self, address: Address, options: ConnectOptions
    ) -> AbstractAsyncContextManager[trio.abc.Stream]:
        raise NotImplementedError
