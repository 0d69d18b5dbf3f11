"""``spear serve`` as the first process of a container."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

import pytest
from runtimes.helpers import UNSHARE, can_be_first

from .serving import serving, wait_until

LEAVING = """
import subprocess
import spear
app = spear.Agent()
@app.function
def leave() -> None:
    # A session of its own, and a parent that is gone at once.
    subprocess.run(["sh", "-c", "setsid sleep 2 & sleep 2 & exit"])
"""


def names_of_children(pid: int) -> list[str]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(Path(f"/proc/{child}/comm").read_text().strip())
    return found


@pytest.mark.slow
def test_spear_serve_as_pid_1_collects_orphans(tmp_path: Path) -> None:
    if not can_be_first():
        pytest.skip("may not make a namespace of processes")
    (tmp_path / "leaving.py").write_text(LEAVING)
    with serving(tmp_path, "leaving.py", prefix=UNSHARE) as host:
        unshare = host.process.pid
        (child,) = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()
        with closing(host.connect()) as connection:
            connection.request("POST", "/v1/functions/leaving.leave/call", "[]")
            assert connection.getresponse().status == 200
        wait_until(lambda: names_of_children(int(child)).count("sleep") == 2)
        wait_until(lambda: "sleep" not in names_of_children(int(child)))
