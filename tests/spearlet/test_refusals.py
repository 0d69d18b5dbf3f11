"""Resources that the system denies: the API raises a typed error, or works without them."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from refusals import NO_PROC, READ_ONLY, limited, mounted, refusing, unmeasured, without_threads

from spear import ConfigurationError
from spear._directories import temporary_directory

from .helpers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = Path(__file__).with_name("refused.py")


def run(prefix: list[str], *words: str) -> str:
    """Run a host to which something is denied; return the last line that it prints."""
    done = subprocess.run(
        [*prefix, sys.executable, str(PROGRAM), *words], env=unmeasured(), capture_output=True,
        text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (lambda: limited("-f", 0), "ConfigurationError no temporary directory is writable"),
        (lambda: mounted(READ_ONLY), "ConfigurationError no temporary directory is writable"),
        (lambda: refusing("prlimit64"), "ConfigurationError core_bytes cannot be limited here"),
        (lambda: limited("-n", 18), ("SpawnFailed ", "ChannelCreationFailed ")),
        (without_threads, "SpawnFailed "),
        (lambda: refusing("pidfd_open"), "SpawnFailed "),
    ],
)
def test_what_the_system_refuses_is_one_typed_error(
    prefix: Callable[[], list[str]], message: str | tuple[str, ...]
) -> None:
    assert run(prefix()).startswith(message)


@pytest.mark.slow
@pytest.mark.parametrize(
    "prefix",
    [
        lambda: mounted(NO_PROC),
        lambda: mounted("mount -t tmpfs -o ro,mode=0 none /dev/shm"),
        lambda: refusing("memfd_create"),
        lambda: refusing("memfd_create", error=errno.ENOSYS),
    ],
    ids=["no /proc", "no /dev/shm", "no memfd", "an old kernel"],
)
def test_what_the_host_can_do_without(prefix: Callable[[], list[str]]) -> None:
    """A host works without forks or commands, and copies payloads if memory cannot be shared."""
    assert run(prefix(), "all") == "100000 200000 command"


def test_there_is_no_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def gettempdir() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", gettempdir)
    with pytest.raises(ConfigurationError, match="set TMPDIR to a writable"):
        temporary_directory()
