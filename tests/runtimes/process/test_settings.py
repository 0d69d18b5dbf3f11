"""Settings of processes: checked, complete, and shown without secrets."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from spear import ConfigurationError
from spear.runtimes import ProcessSettings, ResourceLimits

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]


def _settings(**values: object) -> ProcessSettings:
    """Return settings as an untyped caller makes them."""
    return ProcessSettings(**{"target": "x.py", **values})  # type: ignore[arg-type]  # that is the test


def _limits(**values: object) -> ResourceLimits:
    return ResourceLimits(**values)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: ProcessSettings(), "either a target or a command"),
        (lambda: ProcessSettings(target="x.py", command=("x",)), "either a target or a command"),
        (lambda: ProcessSettings(target="x.py", environment_handover=True), "needs a command"),
        (lambda: ProcessSettings(target="x\0.py"), "a NUL"),
        (lambda: ProcessSettings(command=("x", "\0")), "a NUL"),
        (
            lambda: ProcessSettings(target="x.py", environment={"": "x"}),
            "environment has '', which is not a valid variable name",
        ),
        (
            lambda: ProcessSettings(target="x.py", environment={"A=B": "x"}),
            "has 'A=B', which is not a valid variable name",
        ),
        (lambda: ProcessSettings(target="x.py", environment={"A": "\0"}), "'A'. must not contain"),
        (
            lambda: _settings(environment={"A": 3}),
            r"environment\['A'\] must be text, not of type int",
        ),
        (
            lambda: _settings(environment={3: "A"}),
            "environment has 3, which is not a valid variable name",
        ),
        (lambda: _settings(environment="A=3"), "environment must be a dict, such as"),
        (
            lambda: _settings(pass_environment="HOME"),
            r"pass_environment must be a list of texts: \['HOME'\], not 'HOME'",
        ),
        (
            lambda: _settings(pass_environment=["HOME", "A=B"]),
            "^pass_environment has 'A=B', which is not a valid variable name",
        ),
        (
            lambda: _settings(pass_environment=[""]),
            "pass_environment has '', which is not a valid variable name",
        ),
        (lambda: _settings(pass_environment=None), "must be a list of texts, not None"),
        (lambda: _settings(python_path=[3]), "each of python_path must be text, not 3"),
        (lambda: _settings(target=None, command="./agent -v"), r"list of texts: \['./agent -v'\]"),
        (lambda: _settings(target=5), "target must be text, not 5"),
        (lambda: _settings(python=None), "python must be text, not None"),
        (lambda: _settings(working_directory=5), "working_directory must be text, not 5"),
        (
            lambda: _settings(working_directory="/tmp", private_directory=True),
            "private_directory replaces working_directory: set only one of them",
        ),
        (lambda: _settings(debug="no"), "debug must be True or False, not 'no'"),
        (lambda: _settings(start="fork"), "start must be one of auto, zygote, spawn, not 'fork'"),
        (
            lambda: _settings(target=None, command=("x",), start="zygote"),
            "a command cannot be forked",
        ),
        (
            lambda: _settings(limits={"open_files": 64}),
            r"limits must be ResourceLimits\(\.\.\.\), not",
        ),
        (lambda: _limits(memory_bytes=True), "memory_bytes must be a whole number, not True"),
        (lambda: _limits(memory_bytes="1G"), "memory_bytes must be a whole number, not '1G'"),
        (lambda: _limits(cpu_seconds=0.5), "cpu_seconds must be a whole number, not 0.5"),
        (lambda: ResourceLimits(memory_bytes=0), "memory_bytes must be positive, not 0"),
        (lambda: ResourceLimits(cpu_seconds=-1), "cpu_seconds must be positive, not -1"),
        (lambda: ResourceLimits(core_bytes=-1), "core_bytes must be positive, not -1"),
        (lambda: ResourceLimits(open_files=15), "open_files must be at least 16"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make()


def test_paths_may_be_paths_and_lists_lists() -> None:
    settings = _settings(
        target=Path("x.py"),
        working_directory=Path("/tmp"),
        pass_environment=["A"],
        python_path=["p"],
    )
    assert (settings.target, settings.working_directory) == ("x.py", "/tmp")
    settings.full_environment()


def test_limits_become_resources() -> None:
    assert ResourceLimits().to_resources() == {resource.RLIMIT_CORE: (0, 0)}
    assert ResourceLimits(core_bytes=None).to_resources() == {}
    limits = ResourceLimits(memory_bytes=2**30, open_files=64, cpu_seconds=5, core_bytes=1)
    assert limits.to_resources() == {
        resource.RLIMIT_AS: (2**30, 2**30),
        resource.RLIMIT_NOFILE: (64, 64),
        resource.RLIMIT_CPU: (5, 6),
        resource.RLIMIT_CORE: (1, 1),
    }


def test_limits_that_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def getrlimit(kind: int) -> tuple[int, int]:
        raise PermissionError(errno.EPERM, "a filter says no")

    monkeypatch.setattr(resource, "getrlimit", getrlimit)
    (problem,) = ProcessSettings(command=("true",)).problems()
    assert str(problem) == "core_bytes cannot be limited here: a filter says no"
    assert (problem.key, problem.summary) == (
        "core_bytes",
        "cannot be limited here: a filter says no",
    )
    unlimited = ProcessSettings(command=("true",), limits=ResourceLimits(core_bytes=None))
    unlimited.validate()


def test_limits_above_the_hosts_own_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ProcessSettings(command=("true",), limits=ResourceLimits(open_files=64))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (32, 32))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(
        ConfigurationError, match=r"^open_files is 64, above the host's own limit of 32"
    ):
        settings.validate()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    settings.validate()


@pytest.mark.parametrize(
    ("target", "argument"),
    [
        ("shop.py", str(Path("shop.py").absolute())),
        ("./shop", str(Path("shop").absolute())),
        ("/srv/shop.py", "/srv/shop.py"),
        ("/srv/shop.py:app", "/srv/shop.py:app"),
        ("shop.py:app", str(Path("shop.py").absolute()) + ":app"),
        ("shop", "shop"),
        ("shop.functions", "shop.functions"),
        ("shop.functions:app", "shop.functions:app"),
    ],
)
def test_a_file_is_named_by_its_absolute_path(target: str, argument: str) -> None:
    # The process starts in another directory.
    command = ProcessSettings(target=target).agent_command(17)
    assert command == [sys.executable, "-P", "-m", "spear.agent", argument, "--bootstrap-fd", "17"]


def test_settings_mean_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ProcessSettings(
        target="shop.py:app",
        python="bin/python",
        python_path=("lib", "/lib"),
        working_directory="w",
    )
    assert settings.made_absolute() == ProcessSettings(
        target=f"{tmp_path}/shop.py:app",
        python=f"{tmp_path}/bin/python",
        python_path=(f"{tmp_path}/lib", "/lib"),
        working_directory=f"{tmp_path}/w",
    )
    same = ProcessSettings(target="shop.api:app", python="python3")
    assert same.made_absolute() == same
    command = ProcessSettings(command=("./tool", "./x")).made_absolute().command
    assert command == (f"{tmp_path}/tool", "./x")


def test_a_command_is_completed() -> None:
    settings = ProcessSettings(command=("sh", "--fd={bootstrap_fd}", "{bootstrap_fd}", "{x}"))
    assert settings.own_command(9) == [shutil.which("sh"), "--fd=9", "9", "{x}"]
    relative = ProcessSettings(command=("./program",))
    assert relative.own_command(9) == [str(Path("program").absolute())]


def test_the_program_is_looked_for_where_it_will_be(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with pytest.raises(ConfigurationError, match="program was not found or is not executable"):
        ProcessSettings(command=("program",)).validate()
    settings = ProcessSettings(command=("program",), environment={"PATH": str(tmp_path)})
    settings.validate()
    assert settings.own_command(9) == [str(program)]


def test_s15_the_environment_is_what_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        monkeypatch.delenv(name)
    settings = ProcessSettings(command=("true",))
    assert settings.full_environment() == {"PATH": os.defpath}
    for name in ("PATH", "HOME", "LANG", "LC_TIME", "TZ", "TMPDIR", "TOKEN", "MINE", "PYTHONHOME"):
        monkeypatch.setenv(name, f"host's {name}")
    settings = ProcessSettings(
        command=("true",), environment={"MINE": "own", "LANG": "C"}, pass_environment=("MINE",)
    )
    assert settings.full_environment() == {
        "PATH": "host's PATH",
        "HOME": "host's HOME",
        "LANG": "C",
        "LC_TIME": "host's LC_TIME",
        "TZ": "host's TZ",
        "TMPDIR": "host's TMPDIR",
        "MINE": "own",
    }


def test_a_template_has_one_thread_for_numerics_unless_another_number_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR")

    def threads(**environment: str) -> str:
        settings = ProcessSettings(target="x.py", environment=environment)
        found = settings.template_environment()
        return " ".join(found.get(f"{name}_NUM_THREADS", "-") for name in names)

    for name in names:
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    assert threads() == "1 1 1 1 1"
    assert "OMP_NUM_THREADS" not in ProcessSettings(target="x.py").full_environment()
    assert threads(BLIS_NUM_THREADS="2") == "1 1 1 2 1"
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    assert threads() == "1 1 3 1 1"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # the libraries follow it
    assert threads() == "4 - 3 - -"


def test_an_agent_finds_its_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/host/only")

    def path(**more: object) -> str | None:
        settings = ProcessSettings(target="x.py", **more)  # type: ignore[arg-type]  # as given
        return settings.full_environment().get("PYTHONPATH")

    assert path() == str(ROOT)  # not installed, but found where the host found it
    assert path(python_path=("/a", "b")) == f"/a:{Path('b').absolute()}:{ROOT}"
    assert path(environment={"PYTHONPATH": "/theirs"}) == f"{ROOT}:/theirs"
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(ROOT))
    assert path() is None
    assert path(python="/other/python") == str(ROOT)
    assert ProcessSettings(command=("true",)).full_environment().get("PYTHONPATH") is None


def test_values_of_variables_are_not_shown() -> None:
    shown = repr(ProcessSettings(target="x.py", environment={"TOKEN": "hidden", "A": "b"}))
    assert "<A, TOKEN>" in shown
    assert "hidden" not in shown
