"""``spear dev`` and ``spear attach``: real hosts, terminals and editors' saves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from .helpers import COMMAND, PATIENCE_SECONDS, Run, Terminal
from .screens import on_screen
from .serving import Host, serving, wait_until

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import helper
import spear

app = spear.Agent()


@app.function
async def stop(value: int) -> int:
    breakpoint()
    return value + helper.MORE


@app.function
async def more() -> int:
    return helper.MORE


@app.function
async def fail() -> int:
    return {}["missing"]
"""


def write_program(place: Path) -> None:
    (place / "prog.py").write_text(PROGRAM)
    (place / "helper.py").write_text("MORE = 1")


def save(path: Path, text: str) -> None:
    """Save a file as many editors do: write another one, and rename it."""
    other = path.with_suffix(".tmp")
    other.write_text(text)
    os.replace(other, path)


def output_of(call: subprocess.Popen[bytes]) -> str:
    output, errors = call.communicate(timeout=PATIENCE_SECONDS)
    return (output + errors).decode().strip()


def invoke(host: Host, function: str) -> str:
    """Return the result of a function without arguments."""
    return ask(host, "POST", f"/v1/functions/{function}/call")


def ask(host: Host, method: str, path: str) -> str:
    connection = host.connect()
    try:
        connection.request(method, path)
        return connection.getresponse().read().decode().strip()
    finally:
        connection.close()


def wait_ready(host: Host, incarnation: int) -> None:
    """Wait until an incarnation of the only instance takes calls."""

    def is_ready() -> bool:
        instances = json.loads(ask(host, "GET", "/v1/instances"))["instances"]
        return any(
            (each["incarnation"], each["state"]) == (incarnation, "ready") for each in instances
        )

    wait_until(is_ready)


@pytest.mark.slow
def test_a_breakpoint_on_the_terminal_of_the_host(here: Path) -> None:
    write_program(here)
    (here / "run").mkdir(mode=0o700)
    environment = {"XDG_RUNTIME_DIR": str(here / "run")}

    def call() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*COMMAND, "invoke", "stop", "1"],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    words = ("dev", "prog.py", "--listen", "127.0.0.1:0")
    with on_screen(*words, environment=environment) as screen:
        screen.wait_until(lambda text: "control socket" in text)
        with call() as first:
            screen.wait_until(lambda text: text.count("(Pdb)") == 1)
            screen.type("nonsense\x03")  # Ctrl-C drops the line
            screen.wait_until(lambda text: text.count("(Pdb)") == 2)
            screen.type("value = 41\n")
            screen.wait_until(lambda text: text.count("(Pdb)") == 3)
            screen.type("c\n")
            assert output_of(first) == "42"
        with call() as second:
            screen.wait_until(lambda text: text.count("(Pdb)") == 4)
            screen.type("\x04")  # Ctrl-D detaches
            assert output_of(second) == "2"
        screen.wait_until(lambda text: "goes on: its terminal was detached" in text)
        with call() as third:
            screen.wait_until(lambda text: text.count("(Pdb)") == 5)
            screen.close()  # the window
            assert output_of(third) == "2"
        assert screen.process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.slow
def test_a_second_terminal_and_a_save_while_an_instance_stands_still(here: Path) -> None:
    write_program(here)
    with serving(here, "prog.py", command="dev") as host:
        with host.invoke("stop", "1", "--timeout", "0.001") as call:
            host.hear("attach a terminal with: spear attach prog-1")
            with on_screen("attach", "prog-1", environment=host.environment) as screen:
                screen.wait_until(lambda text: "(Pdb)" in text)
                screen.type("value = 5\n")
                screen.wait_until(lambda text: text.count("(Pdb)") == 2)
                assert "another terminal is attached to prog-1" in _attach(host, "prog-1")
                save(here / "helper.py", "MORE = 20")
                host.hear("helper.py changed")
                wait_ready(host, 2)
                assert invoke(host, "more") == "20"
                save(here / "helper.py", "MORE = 300")  # while the first reload waits
                wait_ready(host, 3)
                assert invoke(host, "more") == "300"
                screen.type("half a line\x03")
                screen.wait_until(lambda text: text.count("(Pdb)") == 3)
                screen.type("c\n")
                assert output_of(call) == "6"  # by the code that the instance was loaded with
                screen.wait_until(lambda text: "prog-1 goes on" in text)
                screen.type("\x03")
                assert screen.wait_ended() == 130
        with host.invoke("stop", "1") as call:
            host.hear("attach a terminal")
            with on_screen("attach", "prog", environment=host.environment) as screen:
                screen.wait_until(lambda text: "(Pdb)" in text)
                screen.close()  # the window
                assert output_of(call) == "301"
        with host.invoke("stop", "1") as call:
            host.hear("attach a terminal")
            assert host.end(signal.SIGINT)[0] == 0
            assert output_of(call) == "301"


