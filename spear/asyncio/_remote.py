"""A running host, for asyncio programs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Unpack, final

import spear.remote
from spear._errors import NotFound
from spear._util import NoPublicConstructor

from ._bridge import Bridge, InThread, OpeningBlock, open_in_thread
from ._functions import Execution, Function, wrap_execution, wrap_function

if TYPE_CHECKING:
    import os

    from spear.calls import FunctionDescription
    from spear.remote import ConnectArguments
    from spear.spearlet import Scale


@final
class RemoteDeployment(metaclass=NoPublicConstructor):
    """A :class:`spear.RemoteDeployment` for asyncio programs. Its functions are attributes.

    Attributes:
        name: its name.
    """

    def __init__(self, bridge: Bridge, deployment: spear.remote.RemoteDeployment) -> None:
        self.name = deployment.name
        self._bridge = bridge
        self._deployment = deployment

    def __repr__(self) -> str:
        return f"<asyncio.RemoteDeployment {self.name}>"

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of its functions, as the host last listed them."""
        return self._deployment.functions

    @property
    def streams(self) -> frozenset[str]:
        """The names of the functions that send items."""
        return self._deployment.streams

    def function(self, name: str) -> Function:
        """Return a function by its name; see :meth:`spear.RemoteDeployment.function`."""
        return wrap_function(self._bridge, self._deployment.function(name))

    def __getattr__(self, name: str) -> Function:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self.function(name)
        except NotFound as error:
            raise AttributeError(str(error)) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.functions]

    async def descriptions(self) -> dict[str, FunctionDescription]:
        """Return descriptions of its functions by name, as the host gives them."""
        return await self._bridge.run(self._deployment.descriptions)

    async def status(self) -> dict[str, object]:
        """Return the deployment's state and figures, as the host shows them."""
        return await self._bridge.run(self._deployment.status)

    async def scale(self, replicas: int | Scale) -> None:
        """Change the number of replicas; see :meth:`spear.RemoteDeployment.scale`."""
        await self._bridge.run(self._deployment.scale, replicas)

    async def restart(self) -> None:
        """Replace every replica; see :meth:`spear.RemoteDeployment.restart`."""
        await self._bridge.run(self._deployment.restart)

    async def stop(self) -> None:
        """Stop the deployment; see :meth:`spear.RemoteDeployment.stop`."""
        await self._bridge.run(self._deployment.stop)

    async def start(self) -> None:
        """Start the deployment again; see :meth:`spear.RemoteDeployment.start`."""
        await self._bridge.run(self._deployment.start)


@final
class RemoteHost(InThread[spear.remote.RemoteHost]):
    """A :class:`spear.RemoteHost` for asyncio programs. Made by :func:`connect`."""

    def __repr__(self) -> str:
        return f"<asyncio.RemoteHost {self.where}>"

    @property
    def where(self) -> str:
        """The host's address for people, without its token."""
        return self._inner.where

    @property
    def deployments(self) -> dict[str, RemoteDeployment]:
        """The deployments by name, as the host last listed them."""
        found = self._inner.deployments
        return {name: RemoteDeployment._create(self._bridge, each) for name, each in found.items()}

    async def deployment(self, name: str) -> RemoteDeployment:
        """Return a deployment by its name; see :meth:`spear.RemoteHost.deployment`."""
        found = await self._bridge.run(self._inner.deployment, name)
        return RemoteDeployment._create(self._bridge, found)

    async def refresh(self) -> None:
        """Ask the host for its deployments and functions."""
        await self._bridge.run(self._inner.refresh)

    async def status(self) -> dict[str, object]:
        """Return the host's state and figures, as it shows them."""
        return await self._bridge.run(self._inner.status)

    async def execution(self, execution_id: str) -> Execution:
        """Return a submitted call of the host by its id; see :meth:`spear.RemoteHost.execution`."""
        execution = await self._bridge.run(self._inner.execution, execution_id)
        return wrap_execution(self._bridge, execution)

    async def drain(self, seconds: float | None = None) -> None:
        """Let the host take no new calls; see :meth:`spear.RemoteHost.drain`."""
        await self._bridge.run(self._inner.drain, seconds)

    def find_function(self, name: str) -> Function:
        """Return a function by its name, or by ``deployment.name``."""
        return wrap_function(self._bridge, self._inner.find_function(name))


def connect(
    address: str | os.PathLike[str] | None = None, **arguments: Unpack[ConnectArguments]
) -> OpeningBlock[RemoteHost]:
    """Connect to a running host, for an asyncio program.

    ::

        async with spear.asyncio.connect("http://127.0.0.1:8080") as host:
            shop = await host.deployment("shop")
            print(await shop.price("tea", timeout=5))

    The connections are closed at the end of the block. Without a block: ``host = await connect(...)``,
    and ``await host.aclose()``.

    Args:
        address: the host's URL, the path of its control socket, or its name; see :func:`spear.connect`.
        arguments: as for :func:`spear.connect`, whose errors are raised when the block is entered.
    """
    opening = partial(spear.remote.connect, address, **arguments)
    return OpeningBlock(partial(open_in_thread, RemoteHost._create, opening))
