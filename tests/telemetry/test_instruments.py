"""Instruments: which of their hooks are called, by whom, and what a fault of theirs comes to."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

import spear
from spear import ConfigurationError, Instrument, open_spearlet
from spear.channels import notify_all
from spear.telemetry import InstanceEvent, InstanceState, Instruments
from spear.telemetry._instruments import HOOKS

if TYPE_CHECKING:
    from pathlib import Path

    from spear import InstanceId
    from spear.telemetry import ConnectionEvent, LogLine

logger = logging.getLogger("tests.telemetry")


class Lines(Instrument):
    """Hears of lines, and of nothing else."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def line_written(self, instance: InstanceId, line: LogLine) -> None:
        self.texts.append(line.text)


class Everything(Instrument):
    """Hears of everything that comes from instances."""

    def __init__(self) -> None:
        self.states: list[InstanceState] = []
        self.texts: list[str] = []
        self.kinds: list[str] = []

    def instance_changed(self, event: InstanceEvent) -> None:
        self.states.append(event.state)

    def line_written(self, instance: InstanceId, line: LogLine) -> None:
        self.texts.append(line.text)

    def connection_changed(self, event: ConnectionEvent) -> None:
        self.kinds.append(event.kind)


def test_what_nobody_watches_has_an_empty_table() -> None:
    instruments = Instruments([Instrument()])
    assert HOOKS
    assert all(getattr(instruments, name) == () for name in HOOKS)


def test_a_hook_is_called_only_if_it_is_overridden() -> None:
    first, second = Lines(), Lines()
    instruments = Instruments([first, Instrument(), second])
    assert list(instruments.line_written) == [first.line_written, second.line_written]
    assert instruments.instance_changed == ()
    instruments.remove(first)
    assert list(instruments.line_written) == [second.line_written]
    instruments.remove(first)  # which changes nothing
    assert list(instruments.line_written) == [second.line_written]


def test_one_that_is_none_or_there_already_is_refused() -> None:
    lines = Lines()
    instruments = Instruments([lines])
    with pytest.raises(ConfigurationError, match=r"must be a spear\.Instrument, not 7"):
        instruments.add(7)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ConfigurationError, match="is an instrument of this host already"):
        instruments.add(lines)
    assert instruments.line_written == (lines.line_written,)


def test_one_that_raises_is_logged_and_keeps_nothing_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Instrument):
        def instance_changed(self, event: InstanceEvent) -> None:
            raise SystemExit(3)

    seen = Everything()
    instruments = Instruments([Broken(), seen])
    event = InstanceEvent(spear.InstanceId("process", "shop-1", 1), InstanceState.READY, 0.0)
    notify_all(logger, instruments.instance_changed, event)
    assert seen.states == [InstanceState.READY]
    assert "Broken.instance_changed raised" in caplog.text


async def test_an_instrument_of_a_spearlet_hears_of_a_whole_life(tmp_path: Path) -> None:
    program = tmp_path / "shop.py"
    program.write_text(
        "import spear\nagent = spear.Agent()\n\n@agent.function\ndef hello() -> None:\n"
        "    print('hello', flush=True)\n"
    )
    seen = Everything()
    async with open_spearlet(instruments=[seen]) as spearlet:
        async with await spearlet.deploy(program) as deployment:
            await deployment.hello()
        late = Lines()
        spearlet.instruments.add(late)
    assert [state.value for state in seen.states] == [
        "created", "starting", "ready", "draining", "exited", "deleted",
    ]  # fmt: skip
    assert seen.texts == ["hello"]
    assert seen.kinds == ["connected", "authenticated", "disconnected"]
    assert late.texts == []
