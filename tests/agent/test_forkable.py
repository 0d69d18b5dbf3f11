"""Reasons why a process cannot be forked safely."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from spear.agent._forkable import Files

if TYPE_CHECKING:
    from pathlib import Path

LOOK = """
import os, sys
from spear.agent._forkable import find_obstacle, open_descriptors
known = open_descriptors()
{code}
sys.stdout.write(find_obstacle(known))
"""

OBSTACLES = {
    "nothing": ("pass", ""),
    "threads": (
        """import threading; stop = threading.Event()
for n in range(7): threading.Thread(target=stop.wait, name=f't{n}', daemon=True).start()""",
        r"has other threads: t0, t1, t2, t3, t4 and 2 more",
    ),
    "a-thread-of-a-library": (
        "import faulthandler; faulthandler.dump_traceback_later(1000)",
        r"has other threads, started by a library in C: python[\d.]*",
    ),
    "threads-that-have-ended": (
        """import threading
for n in range(300):
    thread = threading.Thread(target=int); thread.start(); thread.join()
    if told := find_obstacle(known): sys.exit(told)""",
        "",
    ),
    "a-child": (
        "import atexit, subprocess; atexit.register(subprocess.Popen(['sleep', '1000']).kill)",
        r"has child processes: \d+",
    ),
    "a-connection": (
        "import socket; pair = socket.socketpair()",
        r"has open files or sockets that forks would share: socket:\[\d+\], socket:\[\d+\]",
    ),
    "an-asyncio-loop": (
        "import asyncio; loop = asyncio.new_event_loop()",
        r"has open files or sockets that forks would share: anon_inode:\[eventpoll\](, socket:.*){2}",
    ),
    "a-file": (
        "file = open(os.path.abspath(sys.executable), 'rb')",
        r"has open files or sockets that forks would share: /\S+/python[\d.]*",
    ),
    "a-log": (
        """import tempfile; log = open(tempfile.mkdtemp() + '/log', 'a')
import shutil; shutil.rmtree(os.path.dirname(log.name)); null = open(os.devnull)
place = os.open('.', os.O_RDONLY)""",
        "",
    ),
    "inside-asyncio": (
        """import asyncio
async def main(): known = open_descriptors(); sys.exit(find_obstacle(known))
asyncio.run(main())""",
        "runs an asyncio loop",
    ),
    "inside-trio": (
        """import trio
async def main(): known = open_descriptors(); sys.exit(find_obstacle(known))
trio.run(main)""",
        "runs Trio",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OBSTACLES)
def test_what_stands_against_forking_is_named(kind: str) -> None:
    code, expected = OBSTACLES[kind]
    found = subprocess.run(
        [sys.executable, "-c", LOOK.format(code=code)],
        capture_output=True,
        text=True,
        timeout=20,
        start_new_session=True,
        check=False,
    )
    told = found.stdout or found.stderr.strip()
    assert re.fullmatch(expected, told), told


def test_a_program_that_is_replaced_or_removed_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    file.write_text("x = 1")
    files = Files(f"{file}:app")
    files.add_modules()
    assert not files.have_changed()
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # until the kernel's clock ticks
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files.have_changed()
    files = Files(str(file))
    file.unlink()
    assert files.have_changed()
    assert not Files("company.shop").have_changed()
