"""Fixtures of the command line's tests."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from spear.cli import main

from .helpers import FUNCTIONS, Finished, Run, Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .serving import Host


@pytest.fixture(autouse=True)
def own_temporary_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A short path for the sockets and directories of this test alone."""
    tmp_path_factory.getbasetemp()  # pytest makes its own base directory elsewhere
    path = tempfile.mkdtemp(prefix="cl-")
    monkeypatch.setattr(tempfile, "tempdir", path)
    monkeypatch.setenv("TMPDIR", path)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    yield Path(path)
    left = [each.name for each in Path(path).iterdir()]
    shutil.rmtree(path)
    assert left == []


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: outside of the repository, with ``shop.py`` in it."""
    shutil.copy(FUNCTIONS, tmp_path / "shop.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def terminal(here: Path) -> Terminal:
    """A terminal that runs the command in ``here`` as a process."""
    return Terminal(here)


@pytest.fixture
def run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Run:
    """A function that runs the command in ``here`` inside this process, in half the time."""

    def run(*words: str, stdin: bytes = b"") -> Finished:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = main(words)
        output, errors = capfdbinary.readouterr()
        return Finished(status, output, errors.decode())

    return run


@pytest.fixture
def host(hosting: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The module's host, which the commands of this process find."""
    for name, value in hosting.environment.items():
        monkeypatch.setenv(name, value)
    return hosting
