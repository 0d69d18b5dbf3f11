"""What the memory runtime needs of an agent, which belongs to a layer that runtimes do not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from spear._limits import WireLimits
    from spear.channels import Service


@runtime_checkable
class LocalAgent(Protocol):
    """What is needed of a :class:`spear.Agent`."""

    @property
    def name(self) -> str:
        """What it is called, or nothing."""

    @property
    def debug(self) -> bool:
        """Whether it sends tracebacks with errors."""

    @property
    def service(self) -> Service:
        """Its handlers."""

    @property
    def functions(self) -> Sequence[str]:
        """Their names."""

    @property
    def streams(self) -> Collection[str]:
        """Those among them that send items."""

    def running(
        self, limits: WireLimits, *, debug: bool = False
    ) -> AbstractAsyncContextManager[None]:
        """Its lifespan around a block."""

    async def wait_unable(self) -> str:
        """Wait until it can run no functions any more; returns why."""

    def limits(self, base: WireLimits) -> WireLimits:
        """Those of the host, with its own concurrency."""
