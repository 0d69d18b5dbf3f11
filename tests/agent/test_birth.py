"""Signals of instances whose host ignores and blocks some."""

from __future__ import annotations

import json
import subprocess
import sys
from signal import SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGXFSZ
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import subprocess
import spear

app = spear.Agent()

def masks(text: str) -> dict:
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return {name: int(lines[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")}

@app.function
def instance() -> dict:
    with open("/proc/self/status") as file:
        return masks(file.read())

@app.function
def child() -> dict:
    return masks(subprocess.run(["cat", "/proc/self/status"], stdout=-1, text=True).stdout)
"""

HOST = """
import json, signal, sys
import trio
import spear
from spear.runtimes import ProcessSettings

async def main() -> None:
    found = {}
    async with spear.open_spearlet() as spearlet:
        for start in "spawn", "zygote":
            settings = ProcessSettings(target=sys.argv[1], start=start,
                                       pass_environment=("COVERAGE_PROCESS_CONFIG",))
            deployment = await spearlet.deploy(settings, name=start)
            found[start] = [await deployment.instance(), await deployment.child()]
    print(json.dumps(found))

trio.run(main)
"""

SHELL = """
import os, signal, sys
for name in "INT", "QUIT", "HUP", "CHLD":
    signal.signal(signal.Signals["SIG" + name], signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Ways to start a host with ignored or blocked signals, as by nohup or by a background job."""


def bits(*signals: int) -> int:
    return sum(1 << number - 1 for number in signals)


LIBRARYS_OWN = bits(32, 33)
"""Signals that glibc reserves; children of posix_spawn ignore them, as do their children."""


@pytest.mark.slow
def test_s15_instances_ignore_and_block_no_signal_because_their_host_does(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-c", SHELL, "-c", HOST, str(path)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=20,
    )
    found = json.loads(done.stdout)
    assert found.keys() == {"spawn", "zygote"}
    for own, childs in found.values():
        assert own["SigBlk"] & ~LIBRARYS_OWN == 0
        assert own["SigIgn"] & ~LIBRARYS_OWN == bits(SIGPIPE, SIGXFSZ)  # ignored by Python itself
        # Signals that Spear does not handle have no handler.
        assert own["SigCgt"] & bits(SIGINT, SIGTERM) == bits(SIGINT, SIGTERM)
        assert not own["SigCgt"] & bits(SIGQUIT, SIGHUP, SIGUSR1)
        assert {name: mask & ~LIBRARYS_OWN for name, mask in childs.items()} == {
            "SigBlk": 0, "SigIgn": 0, "SigCgt": 0,
        }  # fmt: skip
