"""``spear serve``: processes that serve, and how they start and end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import tomllib
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from .helpers import COMMAND, PATIENCE_SECONDS, Run, Terminal, is_alive, read_until
from .serving import TILL, Host, serving, wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "till.py").write_text(TILL)
    return tmp_path


@pytest.fixture
def pipe(place: Path) -> Path:
    path = place / "pipe"
    os.mkfifo(path)
    return path


# -- refused before the start ---------------------------------------------------------------------


def test_a_check_finds_nothing_or_everything(run: Run, here: Path) -> None:
    done = run("serve", "shop.py", "--check")
    assert (done.status, done.output) == (0, b"no faults found: 1 deployment\n")
    done = run("serve", "shop.py", "old=shop.py", "--listen", "off", "--check")
    assert (done.status, done.output) == (0, b"no faults found: 2 deployments\n")
    (here / "spear.toml").write_text(
        "[spearlet]\nlistne = 1\n[functions.till]\nsource = 'till.py'\n"
    )
    done = run("serve", "--queue", "many", "--check")
    assert (done.status, done.output) == (2, b"")
    assert done.errors.splitlines() == [
        "spear: spear.toml:2: spearlet.listne: there is no such key; did you mean 'listen'?",
        '--queue: functions.till.queue: must be a whole number, not "many"',
        f"spear.toml:4: functions.till.source: {here}/till.py was not found or is not readable",
    ]
    assert run("serve", "--queue", "many").errors == done.errors  # not started either


def test_a_token_that_everybody_can_read(run: Run, here: Path) -> None:
    file = here / "token"
    file.write_text("0123456789abcdef-the-token")
    file.chmod(0o644)
    done = run("serve", "shop.py", "--token-file", "token", "--check")
    told = f"spear: {file} can be read by every user of this machine: chmod o-r {file}\n"
    assert (done.status, done.errors) == (0, told)
    file.chmod(0o640)
    assert run("serve", "shop.py", "--token-file", "token", "--check").errors == ""


def test_what_is_in_effect_is_shown(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEAR_LIMITS_WIRE_MAX_CALLS", "7")
    words = (
        "serve", "shop.py", "--replicas", "1-3", "--no-log-instances",
        "--set", "limits.wire.max_strikes=9", "--env", "COLOUR=red", "--debug",
    )  # fmt: skip
    shown = tomllib.loads(run(*words, "--show-config").output.decode())
    assert shown == tomllib.loads(run(*words, "--show-config", "toml").output.decode())
    wire = shown["limits"]["wire"]
    assert (wire["max_calls"], wire["max_strikes"]) == (7, 9)
    assert shown["spearlet"]["log_instances"] is False
    shop = shown["functions"]["shop"]
    assert (shop["source"], shop["debug"]) == (str(here / "shop.py"), True)
    assert (shop["replicas"]["min"], shop["replicas"]["max"]) == (1, 3)
    assert shop["environment"] == {"COLOUR": "<hidden>"}
    as_json = json.loads(run(*words, "--show-config", "json").output)
    assert as_json["limits"]["wire"]["max_calls"] == 7
    done = run("serve", "none.py", "--show-config")
    assert (done.status, b"none.py" in done.output) == (0, True)
    assert "none.py was not found" in done.errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no source was given: use spear serve FILE.py, or create a spear.toml"),
        (["--config", "no.toml"], "cannot read no.toml: No such file or directory"),
        (
            ["shop.py", "--set", "x"],
            "--set needs KEY=VALUE, as in --set limits.wire.max_calls=200, not 'x'",
        ),
        (["shop.py", "--set", "=x"], "--set needs KEY=VALUE"),
        (["shop.py", "--env", "=x"], "--env needs a name"),
        (["shop.py", "--lisn", "x"], "unrecognized arguments: --lisn"),
        (["shop.py", "--listen", "nowhere"], "--listen: spearlet.listen: must be HOST:PORT"),
        (["./empty/"], "empty has no main.py"),
        (["shop.py", "./a/shop.py"], "would both be named shop: choose another name, as in NAME="),
        (
            ["shop.py", "--token-file", "short"],
            "--token-file: spearlet.token_file: a token must have at least 16",
        ),
        (
            ["shop.py", "--listen", "0.0.0.0:0"],
            "--listen: spearlet.listen: '0.0.0.0' can be reached from",
        ),
        (["shop.py", "--control-socket", "x" * 108], "bytes long; at most 107 are allowed"),
        (
            ["shop.py", "--check", "--control-socket", "x" * 108],
            "--control-socket: spearlet.control_socket: {}/xxxx",
        ),
        (
            ["spear.toml"],
            "spear.toml is a configuration, not a program: use spear serve --config spear.to",
        ),
        (
            ["a=b.toml", "--check"],
            "b.toml is a configuration, not a program: use spear serve --config b.t",
        ),
        ([f"{'x' * 300}.py", "--check"], "xxx.py was not found or is not readable"),
        (["shop.py", "--control-socket", "no/where/s"], "cannot use {}/no/where: No such file"),
        (["shop.py", "--control-socket", "open/s"], "must be a directory that only this user"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_makes_no_sense(run: Run, here: Path, words: list[str], message: str) -> None:
    (here / "empty").mkdir()
    (here / "open").mkdir()
    (here / "open").chmod(0o777)
    (here / "short").write_text("short")
    done = run("serve", *words)
    assert (done.status, done.output) == (2, b"")
    assert message.format(here) in done.errors


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("shop.py", "shop"), ("a/b c.py:app", "b-c"), ("./reports/", "reports"), ("company.shop", "shop"),
        ("./reports", "reports"), ("my_shop-2.py", "my_shop-2"), ("./we ird/", "we-ird"),
    ],
)  # fmt: skip
def test_names_of_sources(run: Run, source: str, name: str) -> None:
    assert name_shown(run, source) == name


def name_shown(run: Run, source: str) -> str:
    """Return the name of the only deployment of a command line."""
    shown = json.loads(run("serve", source, "--show-config", "json").output)
    (name,) = shown["functions"]
    return str(name)


@pytest.mark.parametrize("source", ["-.py", "ünï.py", "./we ird/ü/", "/"])
def test_sources_that_give_no_name(run: Run, source: str) -> None:
    done = run("serve", "--show-config", "json", "--", source)
    assert done.status == 2
    assert f"cannot be derived from {source!r}: " in done.errors
    assert f" as in NAME={source}\n" in done.errors


def test_a_name_before_a_source_that_cannot_name_a_deployment(run: Run, here: Path) -> None:
    done = run("serve", "--show-config", "json", "a b=shop.py")
    assert done.status == 2
    assert "'a b' is not a valid name of a deployment: " in done.errors
    (here / "a b=shop.py").write_text("")
    assert name_shown(run, "a b=shop.py") == "a-b-shop"


def test_the_working_directory_as_a_source(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bakery").mkdir()
    monkeypatch.chdir(tmp_path / "bakery")
    assert name_shown(run, "./") == "bakery"
    assert name_shown(run, "..") == tmp_path.name


# -- from start to end ------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_says_what_it_serves_and_ends_well(place: Path) -> None:
    (place / "depot").mkdir()
    (place / "depot" / "main.py").write_text(
        "import spear, words\napp = spear.Agent()\n"
        "@app.function\ndef word() -> str:\n    return words.WORD\n"
    )
    (place / "depot" / "words.py").write_text('WORD = "beside"\n')
    with subprocess.Popen(
        [*COMMAND, "serve", "till.py", "./depot/", "--listen", "127.0.0.1:0", "--replicas", "2"],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().decode().rstrip() for _ in range(4)]
        assert f"till: {', '.join(TILL_FUNCTIONS)} (2 instances)" in lines
        assert "depot: word (2 instances)" in lines
        assert lines[2].startswith("http://127.0.0.1:")
        assert lines[3].startswith("control socket /")
        path = lines[3].removeprefix("control socket ")
        assert path.endswith("/default.sock")
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
        done = subprocess.run(
            [*COMMAND, "invoke", "word"], capture_output=True, check=True, timeout=PATIENCE_SECONDS
        )
        assert done.stdout == b'"beside"\n'
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=PATIENCE_SECONDS) == (b"", b"")
        assert process.returncode == 0
    # A fixture checks that its directory is gone.


@pytest.mark.slow
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_lets_finish_what_runs(place: Path, pipe: Path, first: signal.Signals) -> None:
    with serving(place, "till.py") as host:
        assert host.said["deployments"] == {"till": TILL_FUNCTIONS}
        assert host.said["name"] == "default"
        assert host.said["pid"] == host.process.pid
        with host.invoke("hold", str(pipe)) as call:
            assert "process:till-1#1 stdout: holding" in host.hear("holding")
            assert host.get("/readyz")[0] == 200
            host.send(first)
            wait_until(lambda: host.get("/readyz")[0] == 503)
            with host.invoke("greet") as refused:
                _, errors = refused.communicate(timeout=PATIENCE_SECONDS)
                assert refused.returncode == 9, errors
            pipe.write_text("done")
            assert call.communicate(timeout=PATIENCE_SECONDS)[0] == b'"done"\n'
        assert host.process.wait(PATIENCE_SECONDS) == 0


TILL_FUNCTIONS = [
    "greet",
    "hold",
    "count",
    "ticks",
    "endless",
    "say",
    "chatter",
    "total",
    "variables",
    "crash",
]


@pytest.mark.slow
def test_a_drain_has_a_deadline(place: Path, pipe: Path) -> None:
    seconds = "limits.shutdown_seconds=0.5"
    with (
        serving(place, "till.py", "--set", seconds) as host,
        host.invoke("hold", str(pipe)) as call,
    ):
        host.hear("holding")
        begun = time.monotonic()
        status, _ = host.end(signal.SIGTERM)  # the timeout is longer than that
        assert time.monotonic() - begun >= 0.5
        assert status == 0
        assert call.wait(PATIENCE_SECONDS) in (7, 9, 11)


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(place: Path, pipe: Path, second: signal.Signals) -> None:
    with serving(place, "till.py") as host, host.invoke("hold", str(pipe)) as call:
        host.hear("holding")
        host.send(signal.SIGTERM)
        wait_until(lambda: host.get("/readyz")[0] == 503)
        status, errors = host.end(second)
        assert status == 128 + second
        assert "spear: received a second signal; stopping at once" in errors
        assert call.wait(PATIENCE_SECONDS) in (7, 9, 11)


@pytest.mark.slow
def test_a_signal_before_it_serves(place: Path) -> None:
    (place / "slow.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    with Terminal(place).start("serve", "slow.py", "--listen", "127.0.0.1:0") as process:
        read_until(process.stderr, b"loading")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.slow
def test_what_does_not_start_is_not_served(place: Path) -> None:
    (place / "bad.py").write_text(
        "import spear\nprint('about to fail')\nraise ValueError('no good')\n"
    )
    done = Terminal(place).run("serve", "till.py", "bad.py", "--listen", "127.0.0.1:0")
    assert (done.status, done.output) == (6, b"")
    assert "process:bad-1#1 stdout: about to fail\n" in done.errors
    assert "spear: process:bad-1#1 " in done.errors


@pytest.mark.slow
def test_one_host_of_a_name(place: Path) -> None:
    with serving(place, "till.py", "--name", "evening") as host:
        environment = {**os.environ, **host.environment}
        again = subprocess.run(
            [*COMMAND, "serve", "till.py", "--name", "evening", "--listen", "off"],
            cwd=place, env=environment, capture_output=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert again.returncode == 2
        path = place / "run" / "spear" / "evening.sock"
        said = f"a spearlet already listens at {path}: choose another name than 'evening'"
        assert said in again.stderr.decode()
        # A killed host leaves a socket without a listener.
        host.process.kill()
        host.process.wait(PATIENCE_SECONDS)
        assert path.exists()
        dead = subprocess.run(
            [*COMMAND, "ps", "--host", "evening"],
            env=environment, capture_output=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert dead.returncode == 10
        assert b"the spearlet 'evening' is not running: no process listens" in dead.stderr
    with serving(place, "till.py", "--name", "evening", "--listen", "off") as host:
        assert host.said["urls"] == []
        assert host.end() == (0, "")
    assert list((place / "run").iterdir()) == []


@pytest.mark.slow
def test_nobody_reads_what_it_says(place: Path) -> None:
    """The host serves although its output has no reader."""
    reading, writing = os.pipe()
    os.close(reading)
    (place / "run").mkdir()
    with subprocess.Popen(
        [*COMMAND, "serve", "till.py", "--listen", "off"],
        cwd=place,
        env={**os.environ, "XDG_RUNTIME_DIR": str(place / "run")},
        stdout=writing,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writing)
        path = place / "run" / "spear" / "default.sock"
        wait_until(path.exists)
        done = subprocess.run(
            [*COMMAND, "invoke", "--host", str(path), "greet"],
            capture_output=True, check=True, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        assert done.stdout == b'"hello you"\n'
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.slow
def test_there_is_no_room_for_what_it_says(place: Path) -> None:
    """The host serves although its output cannot be written, and reports this on the other stream."""
    (place / "run").mkdir()
    with (
        open("/dev/full", "wb") as full,
        subprocess.Popen(
            [*COMMAND, "serve", "till.py", "--listen", "off"],
            cwd=place,
            env={**os.environ, "XDG_RUNTIME_DIR": str(place / "run")},
            stdout=full,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        read_until(process.stderr, b"cannot write to standard output: No space left on device")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.slow
def test_it_ends_though_nobody_reads_what_is_wrong(place: Path) -> None:
    with serving(place, "till.py") as host:
        with host.invoke("chatter", "5000") as call:
            assert call.wait(PATIENCE_SECONDS) == 0
        host.send(signal.SIGTERM)
        assert host.process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.slow
def test_a_call_whose_host_is_killed_may_have_run(place: Path, pipe: Path) -> None:
    with (
        serving(place, "till.py") as host,
        host.invoke("hold", str(pipe)) as call,
        host.invoke("endless") as stream,
    ):
        host.hear("holding")
        assert stream.stdout is not None
        stream.stdout.readline()
        host.process.kill()
        for each in (call, stream):
            _, errors = each.communicate(timeout=PATIENCE_SECONDS)
            assert (each.returncode, b"may have been carried out" in errors) == (11, True)


@pytest.mark.slow
def test_who_asks_leaves_no_line_in_the_log(place: Path) -> None:
    with serving(place, "till.py", "--log-level", "info") as host:
        for words in (["ps"], ["ps", "--json"], ["invoke", "greet"], ["logs", "till"]):
            with host.ask(*words) as asking:
                assert asking.wait(PATIENCE_SECONDS) == 0
        status, errors = host.end()
        assert status == 0
        assert [line for line in errors.splitlines() if "connection" in line] == []


# -- systemd ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told(place: Path, kind: str) -> None:
    name = str(place / "notify") if kind == "path" else f"@spear-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(name.replace("@", "\0"))
        inbox.settimeout(PATIENCE_SECONDS)
        with serving(place, "till.py", environment={"NOTIFY_SOCKET": name}) as host:
            assert inbox.recv(4096) == b"READY=1\nSTATUS=serving 1 deployments"
            if kind == "path":
                host.send(signal.SIGHUP)
                reloading, at = inbox.recv(4096).decode().split("\n")
                assert reloading == "RELOADING=1"
                assert int(at.removeprefix("MONOTONIC_USEC=")) > 0
                assert inbox.recv(4096) == b"READY=1"
            host.send(signal.SIGTERM)
            assert inbox.recv(4096) == b"STOPPING=1\nSTATUS=draining"
            assert host.process.wait(PATIENCE_SECONDS) == 0


# -- reloading --------------------------------------------------------------------------------------


CONFIG = """
[functions.till]
source = "till.py"
replicas = 1

