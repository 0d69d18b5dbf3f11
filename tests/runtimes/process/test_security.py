"""S2, S3, S14, S15: what a process inherits, who may connect for it, and what stays hidden."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from spear import AuthenticationFailed, InstanceId, InstanceTimeouts, SpearError
from spear._ids import Secret
from spear.channels import connect_channel
from spear.runtimes import ProcessSettings
from spear.transports import connect

from ..helpers import (
    PATIENCE_SECONDS,
    WORKER,
    Host,
    call,
    listening,
    nothing_left,
    open_host,
    shell,
    the_guard,
    worker,
)

if TYPE_CHECKING:
    from spear.runtimes import Instance


def descriptors_of(pid: int) -> dict[int, str]:
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed between listing and reading
            found[int(entry.name)] = os.readlink(entry)
    return found


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(os.fsdecode(entry).split("=", 1) for entry in entries if entry)


def forms(secret: Secret) -> list[bytes]:
    """Return the forms in which a secret might leak."""
    raw = secret.reveal()
    return [raw, raw.hex().encode(), raw.hex().upper().encode(), repr(raw)[2:-1].encode()]


def secret_of(host: Host, instance: Instance) -> Secret:
    endpoint = host.factory.manager.endpoint(instance.id)
    assert endpoint is not None
    return endpoint.secret


# -- S15: least inheritance -------------------------------------------------------------------


@pytest.fixture
def bare_interpreter(tmp_path: Path) -> str:
    """Make a script in place of an interpreter, which stops itself before it opens any file."""
    path = tmp_path / "python"
    # The outer shell has its script open. The inner one has nothing open, and stops before it opens
    # anything: a starting program has its libraries open for a moment.
    path.write_text("#!/bin/sh\nexec sh -c 'echo begun; kill -STOP $$'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("kind", ["agent", "foreign"])
async def test_s15_a_process_gets_its_pipes_and_nothing_else(
    kind: str, bare_interpreter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    monkeypatch.setenv("PYTHONPATH", "/host/only")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("PASSED_ON", "too")
    settings = ProcessSettings(
        target=WORKER if kind == "agent" else None,
        python=bare_interpreter,
        command=() if kind == "agent" else ("sh", bare_interpreter),
        environment={"OWN": "value"},
        pass_environment=("PASSED_ON", "NOT_THERE"),
        private_directory=True,
    )
    with open(os.devnull) as leak:
        os.set_inheritable(leak.fileno(), True)  # and is not inherited all the same
        async with open_host() as host, host.run(settings) as instance:
            with listening() as lines:
                await lines.wait_for("begun")
            assert instance.pid is not None
            found = descriptors_of(instance.pid)
            assert found.pop(0) == "/dev/null"
            pipes = {found.pop(1), found.pop(2)}
            assert len(found) == 1  # the lifeline
            assert len(pipes | set(found.values())) == 3
            assert all(name.startswith("pipe:") for name in (*pipes, *found.values()))

            environment = environment_of(instance.pid)
            for name in "PWD", "OLDPWD", "SHLVL", "_":  # the shell's own
                environment.pop(name, None)
            root = str(Path(__file__).parents[3])
            assert environment == {
                "OWN": "value",
                "PASSED_ON": "too",
                **{
                    name: value
                    for name, value in os.environ.items()
                    if name in ("HOME", "LANG", "LANGUAGE", "PATH", "TMPDIR", "TZ")
                    or name.startswith("LC_")
                },
                **({"PYTHONPATH": root} if kind == "agent" else {}),
            }
            assert os.getsid(instance.pid) == os.getpgid(instance.pid) == instance.pid
            cwd = os.readlink(f"/proc/{instance.pid}/cwd")
            assert Path(cwd).name.startswith("spear-")
            await instance.kill()  # a stopped process would not notice SIGTERM


@pytest.mark.slow
async def test_s15_no_process_gets_anything_of_another() -> None:
    async with (
        open_host() as host,
        host.ready(worker(), "first") as first,
        host.ready(worker(), "second") as second,
    ):
        assert first.pid is not None
        assert second.pid is not None
        shared = {
            name
            for name in descriptors_of(first.pid).values()
            if name.startswith(("pipe:", "socket:"))
        } & set(descriptors_of(second.pid).values())
        assert shared == set()


# -- S2: who may connect ----------------------------------------------------------------------


async def test_s2_only_the_process_itself_may_connect() -> None:
    async with open_host() as host, host.run(shell("echo begun; exec sleep 1000")) as instance:
        endpoint = host.factory.manager.endpoint(instance.id)
        assert endpoint is not None
        # A process of the same user with the right secret is refused before any request.
        with pytest.raises(SpearError):
            async with (
                connect(endpoint.address) as stream,
                connect_channel(stream, instance.id, endpoint.secret),
            ):
                pass
        acceptor = host.factory.manager.statistics().acceptor
        assert acceptor.refused == {"wrong_process": 1}
        assert acceptor.unauthenticated == 0


@pytest.mark.slow
async def test_s2_nobody_may_connect_before_the_process_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused: list[int] = []
    popen = subprocess.Popen

    async def intrude(host: Host) -> None:
        (endpoint,) = host.factory.manager.endpoints
        async with connect(endpoint.address) as stream:
            assert await stream.receive_some(1) == b""
        refused.append(host.factory.manager.statistics().acceptor.refused["wrong_process"])

    async with open_host() as host:
        async with host.run(worker()):
            pass
        await the_guard()  # one guard serves all

        def start(*arguments: object, **options: object) -> object:
            # In the thread that starts the process, before the start.
            trio.from_thread.run(intrude, host)
            return popen(*arguments, **options)  # type: ignore[call-overload]  # passed on

        monkeypatch.setattr(subprocess, "Popen", start)
        async with host.ready(worker()) as instance:
            assert refused == [1]
            assert await call(instance, "echo", b"unharmed") == b"unharmed"


@pytest.mark.slow
async def test_s2_its_children_may_connect_for_it() -> None:
    settings = ProcessSettings(
        command=("sh", "-c", '"$@" & wait', "sh", sys.executable, WORKER, "{bootstrap_fd}"),
    )
    async with open_host() as host, host.ready(settings) as instance:
        assert await call(instance, "echo", b"hello") == b"hello"


# -- S3: the secret ---------------------------------------------------------------------------


@pytest.mark.slow
async def test_s3_the_secret_is_neither_in_arguments_nor_in_the_environment() -> None:
    async with open_host() as host, host.ready(worker()) as instance:
        secret = secret_of(host, instance)
        for name in "cmdline", "environ":
            content = Path(f"/proc/{instance.pid}/{name}").read_bytes()
            assert content
            assert not any(form in content for form in forms(secret))
        # The secret is not left in the pipe, either.
        lifeline = Path(f"/proc/{instance.pid}/cmdline").read_bytes().split(b"\0")[-2].decode()
        again = os.open(f"/proc/{instance.pid}/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            os.read(again, 1)
        os.close(again)


async def test_s3_every_incarnation_has_a_secret_of_its_own() -> None:
    secrets: set[bytes] = set()
    async with open_host() as host:
        for incarnation in range(1, 4):
            async with host.run(shell("exec sleep 1000"), incarnation=incarnation) as instance:
                secrets.add(secret_of(host, instance).reveal())
    assert len(secrets) == 3


async def test_s3_the_secret_is_void_when_the_startup_deadline_is_over(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with open_host() as host:
        async with host.factory.open_endpoint(InstanceId("process", "late")) as endpoint:
            mock_clock.jump(InstanceTimeouts().startup_seconds + 0.001)
            with pytest.raises(AuthenticationFailed):
                async with (
                    connect(endpoint.address) as stream,
                    connect_channel(stream, endpoint.instance_id, endpoint.secret),
                ):
                    pass
        assert host.factory.manager.statistics().refused_logins == {"secret_expired": 1}


async def test_s3_the_environment_is_used_only_when_asked_for() -> None:
    settings = ProcessSettings(
        command=("sh", "-c", "echo begun; sleep 1000; true"), environment_handover=True
    )
    async with open_host() as host, host.run(settings) as instance:
        with listening() as lines:
            await lines.wait_for("begun")
        assert instance.pid is not None
        environment = environment_of(instance.pid)
        endpoint = host.factory.manager.endpoint(instance.id)
        assert endpoint is not None
        assert environment["SERVICE_ADDR"] == str(endpoint.address)
        assert environment["SECRET"] == endpoint.secret.reveal().hex()
        assert environment["SPEAR_INSTANCE"] == "process:worker#1"


# -- S14: hygiene -----------------------------------------------------------------------------


@pytest.mark.slow
async def test_s14_no_log_line_and_no_repr_shows_the_secret(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = worker(environment={"TOKEN": "of-the-function"})
    with nothing_left():
        async with open_host() as host, host.ready(settings) as instance:
            secret = secret_of(host, instance)
            await call(instance, "write", b"a line\n")
            shown = [repr(instance), repr(settings), repr(instance.health())]
            shown += [repr(host.factory.manager.endpoint(instance.id))]
            with trio.fail_after(PATIENCE_SECONDS):
                await instance.stop()
            shown += [repr(instance.history), repr(instance.logs())]
    captured = capfd.readouterr()
    text = "\n".join([caplog.text, captured.out, captured.err, *shown])
    assert "a line" in caplog.text
    assert not any(form.decode("latin-1") in text for form in forms(secret))
    assert "of-the-function" not in text
    assert "TOKEN" in repr(settings)
