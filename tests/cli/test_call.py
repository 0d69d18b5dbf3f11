"""``spear call`` in a directory that is not ours; as a process wherever that could matter."""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from .helpers import COMMAND, PATIENCE_SECONDS, Run, Terminal, is_alive, read_until, wait_dead

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # each starts processes


def test_the_result_is_json_on_standard_output(terminal: Terminal) -> None:
    done = terminal.run("call", "shop.py:price", "tea", "--currency", "GBP")
    assert (done.status, done.output, done.errors) == (0, b'"tea GBP 0 0"\n', "")


def test_every_kind_of_value(run: Run, here: Path) -> None:
    (here / "order.json").write_text('{"item": "tea"}')
    (here / "photo").write_bytes(b"\xff")
    done = run(
        "call", "shop.py:kinds", "text", "7", "-7", "[1]", "@order.json", "@photo", "-", stdin=b"in"
    )
    assert json.loads(done.output) == ["str", "int", "int", "list", "dict", "bytes", "bytes"]


def test_bytes_go_through_a_pipe(terminal: Terminal) -> None:
    data = os.urandom(1_000_000)
    done = terminal.run("call", "shop.py:reverse", "-", stdin=data)
    assert (done.status, done.output, done.errors) == (0, data[::-1], "")


def test_what_json_has_no_word_for(run: Run) -> None:
    done = run("call", "shop.py:odd")
    result = json.loads(done.output)
    assert result["bytes"] == {"$bytes": "/wA="}
    assert result['{"$bytes": "a2V5"}'] == [None, 1.5, "größe"]
    done = run("call", "shop.py:huge")
    assert (done.status, done.output) == (70, b"")
    assert done.errors.startswith("spear: the result cannot be printed: ")


def test_a_stream_is_printed_as_it_comes(terminal: Terminal) -> None:
    with terminal.start("call", "shop.py:one_and_wait") as process:
        assert read_until(process.stdout, b"first") == b'"first"\n'
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130


def test_streams_of_values_and_of_bytes(run: Run) -> None:
    assert run("call", "shop.py:count", "3").output == b"0\n1\n2\n"
    assert run("call", "shop.py:pieces", "3").output == b"0;1;2;"


def test_a_reader_that_has_had_enough_ends_it(terminal: Terminal) -> None:
    command = f"{' '.join(COMMAND)} call shop.py:fountain; echo $? >&2"
    done = subprocess.run(
        ["sh", "-c", f"({command}) | head -c 100"],
        cwd=terminal.place,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert len(done.stdout) == 100
    assert done.stderr == b"141\n"


def test_a_reader_that_pauses_does_not_stop_the_rest(terminal: Terminal) -> None:
    """The pipe is full and nobody reads, as with a pager: it still hears what else there is."""
    with terminal.start("call", "shop.py:fountain") as process:
        assert process.stdout is not None
        capacity = fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        select.select([process.stdout], [], [])
        waiting = array.array("i", [0])
        while waiting[0] < capacity:
            assert process.poll() is None
            fcntl.ioctl(process.stdout, termios.FIONREAD, waiting)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 143


# -- how it ends ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["shop.py:boom"], 1, "ValueError: it broke"),
        (["shop.py:price", "--colour", "red"], 3, "price() takes no 'colour'"),
        (["shop.py:prise"], 4, "shop has no function 'prise'; did you mean 'price'?"),
        (["shop.py:wait", "--timeout", "0.01"], 5, "wait took longer than"),
        (["shop.py:crash"], 7, "process:shop-1#1 exited with status 3"),
        (["shop.py:full"], 8, "no room"),
        (["shop.py:refuse"], 9, "not today"),
        (["missing.py:price"], 2, "missing.py is not a file that can be read"),
        (["missing.module:price"], 6, "process:module-1#1 did not start"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_each_failure_has_its_status(run: Run, words: list[str], status: int, message: str) -> None:
    done = run("call", *words)
    assert (done.status, done.output) == (status, b"")
    last = done.errors.splitlines()[-1]
    if status == 5 and not last.startswith("spear: wait took"):
        message = "the call's time is up"  # the function's process was faster
    assert last.startswith("spear: ")
    assert message in last
    assert "Traceback" not in done.errors


def test_what_came_before_a_failure_is_printed(terminal: Terminal) -> None:
    done = terminal.run("call", "shop.py:one_and_fail")
    assert (done.status, done.output) == (1, b'"first"\n')
    assert done.errors == "spear: ValueError: no second\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(:", "broken.py, line 1: SyntaxError: "),
        ("import no_such_library", "broken.py, line 1: ModuleNotFoundError: No module named"),
        ("import spear", "broken.py defines no spear.Agent; add"),
        (
            "import spear\na = spear.Agent()\nb = spear.Agent()",
            "choose one of broken.py:a, broken.py:b",
        ),
    ],
    ids=["syntax", "import", "no agent", "two agents"],
)
def test_a_file_that_does_not_load(run: Run, here: Path, code: str, said: str) -> None:
    (here / "broken.py").write_text(code)
    done = run("call", "broken.py:anything")
    assert done.status == 6
    *shown, last = done.errors.splitlines()
    assert last == "spear: process:broken-1#1 did not start: it exited with status 2"
    assert said in shown[-1]
    assert shown[-1].startswith("process:broken-1#1 stderr: ")