[functions.old]
source = "till.py"
"""


@pytest.fixture
def reloaded(place: Path) -> Iterator[Host]:
    (place / "spear.toml").write_text(CONFIG)
    with serving(place) as host:
        yield host


def reload(host: Host, text: str) -> str:
    """Replace the configuration and reload; return the host's report."""
    (host.place / "spear.toml").write_text(text)
    host.send(signal.SIGHUP)
    return host.hear("reload").strip()


@pytest.mark.slow
def test_a_reload_applies_what_has_changed(reloaded: Host) -> None:
    host = reloaded
    assert reload(host, CONFIG) == "spear: reloaded: nothing has changed"
    # Change a number only.
    text = CONFIG.replace("replicas = 1", "replicas = 2")
    assert reload(host, text) == "spear: reloaded: till scaled"
    # Add a deployment, and remove one.
    text = text.replace("functions.old", "functions.new")
    assert reload(host, text) == "spear: reloaded: new deployed, old stopped"
    assert host.greeting("new.greet") == b'"hello you"'
    # Change the source.
    (host.place / "till.py").write_text(TILL.replace('GREETING = "hello"', 'GREETING = "good day"'))
    assert reload(host, text) == "spear: reloaded: new restarted, till restarted"
    assert host.greeting() == b'"good day you"'
    # Change other settings.
    assert reload(host, text + "debug = true\n") == "spear: reloaded: new restarted"
    # A deployment that an operator has stopped, and started again.
    with host.ask("stop", "new") as stopping:
        assert stopping.wait(PATIENCE_SECONDS) == 0
    with host.ask("scale", "till", "1") as scaling:
        assert scaling.wait(PATIENCE_SECONDS) == 0
    for _ in range(2):
        with host.ask("start", "new", "till") as starting:
            said = starting.communicate(timeout=PATIENCE_SECONDS)[0].decode()
            assert said == "new is ready: 1/1 ready\ntill is ready: 1/1 ready\n"
    assert host.greeting("new.greet") == b'"good day you"'
    with host.ask("start", "old") as starting:
        assert starting.wait(PATIENCE_SECONDS) == 4
    # A deployment that an operator has stopped already.
    with host.ask("stop", "new") as stopping:
        assert stopping.wait(PATIENCE_SECONDS) == 0
    text = text.partition("[functions.new]")[0]
    assert reload(host, text) == "spear: reloaded: new stopped"
    # Settings that take effect later.
    more = text + '[spearlet]\nlog_level = "info"\n[limits.wire]\nmax_calls = 7\n'
    assert "spearlet.log_level takes effect when the host is started again" in reload(host, more)
    assert "limits.wire.max_calls takes effect" in host.hear("reload")
    assert host.hear("reloaded").strip() == "spear: reloaded: no deployment has changed"
    assert host.end()[0] == 0


