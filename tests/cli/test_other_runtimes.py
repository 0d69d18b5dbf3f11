"""``spear call`` for targets that a runtime of another distribution takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from entry_points import Install

if TYPE_CHECKING:
    from pathlib import Path

    from .helpers import Run


@pytest.fixture
def sums(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Make a file that an installed runtime takes; return its name."""
    place = tmp_path_factory.mktemp("installed")
    monkeypatch.syspath_prepend(str(place))
    install = Install(place, monkeypatch, "spear.runtimes")
    install("abacus", "from runtimes.test_registry import Abacus as thing")
    (here / "sums.beads").write_text("")
    return "sums.beads"


def test_the_runtime_that_takes_the_target_runs_it(run: Run, sums: str) -> None:
    done = run("call", f"{sums}:total", "1")
    assert done.status == 6
    assert "the runtime 'abacus' failed: OSError: it counts nothing" in done.errors


def test_variables_for_a_runtime_without_an_environment_are_refused(run: Run, sums: str) -> None:
    done = run("call", f"{sums}:total", "--env", "COLOUR=red")
    assert done.status == 2
    assert "--env is not supported: instances of the runtime 'abacus' have no env" in done.errors
