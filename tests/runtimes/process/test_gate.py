"""The launcher that runs before foreign programs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import trio

from spear.runtimes.process import _gate as gate
from spear.runtimes.process._guard_program import WORD

from ..helpers import no_signals

if TYPE_CHECKING:
    import subprocess

ENVIRONMENT = {"ONLY": "this"}


async def run_behind_gate(*command: str, go: bytes = b"\n") -> subprocess.CompletedProcess[bytes]:
    assert gate.__file__ is not None
    return await trio.run_process(
        [sys.executable, "-I", "-S", gate.__file__, *command],
        stdin=go,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=ENVIRONMENT,
    )


async def test_the_program_finds_all_as_if_nobody_had_stood_there() -> None:
    done = await run_behind_gate("/usr/bin/env", go=b"\nnot for the program")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"ONLY=this\n"
    done = await run_behind_gate("/bin/cat")  # from /dev/null
    assert (done.returncode, done.stdout) == (0, b"")
    done = await run_behind_gate("/bin/echo", "one", "two  three", "gr\u00fcn")
    assert done.stdout.decode() == "one two  three gr\u00fcn\n"


CARELESS_HOST = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


async def test_s15_no_signal_is_ignored_or_blocked_because_the_host_did_so() -> None:
    """Nohup ignores SIGHUP, for example. A program that ignores SIGTERM would lose its clean-up time."""
    assert gate.__file__ is not None
    command = ["/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
    done = await trio.run_process(
        [sys.executable, "-c", CARELESS_HOST, "-I", "-S", gate.__file__, *command],
        stdin=b"\n",
        capture_stdout=True,
    )
    blocked, ignored = done.stdout.decode().split()[1::2]
    assert no_signals(blocked)
    assert no_signals(ignored)


async def test_nothing_runs_when_the_host_is_gone() -> None:
    for word in b"", WORD:
        done = await run_behind_gate("/bin/echo", "hello", go=word)
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


async def test_what_cannot_be_run_is_said() -> None:
    done = await run_behind_gate("/no/such/program")
    assert done.returncode == 127
    assert done.stderr == b"cannot run /no/such/program: No such file or directory\n"
