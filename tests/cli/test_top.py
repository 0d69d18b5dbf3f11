"""``spear top`` on a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from spear.cli import main

from .helpers import COMMAND, PATIENCE_SECONDS
from .screens import COLUMNS, LINES, on_screen
from .serving import Host, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

ENTER = b"\x1b[?1049h\x1b[?25l"
"""Switches to the terminal's alternate screen, and hides the cursor."""
LEAVE = b"\x1b[0m\x1b[?25h\x1b[?1049l"
"""Switches back, with the default colours and the cursor."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with serving(tmp_path_factory.mktemp("top"), "till.py", "--replicas", "2") as host:
        yield host


@pytest.fixture
def asking(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    for name, value in host.environment.items():
        monkeypatch.setenv(name, value)
    return host


def test_a_screen_that_lives(host: Host) -> None:
    with on_screen("top", "--interval", "0.2", environment=host.environment) as screen:
        text = screen.wait_until(lambda text: "till-2#1" in text)
        assert text.startswith("spearlet default, pid ")
        assert len(screen.lines) == LINES
        assert screen.lines[-1].startswith(
            "q quit   sort by: c calls/s  e errors/s  l latency  u CPU"
        )
        assert "n [name]" in screen.lines[-1]
        assert screen.raw.startswith(ENTER)
        assert screen.attributes() != screen.before  # keys arrive one by one
        assert not screen.is_plain()
        # Calls are counted, and the table is sorted by them.
        screen.type("c")
        screen.wait_until(lambda text: "[calls/s]" in text)
        for _ in range(3):
            with host.invoke("say", "hello") as call:
                assert call.wait(PATIENCE_SECONDS) == 0
        screen.wait_until(
            lambda text: "till.say " in text and text.split("till.say")[1].split()[2] == "3"
        )
        # The window gets smaller, and larger.
        screen.resize(60, 12)
        screen.wait_until(lambda text: "... and " in text)
        assert all(len(line) <= 60 for line in screen.lines)
        screen.resize(120, 40)
        screen.wait_until(lambda text: "till-2#1" in text)
        screen.type("x\x1a")  # keys without a meaning
        screen.type("q")
        assert screen.wait_ended() == 0
        assert screen.raw.endswith(LEAVE)


def test_in_the_background_it_can_be_ended(host: Host) -> None:
    """The command is stopped when it accesses the terminal, like any background job, but can be ended."""
    script = ["sh", "-c", 'timeout 1 "$@"; echo "status $?"', "sh", *COMMAND]
    with on_screen("top", environment=host.environment, command=script) as screen:
        screen.wait_until(lambda text: "status 124" in text)
        assert screen.attributes() == screen.before
        assert screen.wait_ended() == 0


def test_a_terminal_that_can_do_nothing(host: Host) -> None:
    with on_screen("top", environment={**host.environment, "TERM": "dumb"}) as screen:
        assert screen.wait_ended() == 2
        assert b"this terminal has no cursor" in screen.raw
        assert b"\x1b" not in screen.raw


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_gives_the_terminal_back(host: Host, number: signal.Signals, status: int) -> None:
    with on_screen("top", environment=host.environment) as screen:
        screen.wait_until(lambda text: "till.greet" in text)
        if number == signal.SIGINT:
            screen.type("\x03")
        else:
            os.kill(screen.process.pid, number)
        assert screen.wait_ended() == status
        assert screen.raw.endswith(LEAVE)
        assert screen.attributes() == screen.before


def test_the_end_of_the_host_gives_the_terminal_back(tmp_path: Path) -> None:
    with serving(tmp_path, "till.py") as host:
        with on_screen("top", environment=host.environment) as screen:
            screen.wait_until(lambda text: "till.greet" in text)
            host.process.kill()
            assert screen.wait_ended() == 10
            said = screen.raw.rpartition(LEAVE)[2].decode()
            assert re.search("the spearlet 'default' (has stopped|closed the connection)", said)
            assert screen.attributes() == screen.before
        status = subprocess.run(
            [*COMMAND, "top", "--once"],
            env={**os.environ, **host.environment}, capture_output=True, check=False,
        )  # fmt: skip
        assert status.returncode == 10


def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    with on_screen("top", "--host", str(tmp_path / "s"), environment={}) as screen:
        assert screen.wait_ended() == 10
        assert b"is not running" in screen.raw.rpartition(LEAVE)[2]


def test_a_terminal_that_is_closed(host: Host) -> None:
    with on_screen("top", environment=host.environment) as screen:
        screen.wait_until(lambda text: "till.greet" in text)
        screen.close()
        assert screen.process.wait(PATIENCE_SECONDS) == 128 + signal.SIGHUP


def test_a_bug_gives_the_terminal_back(host: Host) -> None:
    code = (
        "import sys; from spear.cli import _top, main\n"
        "def broken(*words, **named): raise ZeroDivisionError\n"
        "_top.lay_out = broken\n"
        "sys.exit(main(['top']))"
    )
    command = [sys.executable, "-c", code]
    with on_screen(environment=host.environment, command=command) as screen:
        assert screen.wait_ended() == 1
        assert b"ZeroDivisionError" in screen.raw.rpartition(LEAVE)[2]
        assert screen.attributes() == screen.before


def test_no_colours_for_who_wants_none(host: Host) -> None:
    with on_screen("top", environment={**host.environment, "NO_COLOR": "1"}) as screen:
        screen.wait_until(lambda text: "till.greet" in text)
        assert screen.is_plain()
        screen.type("Q")
        assert screen.wait_ended() == 0


def test_keys_as_they_were(host: Host) -> None:
    """Even modes that a terminal has by default are restored."""
    with on_screen("top", environment=host.environment) as screen:
        flags = screen.before[3]
        assert isinstance(flags, int)
        assert flags & termios.ECHO
        screen.wait_until(lambda text: "till.greet" in text)
        during = screen.attributes()[3]
        assert isinstance(during, int)
        assert not during & termios.ECHO
        screen.type("q")
        assert screen.wait_ended() == 0
        assert screen.attributes()[3] == flags


def test_once_for_scripts(asking: Host, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", "--interval", "0.2", "--sort", "memory"]) == 0
    output, errors = capfd.readouterr()
    assert errors == ""
    assert "\x1b" not in output
    assert "till-1#1" in output
    assert all(len(line) <= COLUMNS for line in output.splitlines())
    assert main(["top", "--once", "--json"]) == 0
    snapshot = json.loads(capfd.readouterr().out)
    assert snapshot["deployments"][0]["name"] == "till"
    rates = snapshot["rates"]
    assert rates["seconds"] > 0
    assert rates["deployments"]["till"]["functions"]["greet"]["calls_per_second"] == 0
    assert rates["deployments"]["till"]["instances"]["process:till-1#1"]["cpu_share"] >= 0


def test_json_for_ever(host: Host) -> None:
    with subprocess.Popen(
        [*COMMAND, "top", "--json", "--interval", "0.2"],
        env={**os.environ, **host.environment},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        shown = [json.loads(process.stdout.readline()) for _ in range(3)]
        times = [each["time"] for each in shown]
        assert times == sorted(set(times))
        assert shown[0]["rates"] is None
        assert shown[2]["rates"]["seconds"] == times[2] - times[1]
        process.stdout.close()  # the reader has closed the pipe
        assert process.wait(PATIENCE_SECONDS) == 141


def test_where_there_is_no_terminal(asking: Host, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["top"]) == 2
    assert "is not a terminal: use `spear top --once`" in capfd.readouterr().err
    assert main(["top", "--interval", "0.1"]) == 2
    assert "--interval must be from 0.2 to 60 seconds" in capfd.readouterr().err
