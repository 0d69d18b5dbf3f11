"""A failing first start: the error, and who receives it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio

import spear
from spear import SpawnFailed, open_spearlet
from spear.spearlet import Scale

from .helpers import PATIENCE_SECONDS, WORKERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

AGAIN = "; restarting in "


async def test_what_nobody_starts_again_is_not_said_to_be(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    is_well = True
    app = spear.Agent("fragile")

    @app.lifespan
    async def lifespan() -> AsyncIterator[None]:
        if not is_well:
            raise RuntimeError("no database")
        yield

    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(app)
        is_well = False
        with pytest.raises(SpawnFailed, match="no database"):
            await spearlet.deploy(app, name="other")
        with pytest.raises(SpawnFailed, match="no database"):
            await deployment.restart()
        await trio.sleep(10)
        told = [each for each in caplog.messages if "no database" in each]
        assert len(told) == 2
        assert not [each for each in told if AGAIN in each]
        # A lost instance is started again, and again.
        channel = deployment.replicas[0].channel
        assert channel is not None
        await channel.aclose()
        await trio.sleep(1)
    again = [each for each in caplog.messages if AGAIN in each]
    assert len(again) > 1
    assert sum("no database" in each for each in again) == len(again) - 1


@pytest.mark.slow
async def test_what_a_program_writes_while_it_is_loaded_is_in_the_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "shop.py"
    program.write_text(WORKERS.read_text())
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(program, replicas=Scale(min=1, max=2))
        program.write_text("raise ValueError('no good')\n")
        with (
            caplog.at_level(logging.ERROR),
            trio.fail_after(PATIENCE_SECONDS),
            pytest.raises(SpawnFailed, match="no good") as caught,
        ):
            await deployment.restart()
        assert "Traceback" in caught.value.stderr_tail
        of_zygote = [each for each in deployment.logs() if "zygote" in each.instance.name]
        assert any("ValueError: no good" in each.line.text for each in of_zygote)
