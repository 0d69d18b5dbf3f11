"""A faulty strategy is refused when it is created, or when a host gets it."""

from __future__ import annotations

import pytest

from spear import ConfigurationError
from spear.channels import (
    ChannelConfig,
    CommunicationStrategy,
    default_strategy,
    open_communication_factory,
)
from spear.transports import Reach

NO_NAMES: list[object] = ["unix", "", (), [], None, 3, ("unix", 3), ("unix", ""), {"unix": 1}]


@pytest.mark.parametrize("transports", NO_NAMES, ids=repr)
def test_transports_of_a_strategy_are_a_tuple_of_names(transports: object) -> None:
    with pytest.raises(ConfigurationError, match="must be a tuple of names, such as") as caught:
        CommunicationStrategy(transports)
    assert caught.value.key == "transports"


@pytest.mark.parametrize("transports", [each for each in NO_NAMES if each is not None], ids=repr)
def test_transports_of_one_instance_are_a_tuple_of_names(transports: object) -> None:
    with pytest.raises(ConfigurationError, match="must be a tuple of names, such as"):
        ChannelConfig(transports=transports)
    assert ChannelConfig().transports is None


def test_a_list_of_names_becomes_a_tuple() -> None:
    strategy = CommunicationStrategy(["unix", "tcp"])
    assert strategy.transports == ("unix", "tcp")


@pytest.mark.parametrize("reach", ["network", 2, None], ids=repr)
def test_the_reach_of_a_strategy_is_one_of_three(reach: object) -> None:
    with pytest.raises(
        ConfigurationError, match=r"one of Reach\.PROCESS, Reach\.MACHINE"
    ) as caught:
        CommunicationStrategy(("unix",), reach=reach)  # type: ignore[arg-type]  # the mistake
    assert caught.value.key == "reach"
    assert default_strategy("kubernetes").reach is Reach.NETWORK


@pytest.mark.parametrize(
    ("strategies", "complaint"),
    [
        (
            {"process": "unix"},
            "the strategy of 'process' must be a strategy, such as Comm.*, not 'unix'",
        ),
        ({"process": ("unix", "tcp")}, "the strategy of 'process' must be a strategy, such as"),
        ({"process": None}, "the strategy of 'process' must be a strategy, such as"),
        ({3: CommunicationStrategy(("unix",))}, "is not a valid name"),
        (["process"], "strategies must be a map with names of runtimes as keys"),
        ("process", "strategies must be a map with names of runtimes as keys"),
    ],
)
async def test_a_factory_takes_nothing_but_strategies(strategies: object, complaint: str) -> None:
    opening = open_communication_factory(strategies=strategies)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ConfigurationError, match=complaint):
        await opening.__aenter__()