@pytest.mark.slow
def test_a_bad_reload_changes_nothing(reloaded: Host) -> None:
    host = reloaded
    said = reload(host, CONFIG.replace("replicas = 1", "replicas = 0"))
    assert said == "spear: reload failed; nothing was changed:"
    assert "spear.toml:4: functions.till.replicas" in host.hear("spear.toml")
    assert reload(host, "[functions.till") == "spear: reload failed; nothing was changed:"
    assert host.greeting("old.greet") == b'"hello you"'
    # A deployment that cannot start keeps its old instances; the others are changed all the same.
    (host.place / "bad.py").write_text("raise ValueError('no good')\n")
    text = CONFIG.replace('"till.py"\nreplicas = 1', '"bad.py"') + "replicas = 2\n"
    text += '[functions.bad]\nsource = "bad.py"\n'
    (host.place / "spear.toml").write_text(text)
    host.send(signal.SIGHUP)
    lines = sorted(host.hear("spear: reload: ") for _ in range(2))
    assert lines[0].startswith("spear: reload: bad: process:bad-1#1 ")
    assert lines[1].startswith("spear: reload: till: process:till-")
    assert host.hear("spear: reloaded").strip() == (
        "spear: reloaded: old scaled; failed (see above): bad, till"
    )
    assert host.greeting() == b'"hello you"'
    # The reload is retried.
    (host.place / "bad.py").write_text(TILL)
    assert reload(host, text) == "spear: reloaded: bad deployed, till restarted"
    assert host.greeting() == b'"hello you"'


