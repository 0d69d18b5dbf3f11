"""Working directories: full ones, and abandoned ones."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import trio

from spear._directories import OwnedDirectory
from spear.runtimes.process._directory import KIND, _sweep, open_working_directory


def fill(directory: str) -> None:
    (Path(directory) / "a" / "b").mkdir(parents=True)
    (Path(directory) / "a" / "b" / "file").touch()


async def test_it_goes_with_all_that_is_in_it() -> None:
    for contents in (fill, os.path.exists, os.rmdir):
        async with open_working_directory() as path:
            contents(path)
        assert os.listdir(tempfile.gettempdir()) == []


async def test_without_a_thread_it_is_emptied_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_sync(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    async with open_working_directory() as path:
        fill(path)
    assert os.listdir(tempfile.gettempdir()) == []


def test_what_nobody_owns_is_removed_and_nothing_else() -> None:
    parent = tempfile.gettempdir()
    left, kept = (OwnedDirectory.make(parent, KIND) for _ in range(2))
    fill(left.path)
    left.release()
    _sweep(parent)
    assert os.listdir(parent) == [os.path.basename(kept.path)]
    kept.release()


def test_a_temporary_directory_that_is_gone_holds_up_nobody(tmp_path: Path) -> None:
    _sweep(str(tmp_path / "missing"))
    assert list(tmp_path.iterdir()) == []
