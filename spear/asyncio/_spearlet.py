"""A spearlet and its deployments, for asyncio programs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self, Unpack, cast, final

import spear.spearlet
from spear._errors import NotFound, SpearError
from spear._util import NoPublicConstructor

from ._bridge import Block, Bridge, InThread, OpeningBlock, Taken, open_in_thread
from ._functions import Function, wrap_function
from ._typed import D

if TYPE_CHECKING:
    from types import TracebackType

    from spear.calls import FunctionDescription
    from spear.spearlet import (
        DeployArguments,
        DeploymentHealth,
        DeploymentSettings,
        DeploymentStatistics,
        FollowedLines,
        InstanceLine,
        Scale,
        SpearletArguments,
        SpearletState,
        SpearletStatistics,
        Target,
    )


class DeployedProgram(metaclass=NoPublicConstructor):
    """A :class:`Deployment` without attributes for its functions, from which typed clients are derived.

    The end of a ``async with deployment`` block stops it.

    Attributes:
        name: its name.
    """

    def __init__(self, bridge: Bridge, deployment: spear.spearlet.Deployment) -> None:
        self.name = deployment.name
        self._bridge = bridge
        self._deployment = deployment

    def __repr__(self) -> str:
        return f"<asyncio.Deployment {self.name}>"

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of its functions."""
        return self._deployment.functions

    @property
    def streams(self) -> frozenset[str]:
        """The names of the functions that send items."""
        return self._deployment.streams

    def function(self, name: str) -> Function:
        """Return a function by its name; see :meth:`spear.Deployment.function`."""
        return wrap_function(self._bridge, self._deployment.function(name))

    async def descriptions(self) -> dict[str, FunctionDescription]:
        """Return descriptions of its functions by name."""
        return await self._bridge.run(self._deployment.descriptions)

    async def scale(self, replicas: int | Scale) -> None:
        """Change the number of replicas; see :meth:`spear.Deployment.scale`."""
        await self._bridge.run(self._deployment.scale, replicas)

    async def restart(
        self,
        target: Target | None = None,
        settings: DeploymentSettings | None = None,
        *,
        debug: bool = False,
    ) -> None:
        """Replace every replica, one after the other; see :meth:`spear.Deployment.restart`."""
        await self._bridge.run(partial(self._deployment.restart, target, settings, debug=debug))

    async def stop(self, seconds: float | None = None) -> None:
        """Stop all replicas; see :meth:`spear.Deployment.stop`."""
        await self._bridge.run(self._deployment.stop, seconds)

    async def health(self) -> DeploymentHealth:
        """Return the present health."""
        return await self._bridge.look(self._deployment.health)

    async def statistics(self) -> DeploymentStatistics:
        """Return the counters."""
        return await self._bridge.look(self._deployment.statistics)

    async def logs(self, most: int | None = None) -> tuple[InstanceLine, ...]:
        """Return the last lines that its instances wrote; see :meth:`spear.Deployment.logs`."""
        return await self._bridge.look(self._deployment.logs, most)

    def follow_logs(self) -> Block[FollowedLines, Taken[InstanceLine]]:
        """Open an iterator over the lines that its instances write, in a ``with`` block."""
        return Block(self._bridge, self._deployment.follow_logs, partial(Taken, self._bridge))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._bridge.run(self._deployment.__aexit__, kind, error, traceback)


@final
class Deployment(DeployedProgram):
    """A :class:`spear.Deployment` for asyncio programs. Its functions are its attributes.

    Made by :meth:`Spearlet.deploy`.
    """

    def __getattr__(self, name: str) -> Function:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self.function(name)
        except NotFound as error:
            raise AttributeError(str(error)) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.functions]


@final
class Spearlet(InThread[spear.spearlet.Spearlet]):
    """A :class:`spear.Spearlet` in a thread of its own. Made by :func:`open_spearlet`."""

    def __repr__(self) -> str:
        return f"<asyncio.Spearlet, {self.state.value}>"

    async def deploy(self, target: Target, **arguments: Unpack[DeployArguments]) -> D:
        """Start replicas of a program; returns when all take calls. See :meth:`spear.Spearlet.deploy`.

        Returns:
            A :class:`Deployment`; to type checkers the typed client that its variable is declared to be.
        """
        if self._is_closed:
            raise SpearError("this spearlet is stopped")

        async def deploy() -> spear.spearlet.Deployment:
            return await self._inner.deploy(target, **arguments)

        deployment = Deployment._create(self._bridge, await self._bridge.run(deploy))
        return cast("D", deployment)

    @property
    def deployments(self) -> dict[str, Deployment]:
        """The deployments by name."""
        found = self._inner.deployments
        return {name: Deployment._create(self._bridge, each) for name, each in found.items()}

    def find_function(self, name: str) -> Function:
        """Return a function by its name, or by ``deployment.name``."""
        return wrap_function(self._bridge, self._inner.find_function(name))

    @property
    def state(self) -> SpearletState:
        """The state of the spearlet."""
        return self._inner.state

    async def statistics(self) -> SpearletStatistics:
        """Return the counters."""
        return await self._bridge.look(self._inner.statistics)

    async def drain(self, seconds: float | None = None) -> None:
        """Take no new calls, let the others finish, and stop; see :meth:`spear.Spearlet.drain`."""
        await self._bridge.run(self._inner.drain, seconds)

    async def stop(self, seconds: float | None = None) -> None:
        """Stop all deployments; see :meth:`spear.Spearlet.stop`."""
        await self._bridge.run(self._inner.stop, seconds)


def open_spearlet(**arguments: Unpack[SpearletArguments]) -> OpeningBlock[Spearlet]:
    """Open a spearlet in a thread of its own, for an asyncio program.

    ::

        async with spear.asyncio.open_spearlet() as spearlet:
            shop = await spearlet.deploy("shop.py", replicas=4)
            print(await shop.price("tea", timeout=5))

    Leaving the block stops its deployments: running calls may finish for
    ``limits.timeouts.drain_seconds``. Leaving the block by an exception, or cancelled, kills all replicas
    at once; so does the exit of an interpreter with an open spearlet. Where no block can be left open, as
    in the cells of a notebook, use ``spearlet = await open_spearlet()``, and ``await spearlet.aclose()``.

    Instruments, and functions of an :class:`~spear.Agent` that is deployed in this process, run in the
    spearlet's thread. A process that forks opens its spearlet after the fork. The spearlet is used in the
    event loop that has opened it.

    Args:
        arguments: as for :func:`spear.open_spearlet`.

    Raises:
        ConfigurationError: as :func:`spear.open_spearlet`; raised when the block is entered.
    """
    opening = partial(spear.spearlet.open_spearlet, **arguments)
    return OpeningBlock(partial(open_in_thread, Spearlet._create, opening))
