"""A host that is the first process of a container reaps the orphans there, and only those."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from ..helpers import HERE, UNSHARE, can_be_first


@pytest.mark.slow
def test_a_host_that_is_the_first_process_collects_orphans_and_leaves_other_children() -> None:
    if not can_be_first():
        pytest.skip("this user may not make a PID namespace")
    done = subprocess.run(
        [*UNSHARE, sys.executable, str(HERE / "process" / "first.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        cwd=tempfile.gettempdir(),
        env=os.environ | {"TMPDIR": tempfile.gettempdir()},
    )
    assert done.returncode == 0, done.stderr
