"""The log lines about instances that do not end by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spear import HostLimits, InstanceTimeouts
from spear.runtimes import ProcessSettings

from ..helpers import open_host

if TYPE_CHECKING:
    from pathlib import Path

HANGS = """
import signal, time, spear
app = spear.Agent()

@app.lifespan
async def lifespan():
    yield
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
"""


@pytest.mark.slow
async def test_one_that_had_to_be_killed_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    settings = ProcessSettings(target=str(tmp_path / "hangs.py"))
    limits = HostLimits(timeouts=InstanceTimeouts(terminate_seconds=0.1), shutdown_seconds=0.2)
    async with open_host(limits) as host, host.ready(settings) as instance:
        await instance.stop()
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == [
        "process:worker#1 closed its connection and did not exit; asking it to exit",
        "process:worker#1 did not exit within 0.1 s (terminate_seconds); killing it",
    ]
