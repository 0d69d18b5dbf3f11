"""The counters of the last minutes."""

from __future__ import annotations

import pytest
import trio

import spear

from .helpers import Probe, ask, call, open_site

SAMPLE_SECONDS = 2.0
MAX_SAMPLES = 150
COLUMNS = (
    "calls", "failures", "succeeded", "seconds", "refused", "lost", "in_flight", "waiting", "ready",
    "wanted",
)  # fmt: skip


async def test_a_client_sees_what_happened_before_it_came(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The samples of five minutes are kept, and the totals grow from one to the next."""
    async with open_site() as site:
        history = site.gateway._app.history
        await trio.sleep(SAMPLE_SECONDS * 1.5)
        late = await site.spearlet.deploy(Probe("late").agent)
        await late.echo(1)
        with pytest.raises(spear.FunctionRaised):
            await late.boom()
        await trio.sleep(SAMPLE_SECONDS)
        columns = history.show()["deployments"]
        assert isinstance(columns, dict)
        assert tuple(columns["late"]) == COLUMNS
        for name, number in (("calls", 2), ("failures", 1), ("succeeded", 1), ("ready", 1)):
            assert columns["late"][name] == [None, None, number]  # it came after two samples
        await trio.sleep(SAMPLE_SECONDS * MAX_SAMPLES)
        times = history.show()["times"]
        assert isinstance(times, list)
        assert len(times) == MAX_SAMPLES


async def test_the_history_begins_with_the_gateway() -> None:
    async with open_site() as site:
        await call(site.gateway, "add", [1])
        shown = (await ask(site.gateway, "GET", "/v1/history")).json
        assert shown["interval_seconds"] == SAMPLE_SECONDS
        assert isinstance(shown["times"], list)
        assert isinstance(shown["deployments"], dict)
        assert len(shown["times"]) >= 1
        probe = shown["deployments"]["probe"]
        assert isinstance(probe, dict)
        assert isinstance(probe["calls"], list)
        assert probe["calls"][0] == 0
