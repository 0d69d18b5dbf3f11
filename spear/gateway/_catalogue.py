"""What functions look like: asked of their instances once, and kept until there are new instances."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import SpearError

if TYPE_CHECKING:
    from spear.spearlet import Deployment, FunctionDescription

DESCRIBE_SECONDS: Final = 2.0


@final
class Catalogue:
    """The descriptions of all functions, by deployment."""

    def __init__(self) -> None:
        # With how many instances there had been when it was asked.
        self._kept: dict[str, tuple[int, dict[str, FunctionDescription]]] = {}

    async def describe(self, deployment: Deployment) -> dict[str, FunctionDescription]:
        """The functions of a deployment, by name; those of which nothing is known are left out.

        Starts no instance: of a deployment that has none, what was known before.
        """
        await trio.lowlevel.checkpoint()
        started = deployment.statistics().started
        before, known = self._kept.get(deployment.name, (0, {}))
        if before == started or not deployment.replicas:
            return known
        known = {}
        with trio.move_on_after(DESCRIBE_SECONDS):
            with suppress(SpearError):  # a program of another kind cannot tell
                known = await deployment.descriptions()
        known = {name: known[name] for name in deployment.functions if name in known}
        self._kept[deployment.name] = started, known
        return known
