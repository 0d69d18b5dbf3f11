"""S1: no other user can reach Spear's Unix sockets; and the errors of connecting."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from spear import ChannelBroken, ConfigurationError
from spear._directories import OwnedDirectory
from spear.transports import (
    SocketListener,
    UnixAddress,
    check_private_directory,
    connect_unix,
    make_private_directory,
    open_unix_listener,
)
from spear.transports._unix import _bind_private_socket

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Set a umask that removes no permission."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path, follow_symlinks=False).st_mode)


# -- the directory ----------------------------------------------------------------------------


def test_s1_the_directory_is_ours_alone(open_umask: None) -> None:
    with make_private_directory() as path:
        assert mode_of(path) == 0o700
        assert os.stat(path).st_uid == os.geteuid()


def test_the_directory_goes_with_what_is_in_it(tmp_path: Path) -> None:
    with make_private_directory(tmp_path) as path:
        assert os.path.dirname(path) == str(tmp_path)
        (tmp_path / os.path.basename(path) / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_has_left_goes_with_the_next_directory(tmp_path: Path) -> None:
    left = OwnedDirectory.make(str(tmp_path), "run")
    (tmp_path / os.path.basename(left.path) / "socket").touch()
    with make_private_directory(tmp_path) as living:
        assert os.path.exists(left.path)  # its owner, this process, is alive
        left.release()
        with make_private_directory(tmp_path) as path:
            assert sorted(tmp_path.iterdir()) == sorted([Path(living), Path(path)])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every directory")
def test_where_nobody_may_look_a_directory_can_be_made(tmp_path: Path) -> None:
    tmp_path.chmod(0o300)
    with make_private_directory(tmp_path) as path:
        assert os.path.exists(path)
    tmp_path.chmod(0o700)


def test_a_directory_that_others_fill_is_left_behind(tmp_path: Path) -> None:
    with make_private_directory(tmp_path) as path:
        os.mkdir(f"{path}/someone's")
    assert os.path.exists(path)


def test_the_directory_is_made_where_the_user_keeps_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with make_private_directory() as path:
        assert os.path.dirname(path) == str(tmp_path)
    tmp_path.chmod(0o777)  # as unusable as another user's
    with make_private_directory() as path:
        assert os.path.dirname(path) == tempfile.gettempdir()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with make_private_directory() as path:
        assert os.path.dirname(path) == tempfile.gettempdir()


def test_s1_an_existing_directory_must_be_private(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    check_private_directory(private)

    for bit in 0o001, 0o002, 0o004, 0o010, 0o020, 0o040:
        private.chmod(0o700 | bit)
        with pytest.raises(ConfigurationError, match="other users can access"):
            check_private_directory(private)
    private.chmod(0o700)

    (tmp_path / "link").symlink_to(private)
    with pytest.raises(ConfigurationError, match="symbolic link"):
        check_private_directory(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="not a directory"):
        check_private_directory(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="No such file"):
        check_private_directory(tmp_path / "missing")


@needs_root
def test_s1_an_existing_directory_must_be_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, NOBODY, NOBODY)
    with pytest.raises(ConfigurationError, match="belongs to uid 65534"):
        check_private_directory(tmp_path)
    with (
        pytest.raises(ConfigurationError, match="the owner must be root or uid"),
        make_private_directory(tmp_path),
    ):
        pass


def test_s1_nobody_may_be_able_to_replace_the_directory(tmp_path: Path) -> None:
    def make() -> None:
        with make_private_directory(tmp_path):
            pass

    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match="other users can write"):
        make()
    tmp_path.chmod(0o1777)
    make()


def test_a_directory_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigurationError, match="not a directory"),
        make_private_directory(tmp_path / "file"),
    ):
        pass
    # Even root cannot make a directory here.
    with pytest.raises(ConfigurationError, match="cannot make"), make_private_directory("/proc"):
        pass


# -- the socket -------------------------------------------------------------------------------


async def test_s1_socket_is_born_0600(
    private_directory: str, open_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*args: object) -> None:
        raise AssertionError("chmod() after bind() leaves a moment with another mode")

    monkeypatch.setattr(os, "chmod", too_late)
    async with open_unix_listener(f"{private_directory}/socket"):
        assert mode_of(f"{private_directory}/socket") == 0o600


async def test_s1_the_umask_is_left_alone(
    private_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inherited(mask: int) -> int:
        raise AssertionError("a process started at this moment would inherit the umask")

    monkeypatch.setattr(os, "umask", inherited)
    async with open_unix_listener(f"{private_directory}/socket"):
        pass


async def test_s1_a_socket_that_cannot_be_made_private_is_not_used(
    private_directory: str, open_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fchmod", lambda descriptor, mode: None)  # ignores the mode
    with pytest.raises(ConfigurationError, match="ignores the mode 0600"):
        open_unix_listener(f"{private_directory}/socket")
    assert os.listdir(private_directory) == []


async def test_s1_the_listeners_directory_must_be_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigurationError, match="other users can access"):
        open_unix_listener(tmp_path / "socket")


INTRUDER = """
import os, socket, sys, time
connects, tries = 0, 0
paths = sys.argv[2:]
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
os.set_blocking(0, False)
print("ready", flush=True)
while True:
    for path in paths:
        with socket.socket(socket.AF_UNIX) as s:
            s.setblocking(False)
            try:
                s.connect(path)
                connects += 1
            except OSError:
                tries += 1
    try:
        if os.read(0, 1) == b"":
            break
    except BlockingIOError:
        pass