def has_more(statuses: list[int], than: int) -> bool:
    return len(statuses) > than


@pytest.mark.slow
def test_calls_do_not_notice_a_reload(reloaded: Host, tmp_path: Path) -> None:
    host = reloaded
    pipe = tmp_path / "held"
    os.mkfifo(pipe)
    stop = threading.Event()
    statuses: list[int] = []

    def call() -> None:
        connection = host.connect()
        with closing(connection):
            while not stop.is_set():
                connection.request("POST", "/v1/functions/till.greet/call", "[]")
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)

    threads = [threading.Thread(target=call) for _ in range(3)]
    with host.invoke("till.hold", str(pipe)) as held:
        host.hear("holding")
        for each in threads:
            each.start()
        try:
            for change in range(1, 3):
                (host.place / "till.py").write_text(TILL + "\n" * change)
                host.send(signal.SIGHUP)
                # New instances answer while the old one finishes.
                wait_until(partial(has_more, statuses, len(statuses) + 100))
                if change == 1:
                    pipe.write_text("done")
                    assert held.communicate(timeout=PATIENCE_SECONDS)[0] == b'"done"\n'
                assert "old restarted, till restarted" in host.hear("reloaded")
        finally:
            stop.set()
            for each in threads:
                each.join()
    assert set(statuses) == {200}


