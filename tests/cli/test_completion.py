"""What a shell is told to complete."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from spear.cli._commands import COMMANDS
from spear.cli._completion import candidates

from .helpers import Run

if TYPE_CHECKING:
    from pathlib import Path


def test_commands_and_options(here: Path) -> None:
    assert candidates([]) == sorted([*COMMANDS, "--help", "--version"])
    assert candidates(["re"]) == ["restart", "result"]
    assert candidates(["--v"]) == ["--version"]
    assert candidates(["top", "--"]) == [
        "--help", "--host", "--interval", "--json", "--once", "--sort", "--token-file",
    ]  # fmt: skip
    assert candidates(["top", "--sort", "c"]) == ["calls/s"]
    assert candidates(["serve", "--repl"]) == ["--replicas"]
    assert candidates(["serve", "--show-config", ""]) == ["json", "toml"]
    assert candidates(["completion", ""]) == ["bash", "fish", "zsh"]


def test_what_is_a_functions_only_it_knows(here: Path) -> None:
    assert candidates(["invoke", "--timeout", "3", "price", "--"]) == []
    assert candidates(["call", "shop.py:price", "--cur"]) == []
    assert "--timeout" in candidates(["invoke", "--key", "price", "--"])
    assert candidates(["serve", "sh"]) == []  # a file
    assert candidates(["ps", ""]) == []


def test_without_a_host_no_names(here: Path) -> None:
    for command in ("logs", "scale", "restart", "stop", "invoke", "result"):
        assert candidates([command, ""]) == []


def test_each_shell_has_its_part(run: Run) -> None:
    for shell in ("bash", "zsh", "fish"):
        done = run("completion", shell)
        assert (done.status, done.errors) == (0, "")
        assert b"spear completion --words" in done.output
    assert run("completion", "--words", "dr").output == b"drain\n"
    done = run("completion")
    assert (done.status, done.output) == (2, b"")
    assert "say which shell: bash, fish or zsh" in done.errors
    assert run("completion", "sh").status == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(run: Run, here: Path, tmp_path: Path) -> None:
    from .helpers import COMMAND

    (tmp_path / "spear").write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    (tmp_path / "spear").chmod(0o755)
    script = run("completion", "bash").output.decode()
    script += 'COMP_WORDS=(spear top --sort ca); COMP_CWORD=3; _spear; echo "${COMPREPLY[@]}"\n'
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"calls/s\n"
