"""The thread that runs Trio, when it fails."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

import spear
from spear.blocking import open_spearlet

from .functions import Kitchen

if TYPE_CHECKING:
    from spear.blocking import Deployment

PATIENCE_SECONDS = 15.0


def test_no_call_waits_for_a_thread_that_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    kitchen = Kitchen()
    failures: list[spear.WorkerDied] = []

    def hang(deployed: Deployment) -> None:
        try:
            deployed.hang()
        except spear.WorkerDied as error:
            failures.append(error)

    def fail() -> None:
        raise ValueError("a bug in the scheduler")

    spearlet = open_spearlet()
    deployed = spearlet.deploy(kitchen.agent)
    waiting = threading.Thread(target=hang, args=(deployed,))
    waiting.start()
    assert kitchen.begun.wait(PATIENCE_SECONDS)
    with caplog.at_level(logging.CRITICAL, "spear.portal"):
        spearlet._portal.run_soon(fail)
        waiting.join()
        with pytest.raises(spear.WorkerDied):
            deployed.echo(1)
        with pytest.raises(spear.WorkerDied):
            spearlet.close()
    with pytest.raises(spear.WorkerDied) as caught:
        deployed.echo(1)
    assert [each.code for each in failures] == ["stopped"]
    assert (caught.value.code, caught.value.delivered) == ("stopped", "no")
    assert caplog.messages == ["a spearlet's thread has failed"]
    assert "spear" not in [each.name for each in threading.enumerate()]
