"""Descriptions of functions: requested from the instances, and cached until new instances start."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias, final
from weakref import WeakKeyDictionary

import trio

from spear._errors import NotFound, SpearError
from spear._signatures import parse_signature_untrusted

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear._signatures import Signature
    from spear.calls import Function, FunctionDescription
    from spear.spearlet import Deployment

    Kept: TypeAlias = tuple[frozenset[InstanceId], dict[str, FunctionDescription]]

DESCRIBE_SECONDS: Final = 2.0

_parse: Final = lru_cache(maxsize=256)(parse_signature_untrusted)  # parsing takes 0.1 ms


@final
class Catalogue:
    """A cache of the descriptions of all functions, by deployment."""

    def __init__(self) -> None:
        # For each deployment: its instances at the last request, and the answer.
        self._kept: WeakKeyDictionary[Deployment, Kept] = WeakKeyDictionary()

    async def describe(self, deployment: Deployment) -> dict[str, FunctionDescription]:
        """Return the known descriptions of a deployment's functions, by name.

        Starts no instance: without instances, the previous descriptions are returned.
        """
        await trio.lowlevel.checkpoint()
        replicas = deployment.replicas
        before, known = self._kept.get(deployment, (frozenset(), {}))
        if all(each.id in before for each in replicas):
            return known
        known = {}
        with trio.move_on_after(DESCRIBE_SECONDS):
            with suppress(SpearError):  # a program in another language may have no descriptions
                known = await deployment.descriptions()
        known = {name: known[name] for name in deployment.functions if name in known}
        self._kept[deployment] = frozenset(each.id for each in replicas), known
        return known

    async def signature(self, deployment: Deployment, function: Function) -> Signature | None:
        """Return the signature of a function; None if it is not known.

        Starts an instance if the description of the function is not known and there is no instance.

        Raises:
            CallFailed: as the call of the function.
        """
        described = (await self.describe(deployment)).get(function.name)
        try:
            text = described.signature if described is not None else await function.signature()
        except NotFound:  # a program in another language
            return None
        return _parse(text)
