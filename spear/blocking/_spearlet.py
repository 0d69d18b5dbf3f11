"""A spearlet and its deployments, for threads without an event loop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self, Unpack, final

import spear.spearlet
from spear._errors import NotFound, SpearError
from spear._util import NoPublicConstructor

from ._bridge import Block, Bridge, InThread, Taken
from ._functions import Function, wrap_function

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

    The end of a ``with deployment`` block stops it.

    Attributes:
        name: its name.
    """

    def __init__(self, bridge: Bridge, deployment: spear.spearlet.Deployment) -> None:
        self.name = deployment.name
        self._bridge = bridge
        self._deployment = deployment

    def __repr__(self) -> str:
        return f"<blocking.Deployment {self.name}>"

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

    def descriptions(self) -> dict[str, FunctionDescription]:
        """Return descriptions of its functions by name."""
        return self._bridge.run(self._deployment.descriptions)

    def scale(self, replicas: int | Scale) -> None:
        """Change the number of replicas; see :meth:`spear.Deployment.scale`."""
        self._bridge.run(self._deployment.scale, replicas)

    def restart(
        self,
        target: Target | None = None,
        settings: DeploymentSettings | None = None,
        *,
        debug: bool = False,
    ) -> None:
        """Replace every replica, one after the other; see :meth:`spear.Deployment.restart`."""
        self._bridge.run(partial(self._deployment.restart, target, settings, debug=debug))

    def stop(self, seconds: float | None = None) -> None:
        """Stop all replicas; see :meth:`spear.Deployment.stop`."""
        self._bridge.run(self._deployment.stop, seconds)

    def health(self) -> DeploymentHealth:
        """Return the present health."""
        return self._bridge.look(self._deployment.health)

    def statistics(self) -> DeploymentStatistics:
        """Return the counters."""
        return self._bridge.look(self._deployment.statistics)

    def logs(self, most: int | None = None) -> tuple[InstanceLine, ...]:
        """Return the last lines that its instances wrote; see :meth:`spear.Deployment.logs`."""
        return self._bridge.look(self._deployment.logs, most)

    def follow_logs(self) -> Block[FollowedLines, Taken[InstanceLine]]:
        """Open an iterator over the lines that its instances write, in a ``with`` block."""
        return Block(self._bridge, self._deployment.follow_logs, partial(Taken, self._bridge))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bridge.run(self._deployment.__aexit__, kind, error, traceback)


@final
class Deployment(DeployedProgram):
    """A :class:`spear.Deployment` for threads without an event loop. Its functions are its attributes.

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
    """A :class:`spear.Spearlet` in a thread of its own. Made by :func:`open_spearlet`.

    All methods may be called in any thread. The end of a ``with spearlet`` block is :meth:`close`.
    """

    def __repr__(self) -> str:
        return f"<blocking.Spearlet, {self.state.value}>"

    def deploy(self, target: Target, **arguments: Unpack[DeployArguments]) -> Deployment:
        """Start replicas of a program; returns when all take calls. See :meth:`spear.Spearlet.deploy`."""
        if self._is_closed:
            raise SpearError("this spearlet is stopped")

        async def deploy() -> spear.spearlet.Deployment:
            return await self._inner.deploy(target, **arguments)

        return Deployment._create(self._bridge, self._bridge.run(deploy))

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

    def statistics(self) -> SpearletStatistics:
        """Return the counters."""
        return self._bridge.look(self._inner.statistics)

    def drain(self, seconds: float | None = None) -> None:
        """Take no new calls, let the others finish, and stop; see :meth:`spear.Spearlet.drain`."""
        self._bridge.run(self._inner.drain, seconds)

    def stop(self, seconds: float | None = None) -> None:
        """Stop all deployments; see :meth:`spear.Spearlet.stop`."""
        self._bridge.run(self._inner.stop, seconds)


def open_spearlet(**arguments: Unpack[SpearletArguments]) -> Spearlet:
    """Open a spearlet in a thread of its own, for programs without an event loop.

    ::

        with spear.blocking.open_spearlet() as spearlet:
            shop = spearlet.deploy("shop.py", replicas=4)
            print(shop.price("tea", timeout=5))

    Leaving the block, or :meth:`Spearlet.close`, stops its deployments: running calls may finish for
    ``limits.timeouts.drain_seconds``. Leaving the block by an exception kills all replicas at once; so
    does the exit of an interpreter with an open spearlet. Instruments, and functions of an
    :class:`~spear.Agent` that is deployed in this process, run in the spearlet's thread.

    A process that forks, such as a preloading web server, opens its spearlet after the fork.

    Args:
        arguments: as for :func:`spear.open_spearlet`.

    Raises:
        ConfigurationError: as :func:`spear.open_spearlet`, or Trio runs in this thread already.
    """
    return Spearlet._create(partial(spear.spearlet.open_spearlet, **arguments))