print(connects, tries)
"""


@contextmanager
def intruder(*paths: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process of another user that keeps connecting to these paths."""
    with subprocess.Popen(
        [sys.executable, "-c", INTRUDER, str(NOBODY), *paths],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        output, _ = process.communicate()
        connects, tries = map(int, output.split())
        assert tries > 0
        assert connects == 0


@needs_root
async def test_s1_another_user_never_connects(open_umask: None) -> None:
    # Root's directories are not found by other users, so these are made in /tmp.
    with make_private_directory("/tmp") as path, intruder(f"{path}/socket"):
        for _ in range(200):
            async with open_unix_listener(f"{path}/socket"):
                pass


@needs_root
async def test_s1_another_user_never_connects_though_the_directory_is_open(
    open_umask: None,
) -> None:
    with make_private_directory("/tmp") as path:
        os.chmod(path, 0o755)
        with intruder(f"{path}/socket"):
            for _ in range(200):
                sock, _ = _bind_private_socket(f"{path}/socket")
                sock.close()
                os.unlink(f"{path}/socket")


async def test_the_socket_file_goes_with_its_listener(private_directory: str) -> None:
    path = f"{private_directory}/socket"
    first = open_unix_listener(path)
    assert first.bound == UnixAddress(path)
    os.unlink(path)
    async with open_unix_listener(path):
        first.close()
        first.close()
        assert os.path.exists(path), "the socket file belongs to the second listener"
    assert not os.path.exists(path)


async def test_a_socket_file_that_is_gone_is_no_error(private_directory: str) -> None:
    async with open_unix_listener(f"{private_directory}/socket"):
        os.unlink(f"{private_directory}/socket")
    assert os.listdir(private_directory) == []


async def test_a_path_belongs_to_one_listener(private_directory: str) -> None:
    path = f"{private_directory}/socket"
    async with open_unix_listener(path):
        with pytest.raises(ConfigurationError, match="Address already in use"):
            open_unix_listener(path)
        async with await connect_unix(path):
            pass


# -- connecting -------------------------------------------------------------------------------


async def test_nobody_listens(private_directory: str) -> None:
    path = f"{private_directory}/socket"
    with pytest.raises(ChannelBroken, match=f"unix:{path}: No such file"):
        await connect_unix(path)
    sock, _ = _bind_private_socket(path)
    sock.close()
    with pytest.raises(ChannelBroken, match="Connection refused"):
        await connect_unix(path)
    with pytest.raises(ConfigurationError):
        await connect_unix("relative")


@contextmanager
def full_queue(path: str) -> Iterator[SocketListener]:
    """Open a listener whose backlog is full until it accepts a connection."""
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as waiting:
        sock.bind(path)
        sock.listen(0)
        waiting.connect(path)
        yield SocketListener(sock, UnixAddress(path))


async def test_connecting_waits_for_room_in_the_queue(
    private_directory: str, autojump_clock: trio.testing.MockClock
) -> None:
    path = f"{private_directory}/socket"
    with full_queue(path) as listener:

        async def accept_later() -> None:
            await trio.sleep(1)
            (await listener.accept()).close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_later)
            async with await connect_unix(path) as stream, await listener.accept() as accepted:
                await stream.send_all(b"really connected")
                assert await accepted.receive_some() == b"really connected"
        assert 1 <= trio.current_time() <= 1.05


async def test_connecting_does_not_wait_for_ever(
    private_directory: str, autojump_clock: trio.testing.MockClock
) -> None:
    path = f"{private_directory}/socket"
    with full_queue(path):
        with pytest.raises(ChannelBroken, match=r"within 2\.5 s"):
            await connect_unix(path, seconds=2.5)
        assert trio.current_time() == pytest.approx(2.5)