def test_one_of_two_agents(run: Run, here: Path) -> None:
    (here / "two.py").write_text("from shop import app\nimport spear\nother = spear.Agent()\n")
    assert run("call", "two.py:app:price", "tea").status == 0
    assert run("call", "two.py:other:price", "tea").status == 4


def test_control_characters_do_not_reach_the_terminal(run: Run) -> None:
    done = run("call", "shop.py:boom", '"\\u001b[31mred\\u001b[0m\\r\\nspear: all is well"')
    assert done.errors == "spear: ValueError: \\x1b[31mred\\x1b[0m\\r\nspear: all is well\n"


# -- what the function writes -----------------------------------------------------------------


def test_what_the_function_writes_is_shown_beside_the_result(run: Run) -> None:
    done = run("call", "shop.py:speak", "hello")
    assert (done.status, done.output) == (0, b'"said"\n')
    assert sorted(done.errors.splitlines()) == [
        "process:shop-1#1 stderr: I spear.function.speak[1]: log hello",
        "process:shop-1#1 stderr: err hello",
        "process:shop-1#1 stdout: out hello",
    ]


def test_last_words_are_shown_once(terminal: Terminal) -> None:
    done = terminal.run("call", "shop.py:crash")
    assert done.errors == (
        "process:shop-1#1 stderr: last words\nspear: process:shop-1#1 exited with status 3\n"
    )


def test_verbose_shows_the_life_of_the_call(run: Run) -> None:
    done = run("call", "--verbose", "shop.py:speak", "hello", "--replicas=2")
    assert (done.status, done.output) == (0, b'"said"\n')
    story = [
        "process:shop-1#1 is created", "is starting pid", "authenticated", "is ready",
        "speak: the call begins", "stdout: out hello", "speak: completed on process:shop-",
        "is draining", "exited with status 0", "is deleted",
    ]  # fmt: skip
    for line in story:
        assert line in done.errors
    assert "process:shop-2#1 is deleted" in done.errors
    done = run("call", "shop.py:count", "3", "--verbose")
    assert "count: the stream ended after 3 items" in done.errors
    done = run("call", "shop.py:one_and_fail", "--verbose")
    assert "one_and_fail: the stream failed after 1 items" in done.errors
    done = run("call", "shop.py:boom", "--verbose")
    assert "boom: failed on process:shop-1#1 after " in done.errors


def test_debug_shows_tracebacks(run: Run) -> None:
    done = run("call", "shop.py:boom", "--debug")
    assert done.status == 1
    assert "raise ValueError(text)\nValueError: it broke" in done.errors


# -- options ----------------------------------------------------------------------------------


