"""Guarantees under seeds: each program of ``programs`` is simulated, with other seeds in each run.

A failure prints its seed, which reproduces it. The seeds derive from ``--seed``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from spear import ChannelBroken, ChannelClosed, Rejected
from spear._util import leaves_of
from spear.testing import simulate

from . import programs

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from spear.testing import SimulatedProgram, Simulation

ALL = ("delay", "drop", "cut", "partition", "freeze", "crash")
SOAK = -(-100_000 // 6)
"""Seeds for each of six programs: 100,002 in all."""


def soaked(seeds: int) -> pytest.MarkDecorator:
    """Parametrize a test with so many seeds; in a soak run, with SOAK."""
    long = pytest.param(SOAK, marks=pytest.mark.soak)
    return pytest.mark.parametrize("seeds", [seeds, long])


async def cancels_and_faults(simulation: Simulation) -> None:
    await programs.cancels(simulation, *ALL)


async def pays_and_faults(simulation: Simulation) -> None:
    await programs.pays_at_most_once(simulation, *ALL)


async def keys_and_faults(simulation: Simulation) -> None:
    await programs.pays_once_for_each_key(simulation, *ALL)


def run(program: SimulatedProgram, seed: int, loss: float) -> None:
    limits, latency = programs.LIMITS, (0.0, 0.01)
    simulate(program, seed, limits=limits, latency_seconds=latency, loss=loss)


def check(program: SimulatedProgram, rng: Random, seeds: int, *, loss: float = 0.0) -> None:
    for _ in range(seeds):
        run(program, rng.randrange(2**32), loss)


@pytest.mark.slow
@pytest.mark.repetitive
@soaked(40)
def test_r9_no_function_outlives_its_caller(seed: Random, seeds: int) -> None:
    check(programs.cancels, seed, seeds // 2)
    check(cancels_and_faults, seed, seeds // 2, loss=0.01)  # raises nothing


@pytest.mark.slow
@pytest.mark.repetitive
@soaked(40)
def test_r10_a_killed_instance_fails_its_own_calls_only(seed: Random, seeds: int) -> None:
    check(programs.kills, seed, seeds)  # raises nothing


@pytest.mark.slow
@pytest.mark.repetitive
@soaked(40)
def test_r14_no_call_is_executed_twice(seed: Random, seeds: int) -> None:
    check(pays_and_faults, seed, seeds, loss=0.01)  # raises nothing


@pytest.mark.slow
@pytest.mark.repetitive
@soaked(40)
def test_r14_a_key_begins_again_only_if_its_process_is_gone(seed: Random, seeds: int) -> None:
    check(keys_and_faults, seed, seeds, loss=0.01)  # raises nothing


@pytest.mark.slow
@pytest.mark.repetitive
@soaked(20)
def test_r15_a_rolling_restart_fails_no_call(seed: Random, seeds: int) -> None:
    check(programs.restarts, seed, seeds)  # raises nothing


@pytest.mark.slow
@pytest.mark.repetitive
@soaked(20)
def test_r15_replicas_that_leave_fail_no_call(seed: Random, seeds: int) -> None:
    check(programs.leavings, seed, seeds)  # raises nothing


# -- would the programs notice a bug? -------------------------------------------------------------


def forget_delivered(patch: pytest.MonkeyPatch) -> None:
    """Make Spear retry every call that failed with its channel, even if it was executed."""
    lost = (ChannelBroken, ChannelClosed, Rejected)

    def may_try_again(error: object, channel: object, attempts: int) -> bool:
        return isinstance(error, lost) and attempts < 3

    patch.setattr("spear.calls._attempts.may_try_again", may_try_again)


def claim_undelivered(patch: pytest.MonkeyPatch) -> None:
    """Make Spear report every call lost with its channel as not delivered."""
    patch.setattr("spear.channels._peer.Peer.has_never_begun", lambda *_: True)


def ignore_cancels(patch: pytest.MonkeyPatch) -> None:
    """Make a function run on after its caller has given up."""
    patch.setattr("spear.channels._calls.InboundCall.cancel", lambda *_: None)


def forget_outcomes(patch: pytest.MonkeyPatch) -> None:
    """Make Spear execute a key again although its outcome is known."""
    patch.setattr("spear.calls._outcomes.Outcomes._keep", lambda *_: None)


def never_drain(patch: pytest.MonkeyPatch) -> None:
    """Make Spear end an instance without waiting for its calls."""

    async def drain(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr("spear.runtimes._instance.Instance._drain", drain)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "program", "loss"),
    [
        (forget_delivered, pays_and_faults, 0.01),
        (claim_undelivered, pays_and_faults, 0.01),
        (claim_undelivered, programs.kills, 0.0),
        (forget_outcomes, keys_and_faults, 0.01),
        (ignore_cancels, programs.cancels, 0.0),
        (ignore_cancels, cancels_and_faults, 0.01),
        (never_drain, programs.restarts, 0.0),
        (never_drain, programs.leavings, 0.0),
    ],
)
def test_a_seed_finds_a_planted_bug_and_brings_it_back(
    plant: Callable[[pytest.MonkeyPatch], None],
    program: SimulatedProgram,
    loss: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    seed, found = next(
        (seed, failure) for seed in range(100) if (failure := failure_of(program, seed, loss))
    )
    assert any(isinstance(each, AssertionError) for each in leaves_of(found))
    note = found.__notes__[-1]
    assert f"seed {seed}," in note
    again = failure_of(program, seed, loss)
    assert again is not None
    assert again.__notes__[-1] == note
    monkeypatch.undo()
    assert failure_of(program, seed, loss) is None


def failure_of(program: SimulatedProgram, seed: int, loss: float) -> BaseException | None:
    try:
        run(program, seed, loss)
    except (AssertionError, BaseExceptionGroup) as failure:
        return failure
    return None