def _attach(host: Host, *words: str) -> str:
    with host.ask("attach", "--once", *words) as attached:
        return output_of(attached)


@pytest.mark.slow
def test_errors_of_saves_and_calls_are_shown_and_the_old_code_goes_on(here: Path) -> None:
    write_program(here)
    with serving(here, "prog.py", "--allow-control", command="dev") as host:
        assert "KeyError" in invoke(host, "fail")
        host.hear("prog.fail failed on process:prog-1#1")
        host.hear('return {}["missing"]')
        save(here / "prog.py", "def (")
        host.hear("SyntaxError: invalid syntax")
        host.hear("reload failed; nothing was changed")
        assert invoke(host, "more") == "1"
        save(here / "prog.py", PROGRAM + "\nraise OSError('disk')")
        host.hear("OSError: disk")
        host.hear("the deployment is unchanged")
        assert invoke(host, "more") == "1"
        save(here / "prog.py", PROGRAM.replace("helper.MORE", "7"))
        host.hear("reloaded: prog restarted")
        assert invoke(host, "more") == "7"
        refused = json.loads(ask(host, "GET", "/v1/instances/prog-1/attach"))["error"]
        assert refused["code"] == "forbidden"
        assert "through the control socket" in refused["message"]
        assert "there is no instance" in _attach(host, "other")


@pytest.mark.slow
def test_a_program_that_does_not_start_is_started_by_its_next_save(here: Path) -> None:
    write_program(here)
    (here / "helper.py").write_text("MORE = 1 / 0")
    (here / "spear.toml").write_text(
        "[functions.prog]\nsource = 'prog.py'\n"
        "[functions.prog.timeouts]\nstartup_seconds = 0.01\n"  # of no effect
    )
    with serving(here, command="dev") as host:
        host.hear("save a file to try again")
        (here / "helper.py").unlink()  # as some editors do
        (here / "helper.py").write_text("breakpoint()\nMORE = 4")
        host.hear("attach a terminal with: spear attach prog-1")
        with host.ask("attach", "--once", "prog-1") as attached:  # while it is being loaded
            assert "is at a breakpoint: helper.py:1" in output_of(attached)
        host.hear("reloaded: prog deployed")
        assert invoke(host, "more") == "4"
        with (here / "spear.toml").open("a") as file:
            file.write("[functions.again]\nsource = 'prog.py'\n")
        host.hear("spear.toml changed")
        host.hear("attach a terminal with: spear attach again-1")
        with host.ask("attach", "--once", "again") as attached:
            output_of(attached)
        host.hear("reloaded: again deployed")


@pytest.mark.slow
def test_a_breakpoint_without_a_development_host_is_passed_over(
    here: Path, terminal: Terminal
) -> None:
    write_program(here)
    done = terminal.run("call", "prog.py:stop", "1")
    assert (done.status, done.output) == (0, b"2\n")
    assert "breakpoint() at prog.py:10 in stop was passed over" in done.errors
    assert "only `spear dev` has a debugger" in done.errors
    done = terminal.run("call", "prog.py:stop", "1", "--env", "PYTHONBREAKPOINT=0")
    assert (done.status, done.output, done.errors) == (0, b"2\n", "")


def test_a_command_line_without_a_source(run: Run) -> None:
    done = run("dev")
    assert done.status == 2
    assert "use spear dev FILE.py" in done.errors
    assert "usage: spear dev" in done.errors
