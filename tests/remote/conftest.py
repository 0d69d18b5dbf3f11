"""Fixtures of the tests of clients of a host."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def own_temporary_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A short path for the sockets and directories of this test alone."""
    tmp_path_factory.getbasetemp()  # pytest makes its own base directory elsewhere
    path = tempfile.mkdtemp(prefix="gw-")
    monkeypatch.setattr(tempfile, "tempdir", path)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    yield path
    shutil.rmtree(path)
