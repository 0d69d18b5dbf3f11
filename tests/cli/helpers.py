"""Running ``spear`` as a process, and inside the test."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import IO, TYPE_CHECKING, Protocol, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

Line: TypeAlias = "dict[str, object]"
"""A line of the output of ``spear map``."""

FUNCTIONS = Path(__file__).with_name("functions.py")

COMMAND = [str(Path(sys.executable).with_name("spear"))]
if not Path(COMMAND[0]).exists():
    COMMAND = [sys.executable, "-m", "spear.cli"]

NO_OUTPUT = b"spear: standard output is closed: redirect it, for example to /dev/null\n"

PATIENCE_SECONDS = 20.0
"""Seconds for a run of the command, on a busy machine."""


@attrs.frozen
class Finished:
    """The result of a run of the command."""

    status: int
    output: bytes
    errors: str


class Run(Protocol):
    """A function that runs the command to its end."""

    def __call__(self, *words: str, stdin: bytes = b"") -> Finished: ...


def completions(run: Run, *words: str) -> list[str]:
    """Return a shell's completions of the last of these words."""
    done = run("completion", "--words", *words)
    assert (done.status, done.errors) == (0, "")
    return done.output.decode().splitlines()


@attrs.frozen
class Terminal:
    """A directory in which ``spear`` is run, as a process."""

    place: Path

    def run(self, *words: str, stdin: bytes = b"", stdout: IO[bytes] | int = PIPE) -> Finished:
        """Run the command to its end."""
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=self.place,
            input=stdin,
            stdout=stdout,
            stderr=PIPE,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return Finished(done.returncode, done.stdout or b"", done.stderr.decode())

    @contextmanager
    def start(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start the command; yield the process, and kill it if the test does not wait for its end."""
        with subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def read_until(pipe: IO[bytes] | None, wanted: bytes) -> bytes:
    """Return the first line that contains ``wanted``."""
    assert pipe is not None
    for line in pipe:
        if wanted in line:
            return line
    raise AssertionError(f"the output ended without {wanted!r}")


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not count."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_dead(pid: int) -> None:
    """Wait until a process that is no child of this one has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], PATIENCE_SECONDS)[0]
    finally:
        os.close(pidfd)


def lines_of(output: bytes) -> list[Line]:
    """Return the lines of an output, in the order of the items."""
    assert output.endswith(b"\n") or not output
    lines: list[Line] = [json.loads(line) for line in output.splitlines()]
    return sorted(lines, key=lambda line: str(line["index"]).zfill(9))


def summary_of(done: Finished) -> str:
    """Return the last line on standard error; on a slow machine, lines about the progress precede it."""
    return done.errors.splitlines()[-1]


def items(path: Path, *lines: str) -> None:
    """Write lines to a file."""
    path.write_text("".join(f"{line}\n" for line in lines))
