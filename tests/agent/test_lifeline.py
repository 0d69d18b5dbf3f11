"""The bootstrap record on standard input, for agents behind commands that pass on nothing else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

PATIENCE_SECONDS = 20.0

CODE = """
import sys, time
from spear.agent._lifeline import take_record
record = take_record(0)
print(record.decode(), repr(sys.stdin.read()), flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_standard_input_brings_the_record_and_its_end_kills(kind: str) -> None:
    """Commands such as docker and ssh pass on standard input. The program then sees an empty one."""
    if kind == "pipe":
        theirs, ours = os.pipe()
    else:
        theirs, ours = (each.detach() for each in socket.socketpair())
    with subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=theirs, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        os.close(theirs)
        os.write(ours, (5).to_bytes(4, "little") + b"hello")
        assert process.stdout is not None
        assert process.stdout.readline() == b"hello ''\n"
        assert process.poll() is None
        os.close(ours)
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL


ARMING_CODE = """
import fcntl, os, types
from spear.agent import _lifeline

F_GETSIG = 11
theirs, ours = os.pipe()
signals = []


def pause(_):
    signals.append(fcntl.fcntl(theirs, F_GETSIG))
    if len(signals) == 3:  # the host arms the pipe; here for no signal of its own
        fcntl.fcntl(theirs, fcntl.F_SETFL, fcntl.fcntl(theirs, fcntl.F_GETFL) | os.O_ASYNC)


_lifeline.time = types.SimpleNamespace(sleep=pause)
os.write(ours, (5).to_bytes(4, "little") + b"hello")
_lifeline.take_record(theirs)
print(signals, fcntl.fcntl(theirs, F_GETSIG))
"""


def test_a_process_arms_its_lifeline_only_after_its_host() -> None:
    """A write signals its data after a reader has it, and would kill a process that armed the pipe."""
    done = subprocess.run(
        [sys.executable, "-c", ARMING_CODE],
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        start_new_session=True,
    )
    assert done.stdout == b"[0, 0, 0] 9\n", done.stderr


def test_a_file_is_no_lifeline() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert b"the file is not a pipe" in done.stderr
