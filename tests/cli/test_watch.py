"""Noticing saved files, as different editors save them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio

from spear.cli import _watch
from spear.cli._watch import SourceWatch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(_watch, "SETTLE_SECONDS", 0.001)


async def test_a_write_a_rename_and_a_new_import(tmp_path: Path) -> None:
    paths = [tmp_path / "a.py", tmp_path / "b.py"]
    for each in paths:
        each.write_text("1")
    listed = [str(paths[0])]
    watch = SourceWatch(lambda: list(listed))
    await watch.begin()
    paths[0].write_text("22")  # between two calls
    listed.append(str(paths[1]))
    assert await watch.wait_saved() == [str(paths[0])]
    other = tmp_path / "b.tmp"
    other.write_text("1")
    os.replace(other, paths[1])  # the same contents, but another inode
    assert await watch.wait_saved() == [str(paths[1])]


async def test_a_file_that_is_removed_before_it_is_written_is_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("1")
    watch = SourceWatch(lambda: [str(path)])
    await watch.begin()
    saved: list[list[str]] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            saved.append(await watch.wait_saved())

        path.unlink()
        for _ in range(20):
            await trio.sleep(0.001)
        assert saved == []
        path.write_text("22")
    assert saved == [[str(path)]]


async def test_a_file_that_stays_away_is_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch, "MISSING_SECONDS", 0.01)
    path = tmp_path / "a.py"
    path.write_text("1")
    watch = SourceWatch(lambda: [str(path)])
    await watch.begin()
    path.unlink()
    assert await watch.wait_saved() == [str(path)]


async def test_a_cancelled_wait_loses_no_change(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("1")
    watch = SourceWatch(lambda: [str(path)])
    await watch.begin()
    with trio.move_on_after(0.01):
        await watch.wait_saved()
    path.write_text("22")
    assert await watch.wait_saved() == [str(path)]
