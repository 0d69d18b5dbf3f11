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


def test_a_file_is_no_lifeline() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert b"it is not the end of a pipe" in done.stderr
