"""``spear doctor``: each fault is found, with advice, and only failures change the exit status."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import resource
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .helpers import Run

FAILED = 13


@pytest.fixture(autouse=True)
def free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the gateway take any port: another test may have the default one."""
    monkeypatch.setenv("SPEAR_LISTEN", "127.0.0.1:0")


def examine(
    run: Run, *words: str, status: int | None = None
) -> dict[str, list[tuple[str, str, str]]]:
    """Return (status, text, advice) of the findings, by check."""
    done = run("doctor", "--json", *words)
    told = json.loads(done.output)
    found: dict[str, list[tuple[str, str, str]]] = {}
    for each in told["checks"]:
        found.setdefault(each["check"], []).append((each["status"], each["says"], each["advice"]))
    assert done.status == (FAILED if told["status"] == "fail" else 0)
    assert status is None or done.status == status
    return found


@pytest.mark.slow
def test_a_healthy_machine(run: Run, here: Path) -> None:
    found = examine(run, status=0)
    assert {"python", "trio", "open files", "memory", "pidfd", "memfd", "loopback"} <= found.keys()
    assert {name for name, each in found.items() if each[0][0] == "fail"} == set()
    assert found["names"] == [("ok", f"no file in {here} hides a module", "")]
    assert found["gateway"] == [("ok", "127.0.0.1:0 is free", "")]


def test_people_get_aligned_lines_and_a_summary(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    done = run("doctor")
    lines = done.output.decode().splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("warn  bytecode "))
    assert lines[place + 1].strip() == "-> unset PYTHONDONTWRITEBYTECODE"
    assert lines[-1].endswith(", 0 failed")
    assert (done.status, done.errors) == (0, "")


