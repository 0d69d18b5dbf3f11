"""Completion of command lines in a shell."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from .helpers import Run, completions

if TYPE_CHECKING:
    from pathlib import Path


def test_commands_and_options(run: Run) -> None:
    assert completions(run) == [
        "--help", "--version", "attach", "call", "completion", "dev", "doctor", "drain", "invoke", "logs",
        "map", "ps", "restart", "result", "scale", "serve", "start", "stop", "stubs", "top",
    ]  # fmt: skip
    assert completions(run, "re") == ["restart", "result"]
    assert completions(run, "--v") == ["--version"]
    assert completions(run, "top", "--") == [
        "--help", "--host", "--interval", "--json", "--once", "--sort", "--token-file",
    ]  # fmt: skip
    assert completions(run, "top", "--sort", "c") == ["calls/s"]
    assert completions(run, "serve", "--repl") == ["--replicas"]
    assert completions(run, "serve", "--show-config", "") == ["json", "toml"]
    assert completions(run, "completion", "") == ["bash", "fish", "zsh"]


def test_what_is_a_functions_only_it_knows(run: Run) -> None:
    assert completions(run, "invoke", "--timeout", "3", "price", "--") == []
    assert completions(run, "call", "shop.py:price", "--cur") == []
    assert "--timeout" in completions(run, "invoke", "--key", "price", "--")
    assert completions(run, "serve", "sh") == []  # completed by the shell, as a file
    assert completions(run, "ps", "") == []


def test_options_of_a_map_follow_its_function(run: Run) -> None:
    assert completions(run, "map", "shop.py:price", "--re") == [
        "--replicas",
        "--resume",
        "--retries",
    ]
    assert completions(run, "map", "shop.py:price", "--input", "") == []


def test_without_a_host_no_names(run: Run) -> None:
    for command in ("logs", "scale", "restart", "stop", "invoke", "result"):
        assert completions(run, command, "") == []


def test_each_shell_has_its_part(run: Run) -> None:
    for shell in ("bash", "zsh", "fish"):
        done = run("completion", shell)
        assert (done.status, done.errors) == (0, "")
        assert b"spear completion --words" in done.output
    assert run("completion", "--words", "dr").output == b"drain\n"
    done = run("completion")
    assert (done.status, done.output) == (2, b"")
    assert "no shell was given: use bash, fish or zsh" in done.errors
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
