"""Bugs in other people's runtimes and transports cost a deployment or an instance, not the host."""

from __future__ import annotations

import pytest

from spear import ConfigurationError, UnsupportedRuntime, open_spearlet
from spear.channels import CommunicationStrategy

# -- what a host is given ---------------------------------------------------------------------------


async def test_a_strategy_for_an_unknown_runtime_is_refused_with_a_hint() -> None:
    strategies = {"proces": CommunicationStrategy(("unix",))}
    with pytest.raises(UnsupportedRuntime, match="did you mean 'process'") as caught:
        async with open_spearlet(strategies=strategies):
            pass
    assert caught.value.runtime == "proces"


async def test_a_strategy_that_is_none_is_refused_at_once() -> None:
    strategies = {"process": ("unix", "tcp")}
    with pytest.raises(ConfigurationError, match="the strategy of 'process' must be one like"):
        async with open_spearlet(strategies=strategies):  # type: ignore[arg-type]  # the mistake
            pass


async def test_strategies_that_are_no_mapping_are_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="strategies must have the names of runtimes"):
        async with open_spearlet(strategies=3):  # type: ignore[arg-type]  # the mistake
            pass
