"""Relative paths, with a working directory and after it has been removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spear import ConfigurationError
from spear._paths import absolute, working_directory

if TYPE_CHECKING:
    from pathlib import Path


def test_a_path_is_joined_to_where_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert working_directory() == str(tmp_path)
    assert absolute("shop.py") == absolute("./shop.py") == f"{tmp_path}/shop.py"
    assert absolute("shop.py", "/srv") == "/srv/shop.py"
    assert absolute("/etc/shop.py", "/srv") == absolute("/etc/shop.py") == "/etc/shop.py"
    assert absolute("../shop.py", "/srv/releases/1") == "/srv/releases/shop.py"
    assert absolute("", "/srv") == absolute(".", "/srv") == "/srv"


def test_only_relative_paths_need_a_working_directory(gone: Path) -> None:
    assert working_directory() is None
    assert absolute("/etc/shop.py") == "/etc/shop.py"
    assert absolute("shop.py", "/srv") == "/srv/shop.py"
    message = "^shop.py is relative to the working directory, which has been removed: use an abs"
    with pytest.raises(ConfigurationError, match=message):
        absolute("shop.py")
