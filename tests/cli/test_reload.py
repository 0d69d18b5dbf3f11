"""Detection of changes of a deployment's source, and locks of a host's directory."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import trio

import spear
from spear import ConfigurationError
from spear.cli import _reload
from spear.cli._claim import claim
from spear.config import Configuration, Faults, FunctionConfiguration, Loaded

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_and_its_changes(tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    function = FunctionConfiguration(source=str(file))
    nothing = _reload.Part.of(function)
    file.write_text("x = 1")
    first = _reload.Part.of(function)
    assert first == _reload.Part.of(function) != nothing
    (tmp_path / "beside.py").touch()
    assert _reload.Part.of(function) == first
    file.write_text("x = 12")
    assert _reload.Part.of(function) != first
    assert _reload.Part.of(FunctionConfiguration(source="company.shop")).state == ()


@pytest.mark.parametrize("source", ["shop.py", "."])
def test_a_change_that_keeps_size_and_time_is_one(source: str, tmp_path: Path) -> None:
    """A new release is such a change if its build sets one time for all files."""
    file = tmp_path / "shop.py"
    function = FunctionConfiguration(source=str(tmp_path / source))
    file.write_text("x = 1")
    os.utime(file, (0, 0))
    first = _reload.Part.of(function)
    other = tmp_path.with_name("other")
    other.write_text("x = 2")
    os.utime(other, (0, 0))
    other.rename(file)
    assert _reload.Part.of(function) != first


def test_a_directory_and_its_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    for name in ("main.py", "data/a", "data/b"):
        (tmp_path / name).touch()
    function = FunctionConfiguration(source=str(tmp_path))
    first = _reload.Part.of(function)
    assert [os.path.basename(name) for name, _, _ in first.state] == ["main.py", "a", "b"]
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "main.pyc").touch()
    assert _reload.Part.of(function) == first
    os.utime(tmp_path / "data" / "b", ns=(0, 0))
    assert _reload.Part.of(function) != first
    (tmp_path / "data" / "gone").symlink_to("nowhere")
    assert len(_reload.Part.of(function).state) == 3
    monkeypatch.setattr(_reload, "MAX_FILES", 2)
    assert len(_reload.Part.of(function).state) == 2


async def test_a_fault_of_ours_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> tuple[Loaded, Faults]:
        raise ZeroDivisionError

    loaded = Loaded(configuration=Configuration(), origins={}, file=None)
    async with spear.open_spearlet() as spearlet:
        with caplog.at_level(logging.INFO, "spear.cli"):
            await _reload.Reloader(_reload.Applied(spearlet), load, loaded).reload()
    assert "because of a bug in Spear" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_a_configuration_that_takes_too_long(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    done = threading.Event()

    def load() -> tuple[Loaded, Faults]:
        done.wait()
        raise AssertionError

    loaded = Loaded(configuration=Configuration(), origins={}, file=None)
    async with spear.open_spearlet() as spearlet:
        reloader = _reload.Reloader(_reload.Applied(spearlet), load, loaded)
        try:
            for _ in range(2):  # the second process waits for the first one
                caplog.clear()
                await reloader.reload()
                assert "reload failed; nothing was changed" in caplog.text
                assert "cannot be read within 10 s" in caplog.text
        finally:
            done.set()


def leave_socket(path: Path) -> None:
    """Make a socket at which no process listens any more."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_whoever_comes_while_a_place_is_held_is_refused_and_takes_nothing_away(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.sock"
    with claim(str(path)):
        leave_socket(path)
        for _ in range(2):
            reason = f"a spearlet already listens at {path}"
            with pytest.raises(ConfigurationError, match=reason), claim(str(path)):
                raise AssertionError("two hosts have claimed one path")
            assert {each.name for each in tmp_path.iterdir()} == {"x.sock", "x.sock.lock"}
    with claim(str(path)):
        assert not path.exists()  # removed with everything that its host has left


HOLDER = """
import sys
from spear.cli._claim import claim
with claim(sys.argv[1]):
    import socket
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_place_is_held_by_a_process_until_it_ends_however_that_is(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigurationError, match="listens at"), claim(str(path)):
            raise AssertionError("two hosts have claimed one path")
        holder.kill()
    assert path.exists()
    with claim(str(path)):
        assert not path.exists()


@pytest.mark.parametrize("what", ["file", "link", "directory", "lock"])
def test_a_host_removes_no_file_of_its_users(what: str, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    match what:
        case "file":
            path.write_text("precious")
        case "link":
            (tmp_path / "precious").touch()
            path.symlink_to("precious")
        case "directory":
            path.mkdir()
        case "lock":
            (tmp_path / "mine.lock").write_text("precious")
    before = sorted(tmp_path.iterdir())
    reason = "choose another path with --control-socket"
    with pytest.raises(ConfigurationError, match=reason), claim(str(path)):
        raise AssertionError("the path was claimed")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_host_takes_no_socket_of_another_program(kind: int, tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        if kind == socket.SOCK_STREAM:
            other.listen()
        reason = "another program listens at"
        with pytest.raises(ConfigurationError, match=reason), claim(str(path)):
            raise AssertionError("the path was claimed")
    assert path.is_socket()


def test_one_at_a_time_holds_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes release and take the directory at the same moment, again and again."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = str(tmp_path / "spear" / "default.sock")
    holders: list[int] = []
    most: list[int] = []
    outcomes: list[str] = []

    def work() -> None:
        for _ in range(100):
            try:
                with claim(path):
                    holders.append(1)
                    time.sleep(0)  # lets other threads run meanwhile
                    most.append(len(holders))
                    holders.pop()
                    outcomes.append("held")
            except ConfigurationError as error:
                outcomes.append("taken" if "listens at" in str(error) else str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert max(most) == 1
    assert {"held"} <= set(outcomes) <= {"held", "taken"}
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    with claim(str(tmp_path / "mine" / "x.sock")):
        assert [each.name for each in (tmp_path / "mine").iterdir()] == ["x.sock.lock"]
    assert list((tmp_path / "mine").iterdir()) == []
    # Except for the default directory, which the last host removes.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    usual = tmp_path / "spear"
    with claim(str(usual / "a.sock")):
        with claim(str(usual / "b.sock")):
            pass
        assert usual.exists()
    assert not usual.exists()


def test_a_place_that_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "spear").symlink_to("nowhere")
    with (
        pytest.raises(ConfigurationError, match="must be a directory that only this user"),
        claim(str(tmp_path / "spear" / "x.sock")),
    ):
        pass