@pytest.mark.parametrize(
    ("version", "name", "status", "says"),
    [
        ((3, 10, 9), "CPython", "fail", "CPython 3.10.9"),
        ((3, 16, 0), "CPython", "warn", "CPython 3.16.0 was not tested"),
        ((3, 11, 5), "PyPy", "warn", "PyPy 3.11.5"),
    ],
)
def test_other_interpreters(
    version: tuple[int, int, int], name: str, status: str, says: str, run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(platform, "python_version", lambda: ".".join(map(str, version)))
    monkeypatch.setattr(platform, "python_implementation", lambda: name)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    found = examine(run)
    assert found["python"] == [(status, says, "use CPython 3.11 to 3.15")]
    assert found["system"] == [("fail", "darwin is not supported", "use Linux")]
    assert found["breakpoint"][0][1] == "PYTHONBREAKPOINT is '0' here"


def test_packages_that_are_missing_or_too_old(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"spearlet": "1", "trio": "0.28.1", "cbor2": "6.2.0rc1", "rich": "9"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(
        importlib.metadata,
        "requires",
        lambda _: [
            "attrs>=23.2", "cbor2>=6.2", "trio>=0.29", 'h11>=0.16; extra == "http"',
            "rich>=13.9; extra == 'cli'",
            'pyarrow>=15; extra == "arrow"', 'boto3; extra == "test"',
        ],
    )  # fmt: skip
    found = examine(run, status=FAILED)
    assert found["attrs"] == [("fail", "not installed", "pip install spearlet")]
    assert found["cbor2"] == [("ok", "6.2.0rc1", "")]
    assert found["trio"] == [("fail", "0.28.1 is too old for spearlet", "pip install 'trio>=0.29'")]
    assert found["rich"][0][1] == "9 is too old for spearlet[cli]"
    assert found["http"] == [
        ("warn", "h11: not installed", "pip install 'spearlet[http]', to have spear serve")
    ]
    assert found["arrow"][0][:2] == ("ok", "not installed, for data frames: pyarrow")
    assert "boto3" not in found
    del versions["spearlet"]

    def requires(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert examine(run, status=0)["spearlet"][0][0] == "warn"


@pytest.mark.parametrize(
    ("files", "processes", "status"),
    [
        (100, 100, ("fail", "warn")),
        (600, 5000, ("warn", "ok")),
        (4096, resource.RLIM_INFINITY, ("ok", "ok")),
    ],
)
def test_limits_of_the_user(
    files: int, processes: int, status: tuple[str, str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {resource.RLIMIT_NOFILE: files, resource.RLIMIT_NPROC: processes}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits[kind], limits[kind]))
    found = examine(run)
    assert (found["open files"][0][0], found["processes"][0][0]) == status


KERNEL_FILES = {
    "/sys/fs/cgroup/memory.max": f"{300 << 20}\n",
    "/sys/fs/cgroup/memory.current": f"{200 << 20}\n",
    "/proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {1 << 20} kB\n",
    "/proc/sys/user/max_user_namespaces": "0",
    "/proc/sys/kernel/yama/ptrace_scope": "1\n",
    "/sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
}


def read_instead(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """Let files of the kernel have these contents, and let others be missing."""
    read = Path.read_text

    def read_text(self: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if not str(self).startswith(("/sys/", "/proc/")):
            return read(self, encoding, errors)
        if str(self) not in files:
            raise FileNotFoundError
        return files[str(self)]

    monkeypatch.setattr(Path, "read_text", read_text)


def test_a_slow_and_small_machine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read_instead(monkeypatch, KERNEL_FILES)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "99")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    statvfs = os.statvfs
    monkeypatch.setattr(
        os,
        "statvfs",
        lambda path: (
            SimpleNamespace(f_blocks=1, f_frsize=4096, f_flag=os.ST_NOEXEC)
            if path
            else statvfs(path)
        ),
    )
    found = examine(run, status=0)
    assert found["memory"][0][:2] == ("warn", "100M free, of 300M of this cgroup")
    for name in ("/dev/shm", "clock source", "clock", "cpu governor", "user", "threads"):
        assert found[name][0][0] == "warn", name
    assert "noexec" in found["temporary files"][0][1]
    assert "not for this user" in found["user namespaces"][0][1]
    assert "py-spy" in found["ptrace"][0][1]


def test_a_machine_that_tells_little(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read_instead(monkeypatch, {"/proc/meminfo": "nonsense"})

    def missing(*_: object) -> str:
        raise importlib.metadata.PackageNotFoundError

    def gone(path: str) -> object:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(importlib.metadata, "requires", missing)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    found = examine(run)
    assert "memory" not in found
    assert "threads" not in found
    assert "clock source" not in found


def test_missing_features_of_the_kernel(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pidfd_open", refuse)
        patched.setattr(os, "memfd_create", refuse)
        found = examine(run, status=FAILED)
    assert found["pidfd"][0][:2] == ("fail", "not available: Function not implemented")
    assert found["memfd"][0][:2] == ("warn", "not available: Function not implemented")
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert examine(run)["memfd"][0][1].startswith("cannot be sealed")


@pytest.mark.slow
def test_places_of_sockets(
    run: Run, tmp_path: Path, own_temporary_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = own_temporary_directory / "run"
    place = runtime / "spear"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert examine(run)["control socket"] == [("ok", f"{place} will be created", "")]
    place.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left, socket.socket(socket.AF_UNIX) as alive:
        left.bind(str(place / "noon.sock"))
        alive.bind(str(place / "evening.sock"))
        alive.listen()
        found = examine(run, status=0)
    assert found["control socket"][0][1] == f"in {place}; running hosts: evening"
    ((status, says, advice),) = found["left over"]
    assert (status, advice.startswith(f"rm {place}/noon.sock")) == ("warn", True)
    assert "was killed" in says
    place.chmod(0o777)
    assert examine(run, status=FAILED)["control socket"][0][0] == "fail"
    for each in place.iterdir():
        each.unlink()
    place.rmdir()
    long = runtime / ("long" * 30)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert "is longer than 107 bytes" in examine(run, status=FAILED)["control socket"][0][1]
    long.rmdir()
    runtime.rmdir()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(own_temporary_directory / "missing"))
    found = examine(run, status=FAILED)
    assert "does not exist or is not writable" in found["control socket"][0][1]


def test_temporary_directories_that_are_of_no_use(
    run: Run, own_temporary_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = own_temporary_directory / ("long" * 20)
    long.mkdir()
    with monkeypatch.context() as patched:  # pytest needs a temporary directory, too
        patched.setattr(tempfile, "gettempdir", lambda: str(long))
        assert "too long" in examine(run, status=FAILED)["temporary files"][0][1]
    long.rmdir()

    def refuse() -> str:
        raise FileNotFoundError

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "gettempdir", refuse)
        found = examine(run, status=FAILED)["temporary files"]
    assert found == [("fail", "no directory is writable", "set TMPDIR")]


def test_ports_that_are_taken_or_not_ours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("SPEAR_LISTEN", listen)
        ((status, says, advice),) = examine(run, status=0)["gateway"]
        assert (status, advice) == ("warn", "spear serve --listen 127.0.0.1:0")
        assert says == f"{listen} cannot be used: another program listens there"
    for listen in ("127.0.0.1:99999", "[::1"):
        monkeypatch.setenv("SPEAR_LISTEN", listen)
        found = examine(run, status=0)
        assert found.get("gateway", [("warn", "", "")])[0][0] == "warn"
    monkeypatch.setenv("SPEAR_LISTEN", "off")
    assert "gateway" not in examine(run)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(socket, "create_server", refuse)
    assert examine(run, status=FAILED)["loopback"][0][0] == "fail"


def test_files_that_hide_modules(run: Run, here: Path) -> None:
    (here / "trio.py").touch()
    (here / "json").mkdir()
    (here / "json" / "__init__.py").touch()
    (here / "email").mkdir()  # no package
    (here / "spear").mkdir()
    for name in ("__init__.py", "_version.py"):  # a checkout
        (here / "spear" / name).touch()
    found = examine(run, status=0)["names"]
    assert [(status, says) for status, says, _ in found] == [
        ("warn", f"{here / 'json'} hides the module json"),
        ("warn", f"{here / 'trio.py'} hides the module trio"),
    ]


@pytest.mark.slow
def test_programs(run: Run, here: Path) -> None:
    place = here / "apart"
    place.mkdir()
    (place / "queue.py").touch()
    (place / "good.py").write_text(
        "import spear\napp = spear.Agent()\n\n@app.function\ndef twice(x: int) -> int:\n    return 2 * x"
    )
    (here / "none.py").write_text("import spear\napp = spear.Agent()")
    (here / "bad.py").write_text("1 / 0")
    found = examine(run, "apart/good.py", "none.py", "bad.py", "no.module", status=FAILED)
    assert found["apart/good.py"] == [("ok", "twice(x: int) -> int", "")]
    assert found["none.py"][0][:2] == ("warn", "has no functions")
    ((status, says, advice),) = found["bad.py"]
    assert (status, advice) == ("fail", "spear call bad.py shows the same")
    assert "ZeroDivisionError: division by zero" in says
    assert found["no.module"][0][0] == "fail"
    assert [status for status, _, _ in found["names"]] == ["ok", "warn"]
    assert f"{place / 'queue.py'} hides the module queue" in found["names"][1][1]
    done = run("doctor", "bad.py")
    assert (done.status, done.errors) == (FAILED, "")
    assert b"1 failed\n" in done.output