def test_options_before_and_behind_the_target(run: Run) -> None:
    for words in (
        ["--replicas", "2", "--timeout", "30", "--verbose", "--debug", "shop.py:price", "tea"],
        ["shop.py:price", "tea", "--replicas=2", "--timeout=30", "--verbose", "--debug"],
        ["--verbose", "shop.py:price", "--replicas", "2", "tea", "--debug"],
    ):
        done = run("call", *words)
        assert (done.status, done.output) == (0, b'"tea EUR 0 0"\n')
        assert "process:shop-2#1 is ready" in done.errors


def test_behind_a_separator_all_is_the_functions(run: Run) -> None:
    done = run("call", "shop.py:price", "--", "--timeout", "3", "--replicas=4", "tea")
    assert (done.status, done.output) == (0, b'"tea EUR 3 4"\n')
    done = run("call", "shop.py:echo", "--", "--verbose", "true", "--self", "1")
    assert json.loads(done.output) == [{"verbose": True, "self": 1}]


def test_functions_with_odd_names(run: Run) -> None:
    assert run("call", "shop.py:trig.sine").output == b"0\n"


def test_modules_are_found_from_here(run: Run, here: Path) -> None:
    assert run("call", "shop:price", "tea").output == b'"tea EUR 0 0"\n'
    (here / "company").mkdir()
    (here / "company" / "__init__.py").touch()
    (here / "company" / "stall.py").write_text("from shop import app")
    assert run("call", "company.stall:price", "tea").output == b'"tea EUR 0 0"\n'


def test_a_file_elsewhere(terminal: Terminal, here: Path) -> None:
    (here / "deep" / "er").mkdir(parents=True)
    deeper = Terminal(here / "deep" / "er")
    assert deeper.run("call", "../../shop.py:price", "tea").output == b'"tea EUR 0 0"\n'
    assert deeper.run("call", f"{here}/shop.py:price", "tea").output == b'"tea EUR 0 0"\n'


# -- signals and closed descriptors -----------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_its_instances(
    terminal: Terminal, number: signal.Signals, status: int
) -> None:
    with terminal.start("call", "shop.py:wait", "--replicas", "2") as process:
        line = read_until(process.stderr, b"waiting in")
        instance = int(line.split()[-1])
        assert is_alive(instance)
        process.send_signal(number)
        assert process.wait(PATIENCE_SECONDS) == status
        assert process.stderr is not None
        assert process.stderr.read() == b""
        wait_dead(instance)


def test_killed_it_takes_its_instances_along(
    terminal: Terminal, own_temporary_directory: Path
) -> None:
    with terminal.start("call", "shop.py:wait") as process:
        instance = int(read_until(process.stderr, b"waiting in").split()[-1])
        process.kill()
        process.wait(PATIENCE_SECONDS)
        wait_dead(instance)
    for path in own_temporary_directory.iterdir():  # nobody was there to do it
        for each in path.iterdir():
            each.unlink()
        path.rmdir()


def test_without_standard_input_and_output(terminal: Terminal) -> None:
    def run(redirections: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {redirections}', "sh", *COMMAND, "call", *words],
            cwd=terminal.place,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    assert run("<&-", "shop.py:price", "tea").stdout == b'"tea EUR 0 0"\n'
    assert run("<&-", "shop.py:size", "-").stdout == b"0\n"
    done = run(">&-", "shop.py:price", "tea")
    assert (done.returncode, done.stderr) == (2, b"spear: standard output is closed\n")
    done = run("2>&-", "shop.py:speak", "hello")
    assert (done.returncode, done.stdout) == (0, b'"said"\n')
    done = run("> /dev/full", "shop.py:price", "tea")
    assert done.returncode == 70
    assert done.stderr == b"spear: cannot write to standard output: No space left on device\n"


def test_it_is_a_module_too(terminal: Terminal) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spear.cli", "call", "shop.py:price", "tea"],
        cwd=terminal.place,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b'"tea EUR 0 0"\n')
