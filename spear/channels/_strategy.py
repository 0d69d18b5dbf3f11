"""Strategies: which transports the instances of a runtime use; with the strategies of Spear.

This module opens nothing, and does not know which transports exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

import attrs

from spear._errors import ConfigurationError
from spear._ids import check_runtime_name
from spear._limits import expect_whole, shown
from spear.transports import Reach

_EXAMPLE: Final = 'CommunicationStrategy(("unix", "tcp"))'


def transport_names(value: object) -> tuple[str, ...]:
    """Return names of transports as a tuple, for a value that is a tuple or a list of names.

    Raises:
        ConfigurationError: the value is something else, such as a single name, or empty.
    """
    if isinstance(value, tuple | list) and value:
        names = tuple(each for each in value if isinstance(each, str) and each)
        if len(names) == len(value):
            return names
    raise ConfigurationError.about(
        "transports", f'must be a tuple of names, such as ("unix", "tcp"), not {shown(value)}'
    )


@final
@attrs.frozen
class CommunicationStrategy:
    """A choice of transports for the instances of one runtime.

    Attributes:
        transports: names of transports, best first. Each transport that can be opened has a listener and
            an address for every instance. The instance tries the addresses in this order.
        reach: from how far away instances connect. An address that cannot be reached from there is not
            offered, such as a loopback address to a Pod.
        most: the most addresses to offer; None for as many as can be opened. With a limit, further
            transports are tried only in place of one that cannot be opened.

    Raises:
        ConfigurationError: a value cannot be used; ``key`` is its name.
    """

    transports: tuple[str, ...] = attrs.field(converter=transport_names)
    reach: Reach = attrs.field(default=Reach.PROCESS, kw_only=True)
    most: int | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.reach, Reach):
            known = ", ".join(f"Reach.{each.name}" for each in Reach)
            raise ConfigurationError.about(
                "reach", f"must be one of {known}, not {shown(self.reach)}"
            )
        if self.most is not None:
            expect_whole("most", self.most, 1)


DEFAULT_STRATEGIES: Final[Mapping[str, CommunicationStrategy]] = {
    # Children of this process can reach every socket that was bound; a second one would only cost.
    "process": CommunicationStrategy(("unix", "tcp"), reach=Reach.MACHINE, most=1),
    "kubernetes": CommunicationStrategy(("grpc", "websocket", "tcp"), reach=Reach.NETWORK),
    "wasm": CommunicationStrategy(("memory",)),
    "memory": CommunicationStrategy(("memory",)),
}


def default_strategy(runtime: str) -> CommunicationStrategy:
    """Return Spear's strategy for a runtime; an unknown runtime gets the strategy of processes."""
    return DEFAULT_STRATEGIES.get(runtime, DEFAULT_STRATEGIES["process"])


def expect_strategy(runtime: str, strategy: object) -> None:
    """Raise ConfigurationError for a value that is not a strategy."""
    if not isinstance(strategy, CommunicationStrategy):
        raise ConfigurationError(
            f"the strategy of {runtime!r} must be a strategy, such as {_EXAMPLE}, not {shown(strategy)}"
        )


def read_strategies(
    given: Mapping[str, CommunicationStrategy] | None,
) -> dict[str, CommunicationStrategy]:
    """Check the strategies that a program passes to a host, and return them as a dict by runtime name.

    The dict is empty for None.

    Raises:
        ConfigurationError: a value is not a strategy, or a key is not a valid name of a runtime.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"strategies must be a map with names of runtimes as keys, such as "
            f'{{"process": {_EXAMPLE}}}, not {shown(given)}'
        )
    for runtime, strategy in given.items():
        check_runtime_name(runtime)
        expect_strategy(runtime, strategy)
    return dict(given)


_PLACES: Final = {Reach.MACHINE: "other processes", Reach.NETWORK: "other machines"}


def place_of(reach: Reach) -> str:
    """Return the place from which instances connect, in words for a message."""
    return _PLACES[reach]
