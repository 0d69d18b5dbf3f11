"""The public conformance suite, over every transport that can carry a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spear.testing import CHANNEL_CASES

if TYPE_CHECKING:
    from spear.testing import OpenPair


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANNEL_CASES)
async def test_r7_conformance(name: str, open_pair: OpenPair) -> None:
    await CHANNEL_CASES[name](open_pair)
