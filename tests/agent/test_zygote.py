"""A zygote by itself: its answers to the requests of its host."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from refusals import NO_PROC, mounted

pytestmark = pytest.mark.slow

PROGRAM = """
import os
import spear
app = spear.Agent()
@app.function
async def nothing() -> None:
    pass
"""


@contextmanager
def zygote(program: Path, prefix: Sequence[str] = ()) -> Iterator[socket.socket]:
    """Run a zygote; yield the host's end of its socket. The zygote has to exit orderly with the block."""
    read_end, write_end = os.pipe()
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(15)
    numbers = read_end, other.fileno()
    options = ["--bootstrap-fd", str(numbers[0]), "--zygote-fd", str(numbers[1])]
    process = subprocess.Popen(
        [*prefix, sys.executable, "-P", "-m", "spear.agent", str(program), *options],
        pass_fds=numbers,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
    )
    try:
        os.close(read_end)
        other.close()
        with ours:
            yield ours
        assert process.wait(timeout=15) == 0
    finally:
        os.close(write_end)
        process.kill()
        process.wait()


def ask_to_fork(sock: socket.socket, directory: bytes) -> tuple[int, int, int]:
    """Return (pid, write end of the lifeline, read end of stderr) of a forked process."""
    lifeline, lifeline_end = os.pipe()
    stderr_end, stderr = os.pipe()
    null = os.open(os.devnull, os.O_WRONLY)
    socket.send_fds(sock, [b"F" + directory], [lifeline, null, stderr])
    for each in lifeline, null, stderr:
        os.close(each)
    answer = sock.recv(1000)
    assert answer[:1] == b"P"
    return int(answer[1:]), lifeline_end, stderr_end


def read_all(descriptor: int) -> str:
    with open(descriptor) as file:
        return file.read()


def test_what_it_answers(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with zygote(program) as sock:
        assert sock.recv(1000) == b"R"
        sock.send(b"C%d" % os.getpid())  # a pid that is no child of the zygote
        assert sock.recv(1000) == b"X"

        pid, lifeline, stderr = ask_to_fork(sock, b"/no/such/place")
        assert "No such file or directory: b'/no/such/place'" in read_all(stderr)
        sock.send(b"C%d" % pid)
        assert sock.recv(1000) == b"X1"
        os.close(lifeline)

        pid, lifeline, stderr = ask_to_fork(sock, b"/")
        os.close(lifeline)  # the host exits without a record
        assert "the pipe ended before the end" in read_all(stderr)
        sock.send(b"C%d" % pid)
        assert sock.recv(1000) == b"X1"

        pid, lifeline, stderr = ask_to_fork(sock, b"/")  # waits for its record
        sock.send(b"C%d" % pid)
        assert sock.recv(1000) == b"X%d" % -signal.SIGKILL
        os.close(lifeline)
        os.close(stderr)

        program.write_text(PROGRAM + "# changed")
        read_end, write_end = os.pipe()
        socket.send_fds(sock, [b"F/"], [read_end, write_end, write_end])
        assert sock.recv(1000) == b"S"
        os.close(read_end)
        os.close(write_end)


def test_what_cannot_be_forked_says_so_and_ends(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + "kept = open(__file__)")
    with zygote(program) as sock:
        assert sock.recv(1000).startswith(b"Nhas open files or sockets that forks would share: /")
        assert sock.recv(1000) == b""


def test_what_it_has_open_cannot_be_found_out(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with zygote(program, mounted(NO_PROC)) as sock:
        assert sock.recv(1000).startswith(b"Ncannot list its open files: ")
        assert sock.recv(1000) == b""


def test_one_that_was_ended_while_it_was_loading_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "program.py"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program.write_text(f"open({str(fifo)!r}).close()\n{PROGRAM}")
    with zygote(program) as sock, open(fifo, "w"):  # the program is still loading
        sock.close()
    assert capfd.readouterr().err == ""


def test_a_rehearsal_that_fails_is_no_harm(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        PROGRAM + "import spear.agent._rehearsal as it\nit.make_private_directory = None\n"
    )
    with zygote(program) as sock:
        assert sock.recv(1000) == b"R"
    assert capfd.readouterr().err.count("the rehearsal failed") == 1


def test_a_fork_that_cannot_warm_up_takes_its_request_all_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = tmp_path / "program.py"
    program.write_text(f"""{PROGRAM}
import spear.agent._zygote
async def warm_up():
    with open({str(fifo)!r}, "w") as file:
        file.write("x")
    raise ZeroDivisionError
spear.agent._zygote.warm_up = warm_up
""")
    with open(fifo, "r+b", buffering=0) as tried, zygote(program) as sock:
        assert sock.recv(1000) == b"R"
        assert tried.read(1) == b"x"
        pid, lifeline, stderr = ask_to_fork(sock, b"/")
        os.close(lifeline)
        assert "the pipe ended before the end" in read_all(stderr)
        sock.send(b"C%d" % pid)
        assert sock.recv(1000) == b"X1"
    assert "a pre-forked process could not warm up: ZeroDivisionError()" in capfd.readouterr().err