@pytest.mark.slow
def test_what_was_replaced_in_part_is_replaced_again(reloaded: Host) -> None:
    """The old file is loaded again, so the replaced instance is replaced once more."""
    host, flag = reloaded, reloaded.place / "flag"
    old = CONFIG.replace("replicas = 1", "replicas = 2")
    assert reload(host, old) == "spear: reloaded: till scaled"
    (host.place / "half.py").write_text(
        f"{TILL.replace('hello', 'good day')}\n"
        "@app.lifespan\nasync def once():\n"
        f"    os.close(os.open({str(flag)!r}, os.O_CREAT | os.O_EXCL))\n    yield\n"
    )
    text = old.replace('"till.py"\nreplicas = 2', '"half.py"\nreplicas = 2')
    assert "did not start" in reload(host, text)
    host.hear("; only some instances were replaced")
    assert host.hear("reloaded").strip() == "spear: reloaded: nothing; failed (see above): till"
    assert {host.greeting() for _ in range(4)} == {b'"hello you"', b'"good day you"'}
    assert reload(host, old) == "spear: reloaded: till restarted"
    assert {host.greeting() for _ in range(4)} == {b'"hello you"'}
    assert reload(host, old) == "spear: reloaded: nothing has changed"


@pytest.mark.slow
def test_a_scaling_that_fails_is_taken_back_with_the_file(reloaded: Host) -> None:
    host = reloaded
    place = host.place / "full"
    place.touch()
    (host.place / "half.py").write_text(
        f"{TILL}\n@app.lifespan\nasync def once():\n    os.unlink({str(place)!r})\n    yield\n"
    )
    one = CONFIG.replace('"till.py"\nreplicas = 1', '"half.py"\nreplicas = 1')
    assert reload(host, one) == "spear: reloaded: till restarted"
    two = one.replace("replicas = 1", "replicas = 2")
    for _ in range(2):  # the reload is retried
        assert "did not start" in reload(host, two)
        assert "failed (see above): till" in host.hear("reloaded")
    assert reload(host, one) == "spear: reloaded: till scaled"
    _, body = host.get("/v1/deployments/till")
    assert json.loads(body)["settings"]["replicas"]["max"] == 1


