"""Pre-forked processes warm up: they run everything between a request and the first answer once."""

from __future__ import annotations

import pytest
import trio

from spear import AuthenticationFailed
from spear.agent import _warm_up


def count_calls() -> int:
    (echo,) = _warm_up.stand_in.service.statistics()
    assert not echo.failed
    return echo.calls


async def test_a_warm_up_logs_in_and_answers_a_call() -> None:
    before = count_calls()
    await _warm_up.warm_up()
    assert count_calls() == before + 1


async def test_a_warm_up_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_warm_up, "host_text", lambda *_: b"the proof of somebody else")
    with pytest.raises(ExceptionGroup) as caught:
        await _warm_up.warm_up()
    assert caught.group_contains(AuthenticationFailed, match="the peer is not the expected host")


async def test_a_warm_up_has_an_end(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    # A call that never reaches the stand-in, and so gets no answer.
    monkeypatch.setattr(_warm_up, "pack_prefix", lambda *_: b"")
    with pytest.raises(trio.TooSlowError):
        await _warm_up.warm_up()
