"""What forks do that wait: everything between a request and the first answer, once."""

from __future__ import annotations

import logging

import pytest

from spear.agent import _warm_up


def count_calls() -> int:
    (echo,) = _warm_up.stand_in.service.statistics()
    assert not echo.failed
    return echo.calls


async def test_a_warm_up_logs_in_and_answers_a_call(caplog: pytest.LogCaptureFixture) -> None:
    before = count_calls()
    with caplog.at_level(logging.INFO):
        await _warm_up.warm_up()
    assert count_calls() == before + 1
    assert not caplog.records


async def test_a_warm_up_that_fails_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_warm_up, "host_text", lambda *_: b"the proof of somebody else")
    await _warm_up.warm_up()
    assert "this is not our host" in caplog.text


async def test_a_warm_up_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: object,
) -> None:
    # A call that the stand-in never hears of, and so never answers.
    monkeypatch.setattr(_warm_up, "pack_prefix", lambda *_: b"")
    await _warm_up.warm_up()
    assert "the warm-up failed: TooSlowError" in caplog.text
