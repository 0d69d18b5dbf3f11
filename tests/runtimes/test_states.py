"""The table of an instance's states, and the object that enforces it."""

from __future__ import annotations

import itertools
import logging

import pytest
import trio
import trio.testing

from spear import InstanceId, SpearError
from spear.runtimes._states import GONE, MAX_HISTORY, MOVES, Lifecycle
from spear.telemetry import InstanceEvent, InstanceState

from .helpers import listening

ID = InstanceId("process", "worker")
S = InstanceState


def ways() -> dict[InstanceState, list[InstanceState]]:
    """Return the shortest path from the initial state to each state."""
    found: dict[InstanceState, list[InstanceState]] = {S.CREATED: []}
    queue = [S.CREATED]
    while queue:
        here = queue.pop(0)
        for there in sorted(MOVES[here] - found.keys(), key=lambda state: state.value):
            found[there] = [*found[here], there]
            queue.append(there)
    return found


def test_every_state_can_be_reached_and_is_in_the_table() -> None:
    assert set(ways()) == set(MOVES) == set(S)


@pytest.mark.parametrize(("here", "there"), [*itertools.product(S, S)])
async def test_each_move_is_allowed_or_changes_nothing(
    here: InstanceState, there: InstanceState
) -> None:
    events: list[InstanceEvent] = []
    life = Lifecycle(ID, events.append)
    for state in ways()[here]:
        life.move(state)
    before = list(events)
    if there in MOVES[here]:
        life.move(there, "because")
        assert life.state is there
        assert events[-1] == life.history[-1]
        assert (events[-1].state, events[-1].reason) == (there, "because")
    else:
        with pytest.raises(SpearError, match=f"is {here.value} and cannot become {there.value}"):
            life.move(there)
        assert life.state is here
        assert events == before


def test_r28_started_comes_before_exited_before_deleted_on_every_way() -> None:
    # From the table alone: an instance that has started can be deleted only through EXITED, and cannot
    # leave EXITED for another state.
    def after(state: InstanceState, avoided: InstanceState | None = None) -> set[InstanceState]:
        reached: set[InstanceState] = set()
        queue = [state]
        while queue:
            new = MOVES[queue.pop()] - reached - {avoided}
            reached |= new
            queue.extend(new)
        return reached

    assert S.DELETED not in after(S.STARTING, avoided=S.EXITED)
    assert after(S.EXITED) == {S.DELETED}
    assert after(S.DELETED) == set()
    assert S.STARTING not in after(S.STARTING)
    assert after(S.FAILED) == {S.DELETED}


async def test_moves_are_recorded_with_their_time(autojump_clock: trio.testing.MockClock) -> None:
    life = Lifecycle(ID)
    begun = trio.current_time()
    await trio.sleep(3)
    life.move(S.STARTING)
    assert [(each.state, each.time - begun) for each in life.history] == [
        (S.CREATED, 0),
        (S.STARTING, 3),
    ]


async def test_the_history_is_bounded() -> None:
    life = Lifecycle(ID)
    life.move(S.STARTING)
    life.move(S.READY)
    for _ in range(MAX_HISTORY):
        life.move(S.UNHEALTHY)
        life.move(S.READY)
    assert len(life.history) == MAX_HISTORY


async def test_whoever_waits_is_woken_by_the_state_or_by_the_end() -> None:
    life = Lifecycle(ID)
    seen: list[tuple[str, InstanceState]] = []

    async def wait(name: str, *states: InstanceState) -> None:
        seen.append((name, await life.wait_for(*states)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "ready", S.READY)
        nursery.start_soon(wait, "draining", S.DRAINING)
        await trio.testing.wait_all_tasks_blocked()
        life.move(S.STARTING)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == []
        life.move(S.READY)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [("ready", S.READY)]
        life.move(S.EXITED)
    assert seen[1:] == [("draining", S.EXITED)]
    with trio.testing.assert_checkpoints():
        assert await life.wait_for() in GONE


async def test_an_observer_that_fails_does_no_harm() -> None:
    def observe(event: InstanceEvent) -> None:
        raise ZeroDivisionError

    with listening("spear.runtimes") as lines:
        life = Lifecycle(ID, observe)
        life.move(S.STARTING)
    assert life.state is S.STARTING
    assert sum("the callback on_event" in text for text in lines.texts) == 2
    assert logging.getLogger("spear.runtimes").handlers == []
