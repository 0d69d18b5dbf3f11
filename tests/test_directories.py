"""Temporary directories with and without an owner."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from spear._directories import ATTEMPTS, OwnedDirectory, abandoned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KIND = "test"


def make(parent: Path) -> OwnedDirectory:
    return OwnedDirectory.make(str(parent), KIND)


def look_for_abandoned(parent: Path) -> list[str]:
    """Return the names of abandoned directories, and leave the directories in place, without an owner."""
    found = []
    for directory in abandoned(str(parent), KIND):
        found.append(os.path.basename(directory.path))
        directory.release()
    return found


def name_of(directory: OwnedDirectory) -> str:
    return os.path.basename(directory.path)


def test_it_is_private_and_has_an_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        directory = make(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    assert os.path.dirname(directory.path) == str(tmp_path)
    assert look_for_abandoned(tmp_path) == []
    directory.release()
    assert look_for_abandoned(tmp_path) == [name_of(directory)]


def test_whoever_finds_an_abandoned_one_owns_it(tmp_path: Path) -> None:
    make(tmp_path).release()
    (found,) = abandoned(str(tmp_path), KIND)
    assert look_for_abandoned(tmp_path) == []
    found.release()


def test_a_child_process_does_not_inherit_it(tmp_path: Path) -> None:
    directory = make(tmp_path)
    with subprocess.Popen(["sleep", "1000"], close_fds=False) as child:
        directory.release()
        assert look_for_abandoned(tmp_path) == [name_of(directory)]
        child.kill()


@pytest.mark.parametrize(
    "name",
    [
        "spear-test-0123456789ab.bak",
        "spear-test-0123456789",
        "spear-test-0123456789AB",
        "my-spear-test-0123456789ab",
        "spear-other-0123456789ab",
        "spear-0123456789ab",
    ],
)
def test_what_is_named_otherwise_is_none_of_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(mode=0o700)
    assert look_for_abandoned(tmp_path) == []


def test_what_is_no_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "spear-test-000000000001").touch()
    (tmp_path / "spear-test-000000000002").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "spear-test-000000000003").symlink_to(tmp_path / "missing")
    os.mkfifo(tmp_path / "spear-test-000000000004")
    assert look_for_abandoned(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's directory")
def test_another_users_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "spear-test-0123456789ab"
    path.mkdir()
    os.chown(path, 65534, 65534)
    assert look_for_abandoned(tmp_path) == []


# -- between making and locking a directory ---------------------------------------------------


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], None]], None]:
    """Let a test change the next directory as soon as it is made."""
    mkdir = os.mkdir

    def install(deed: Callable[[str], None]) -> None:
        deeds = [deed]

        def mkdir_and_meddle(path: str, mode: int) -> None:
            mkdir(path, mode)
            while deeds:
                deeds.pop()(path)

        monkeypatch.setattr(os, "mkdir", mkdir_and_meddle)

    return install


def test_another_is_made_if_somebody_removes_it_at_once(
    tmp_path: Path, meddle: Callable[[Callable[[str], None]], None]
) -> None:
    removed: list[str] = []

    def remove(path: str) -> None:
        for found in abandoned(str(tmp_path), KIND):
            os.rmdir(found.path)
            removed.append(found.path)
            found.release()

    meddle(remove)
    directory = make(tmp_path)
    assert len(removed) == 1
    assert os.listdir(tmp_path) == [name_of(directory)]
    assert look_for_abandoned(tmp_path) == []
    directory.release()


def test_another_is_made_if_somebody_has_locked_it(
    tmp_path: Path, meddle: Callable[[Callable[[str], None]], None]
) -> None:
    with ExitStack() as thieves:

        def lock(path: str) -> None:
            for found in abandoned(str(tmp_path), KIND):
                thieves.callback(found.release)

        meddle(lock)
        directory = make(tmp_path)
        assert len(os.listdir(tmp_path)) == 2
    directory.release()


def test_another_is_made_if_it_goes_while_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    gone: list[str] = []

    def remove_and_lock(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        if not gone:
            gone.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            os.rmdir(gone[0])

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    directory = make(tmp_path)
    assert directory.path not in gone
    assert os.path.isdir(directory.path)
    directory.release()


def test_what_somebody_else_removes_meanwhile_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path).release()
    flock = fcntl.flock

    def remove_and_lock(descriptor: int, operation: int) -> None:
        os.rmdir(os.readlink(f"/proc/self/fd/{descriptor}"))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    assert look_for_abandoned(tmp_path) == []


def test_it_is_not_tried_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def pretend(path: str, mode: int) -> None:
        made.append(path)

    monkeypatch.setattr(os, "mkdir", pretend)
    with pytest.raises(OSError, match="other processes removed or locked 100 new"):
        make(tmp_path)
    assert len(set(made)) == ATTEMPTS


def test_without_a_descriptor_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        make(tmp_path)
    assert os.listdir(tmp_path) == []


def test_without_locks_nobody_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have no locks."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    directory = make(tmp_path)
    assert look_for_abandoned(tmp_path) == []
    directory.release()
    assert look_for_abandoned(tmp_path) == []


# -- many processes at once -------------------------------------------------------------------

CROWD = """
import os, sys
from spear._directories import OwnedDirectory, abandoned
parent, swept = sys.argv[1], 0
for number in range(150):
    directory = OwnedDirectory.make(parent, "test")
    with open(directory.path + "/mine", "x"):
        pass
    for found in abandoned(parent, "test"):
        assert found.path != directory.path
        for name in os.listdir(found.path):
            os.unlink(found.path + "/" + name)
        os.rmdir(found.path)
        found.release()
        swept += 1
    assert os.listdir(directory.path) == ["mine"]
    directory.release()  # as if we had been killed
print(swept)
"""


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-c", CROWD, str(tmp_path)]
    with ExitStack() as stack:
        yield [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE)) for _ in range(4)
        ]


@pytest.mark.slow
def test_nobody_loses_what_he_owns(crowd: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    swept = [int(process.communicate()[0]) for process in crowd]
    assert [process.returncode for process in crowd] == [0] * 4
    # More directories were made, because some were removed before they had an owner.
    assert sum(swept) + len(look_for_abandoned(tmp_path)) >= 4 * 150
