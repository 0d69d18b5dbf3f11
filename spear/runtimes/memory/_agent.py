"""The interface of an agent for the memory runtime: runtimes must not import :mod:`spear.agent`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    import trio

    from spear._ids import InstanceId
    from spear._limits import WireLimits
    from spear._retry_policy import RetryPolicy
    from spear.channels import Service, ThreadedFunctions
    from spear.transports import TransportRegistry
    from spear.wire import BootstrapRecord


@runtime_checkable
class ThreadedService(Protocol):
    """A service that may run functions in threads, of which it has fewer than slots."""

    def threaded_functions(self, slots: int) -> ThreadedFunctions:
        """Return the functions that run in threads, if there are fewer threads than ``slots``."""


@runtime_checkable
class LocalAgent(Protocol):
    """A protocol with the members of :class:`spear.Agent` that the memory runtime uses."""

    @property
    def name(self) -> str:
        """The agent's name; may be empty."""

    @property
    def debug(self) -> bool:
        """Whether errors carry tracebacks."""

    @property
    def service(self) -> Service:
        """The service that handles calls of the agent's functions."""

    @property
    def functions(self) -> Sequence[str]:
        """The names of the agent's functions."""

    @property
    def streams(self) -> Collection[str]:
        """The names of the functions that send a stream of items."""

    @property
    def retry_policies(self) -> Mapping[str, RetryPolicy]:
        """The retry policies of functions that have one, by name."""

    def running(
        self, limits: WireLimits, *, debug: bool = False
    ) -> AbstractAsyncContextManager[None]:
        """Run the agent's lifespan around a block."""

    async def serve(
        self, record: BootstrapRecord, *, stop: trio.Event, transports: TransportRegistry
    ) -> None:
        """Serve the host that a record describes, while :meth:`running`, until it or ``stop`` ends it."""

    async def wait_failed(self) -> str:
        """Wait until the agent can no longer run functions, and return the reason."""

    def limits(self, base: WireLimits) -> WireLimits:
        """Return the limits ``base`` with the agent's own concurrency."""


@runtime_checkable
class CrashingAgent(Protocol):
    """An agent whose instances can die as processes do; for tests, see :class:`spear.testing.Faulty`."""

    async def wait_crashed(self, instance: InstanceId) -> tuple[int, str]:
        """Wait until an instance is to die; return its exit status and its last lines on stderr."""
