"""The effective deadline of a task, as Trio computes it."""

from __future__ import annotations

import math
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trio

from spear.calls import effective_deadline

if TYPE_CHECKING:
    from random import Random


@pytest.mark.parametrize("depth", [0, 1, 2, 5, 12])
async def test_scopes_say_what_trio_says(depth: int, seed: Random) -> None:
    for _ in range(100):
        with ExitStack() as stack:
            for _ in range(depth):
                deadline = seed.choice([math.inf, trio.current_time() + seed.uniform(10, 100)])
                scope = trio.CancelScope(deadline=deadline, shield=seed.random() < 0.2)
                stack.enter_context(scope)
                if seed.random() < 0.1:
                    scope.cancel()
            assert effective_deadline() == trio.current_effective_deadline()
            assert effective_deadline(trio.lowlevel.current_task()) == effective_deadline()


async def test_a_cancelled_task_has_no_time() -> None:
    with trio.CancelScope() as outer, trio.CancelScope() as inner:
        outer.cancel()
        assert effective_deadline() == -math.inf
        inner.shield = True
        assert effective_deadline() == math.inf


async def test_trio_computes_it_where_its_names_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with trio.move_on_after(50):
        expected = trio.current_effective_deadline()
        stranger = SimpleNamespace()  # a task without the private attributes
        assert effective_deadline(stranger) == expected  # type: ignore[arg-type]  # see above
        monkeypatch.setattr("spear.calls._scopes.current_task", SimpleNamespace)
        assert effective_deadline() == expected