SOURCES = {
    "good": TILL,
    "better": TILL.replace('"hello"', '"good day"'),
    "broken": "raise ValueError('no good')\n",
    "leaving": "import os\nos._exit(3)\n",
    "slow": f"import time\ntime.sleep(0.3)\n{TILL}",
    # One of two instances starts; the other one, the first or the second, does not.
    "moody": f"import os\nif int.from_bytes(os.urandom(1)) % 2:\n    os._exit(4)\n{TILL}",
}


@pytest.mark.slow
@pytest.mark.parametrize("reloads", [10, pytest.param(100, marks=pytest.mark.soak)])
def test_after_many_reloads_the_last_file_counts(
    reloads: int, place: Path, seed: random.Random
) -> None:
    """Deployments start, stop and fail meanwhile, and many reloads are requested at once."""

    def write(names: Sequence[str], kinds: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Write a new file and new sources; return the expected state of each deployment."""
        wanted = {name: (seed.choice(kinds), seed.randint(1, 2)) for name in names}
        text = ""
        for name, (kind, replicas) in wanted.items():
            (place / f"{kind}.py").write_text(SOURCES[kind])
            text += f'[functions.{name}]\nsource = "{kind}.py"\nreplicas = {replicas}\n'
        (place / "new.toml").write_text(text)
        (place / "new.toml").rename(place / "spear.toml")
        return wanted

    def deployments() -> dict[str, tuple[str, list[str]]]:
        """Return the source that each deployment runs, and the states of its instances."""
        _, body = host.get("/v1/deployments")
        return {
            each["name"]: (
                os.path.basename(each["target"]),
                [instance["state"] for instance in each["instances"]],
            )
            for each in json.loads(body)["deployments"]
        }

    write("ab", ["good"])
    with serving(place) as host:
        for _ in range(reloads):
            write(seed.sample("abc", seed.randint(1, 3)), list(SOURCES))
            for _ in range(seed.randint(1, 2)):
                host.send(signal.SIGHUP)
            deployments()  # the host answers meanwhile, and some instances have begun to start
        wanted = write("abd", ["good", "better"])
        host.send(signal.SIGHUP)
        ready = {
            name: (f"{kind}.py", ["ready"] * replicas) for name, (kind, replicas) in wanted.items()
        }
        wait_until(lambda: deployments() == ready)
        for name, (kind, _) in wanted.items():
            for _ in range(4):  # all replicas answer
                said = b'"hello you"' if kind == "good" else b'"good day you"'
                assert host.greeting(f"{name}.greet") == said
        assert host.end()[0] == 0


@pytest.mark.slow
def test_a_reload_needs_no_working_directory(place: Path) -> None:
    """A host is started in a release's directory, which another release replaces."""
    release = place / "release"
    release.mkdir()
    (place / "spear.toml").write_text(CONFIG)
    file = str(place / "spear.toml")
    with serving(place, "--config", file, directory=release) as host:
        release.rmdir()
        for count, done in ((2, "till scaled"), (2, "nothing has changed")):
            text = CONFIG.replace("replicas = 1", f"replicas = {count}")
            (place / "spear.toml").write_text(text)
            host.send(signal.SIGHUP)
            assert host.hear("reload").strip() == f"spear: reloaded: {done}"
        assert host.greeting() == b'"hello you"'
        assert host.end()[0] == 0


@pytest.mark.slow
def test_a_reload_finds_what_took_the_place_of_its_directory(place: Path) -> None:
    """Relative paths keep the meaning that they had when the host was started."""
    release = place / "release"
    release.mkdir()
    (release / "till.py").write_text(TILL)
    with serving(place, "till.py", directory=release) as host:
        shutil.rmtree(release)
        release.mkdir()
        (release / "till.py").write_text(TILL.replace('"hello"', '"good day"'))
        host.send(signal.SIGHUP)
        assert host.hear("reload").strip() == "spear: reloaded: till restarted"
        assert host.greeting() == b'"good day you"'
        assert host.end()[0] == 0


def test_absolute_paths_are_checked_without_a_working_directory(
    run: Run, here: Path, gone: Path
) -> None:
    done = run("serve", f"{here}/shop.py", "--check")
    assert (done.status, done.output) == (0, b"no faults found: 1 deployment\n")
    removed = "is relative to the working directory, which has been removed"
    for source in ("shop.py", ".", "./"):
        assert removed in run("serve", source, "--check").errors
    assert run("serve", "--check").errors.startswith("spear: no source was given")


@pytest.mark.slow
def test_a_port_that_is_taken(place: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = Terminal(place).run("serve", "till.py", "--listen", f"127.0.0.1:{port}")
    assert (done.status, done.output) == (2, b"")
    problem = f"cannot listen on '127.0.0.1', port {port}: Address already in use"
    assert done.errors.splitlines()[-1] == f"spear: {problem}; choose another address with --listen"


@pytest.mark.slow
def test_an_end_while_it_reloads(place: Path) -> None:
    (place / "spear.toml").write_text(CONFIG)
    with serving(place) as host:
        (place / "slow.py").write_text(
            "import time\nprint('loading', flush=True)\ntime.sleep(60)\n"
        )
        (place / "spear.toml").write_text(CONFIG.replace('"till.py"', '"slow.py"'))
        host.send(signal.SIGHUP)
        host.hear("loading")
        assert host.end()[0] == 0


@pytest.mark.slow
def test_a_configuration_that_cannot_be_read_holds_up_nothing(place: Path) -> None:
    (place / "spear.toml").write_text(CONFIG)
    with serving(place) as host:
        (place / "spear.toml").unlink()
        os.mkfifo(place / "spear.toml")
        host.send(signal.SIGHUP)
        # A client reads the rest now, and never comes to its end.
        with open(place / "spear.toml", "wb"):
            assert host.greeting() == b'"hello you"'
            assert host.end()[0] == 0


@pytest.mark.slow
def test_a_host_that_is_killed_takes_its_instances_along(place: Path) -> None:
    with serving(place, "till.py") as host:
        _, body = host.get("/v1/instances")
        (instance,) = json.loads(body)["instances"]
        assert is_alive(instance["pid"])
        host.process.kill()
        wait_until(lambda: not is_alive(instance["pid"]))
