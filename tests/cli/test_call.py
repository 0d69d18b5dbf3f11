"""``spear call`` in a directory outside of the repository; in a new process where that could matter."""

from __future__ import annotations

import array
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from .helpers import (
    COMMAND,
    NO_OUTPUT,
    PATIENCE_SECONDS,
    Run,
    Terminal,
    is_alive,
    read_until,
    wait_dead,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # each test starts processes


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


def test_words_for_text_stay_text(run: Run) -> None:
    done = run("call", "shop.py:price", "1.10", "--currency", "7", "--", "--timeout", "3")
    assert (done.status, done.output) == (0, b'"1.10 7 3 0"\n')
    done = run("call", "shop.py:price", '"1.10"')
    assert (done.status, done.output) == (0, b'"1.10 EUR 0 0"\n')


def test_a_repeated_name_is_a_list_and_text_for_a_list_is_explained(run: Run, here: Path) -> None:
    (here / "tags.py").write_text(
        "import datetime, spear\napp = spear.Agent()\n\n\n@app.function\n"
        "def tags(tag: list[str], days: list[datetime.date] = [], old: bool = False) -> list[object]:\n"
        "    return [tag, days, old]\n"
    )
    done = run(
        "call", "tags.py:tags", "--tag", "a", "--tag", "1", "--days", "2026-01-31", "--old", "True"
    )
    assert json.loads(done.output) == [["a", "1"], [{"$date": "2026-01-31"}], True]
    done = run("call", "tags.py:tags", "[a]", "[2026-01-31]")
    assert done.status == 3
    assert done.errors.splitlines()[-1] == """hint: pass a list as JSON, as in '["a", "b"]'"""
    done = run("call", "tags.py:tags", "[]", "[2026-01-31]")
    assert done.errors.splitlines()[-1] == """hint: pass a list as JSON, as in '["2026-01-31"]'"""
    done = run("call", "tags.py:tags", "--old", "1", "--old", "0")
    assert "--old is given twice, and takes no list" in done.errors


def test_bytes_go_through_a_pipe(terminal: Terminal) -> None:
    data = os.urandom(1_000_000)
    done = terminal.run("call", "shop.py:reverse", "-", stdin=data)
    assert (done.status, done.output, done.errors) == (0, data[::-1], "")


def test_what_json_has_no_word_for(run: Run) -> None:
    done = run("call", "shop.py:odd")
    result = json.loads(done.output)
    assert result["bytes"] == {"$bytes": "/wA="}
    assert result['{"$bytes": "a2V5"}'] == [None, 1.5, "größe"]
    assert result["nan"] == {"$float": "nan"}
    assert run("call", "shop.py:huge").output == b"1" + b"0" * 5000 + b"\n"
    assert run("call", "shop.py:echo", "9" * 5000).output == b"9" * 5000 + b"\n"


def test_a_stream_is_printed_as_it_comes(terminal: Terminal) -> None:
    with terminal.start("call", "shop.py:one_and_wait") as process:
        assert read_until(process.stdout, b"first") == b'"first"\n'
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130


def test_who_does_not_read_standard_error_stops_nothing(terminal: Terminal) -> None:
    """Writes four times as much as a pipe holds."""
    with terminal.start("call", "shop.py:complain", "12000") as process:
        assert read_until(process.stdout, b"said") == b'"said"\n'
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130


def test_the_time_is_up_also_while_nobody_reads_the_output(terminal: Terminal) -> None:
    with terminal.start("call", "shop.py:count", "1000000", "--timeout", "1") as process:
        assert process.wait(PATIENCE_SECONDS) == 5
        assert b"count took longer than 1 s" in read_until(process.stderr, b"1 s")


@pytest.mark.parametrize("word", ["-", "@large"])
def test_bytes_may_be_larger_than_a_message(terminal: Terminal, word: str) -> None:
    large = terminal.place / "large"
    with large.open("wb") as file:
        file.truncate(40 << 20)
    with large.open("rb") as zeros:
        done = subprocess.run(
            [*COMMAND, "call", "shop.py:size", word],
            cwd=terminal.place,
            stdin=zeros,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b"%d\n" % (40 << 20)), done.stderr


def test_what_is_printed_can_be_given_back(run: Run) -> None:
    for text in '{"$bytes": "/wA="}', '{"$float": "-inf"}', '{"$other": "x"}', '{"$bytes": 1}':
        value = f"[{text}]"
        assert run("call", "shop.py:echo", value).output.decode() == f"{value}\n"
    assert run("call", "shop.py:echo", '{"$bytes": "/wA="}').output == b"\xff\0"
    assert run("call", "shop.py:echo", '{"$bytes": "no"}').status == 2


def test_a_map_with_a_key_that_stands_there_twice_is_refused(run: Run) -> None:
    done = run("call", "shop.py:echo", '{"a": 1, "a": 2}')
    assert done.status == 2
    assert "a map has the same key twice" in done.errors


def test_streams_of_values_and_of_bytes(run: Run) -> None:
    assert run("call", "shop.py:count", "3").output == b"0\n1\n2\n"
    assert run("call", "shop.py:pieces", "3").output == b"0;1;2;"


def test_a_terminal_that_goes_away_leaves_nothing(terminal: Terminal) -> None:
    """The directory of the test's temporary files is empty afterwards."""
    # Under nohup this process ignores the signal, and children inherit that.
    code = "import os, signal, sys; signal.signal(1, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", code, *COMMAND, "call", "shop.py:wait"]
    with subprocess.Popen(command, cwd=terminal.place, stderr=subprocess.PIPE) as process:
        try:
            line = read_until(process.stderr, b"waiting in")
            process.send_signal(signal.SIGHUP)
            assert process.wait(PATIENCE_SECONDS) == 129
        finally:
            process.kill()
    wait_dead(int(line.split()[-1]))


def test_under_nohup_it_goes_on(terminal: Terminal) -> None:
    code = "import os, signal, sys; signal.signal(1, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", code, *COMMAND, "call", "shop.py:one_and_wait"]
    with subprocess.Popen(command, cwd=terminal.place, stdout=subprocess.PIPE) as process:
        try:
            read_until(process.stdout, b"first")
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 143
        finally:
            process.kill()


def test_an_interrupt_while_it_is_being_loaded_shows_no_traceback() -> None:
    code = """
import os, signal, sys
import spear.cli

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "trio":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
spear.cli.main(["call", "shop.py:price"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


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
    """The pipe is full, as with a paused pager: the command still handles other events."""
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


# -- exit statuses and signals ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["shop.py:boom"], 1, "ValueError: it broke"),
        (["shop.py:prise"], 4, "shop has no function 'prise'; did you mean 'price'?"),
        (["shop.py:wait", "--timeout", "0.05"], 5, "spear: wait took longer than 0.05 s"),
        (["shop.py:crash"], 7, "process:shop-1#1 exited with status 3"),
        (["shop.py:full"], 8, "no room"),
        (["shop.py:too_large"], 9, "the payload has 1073741825 bytes"),
        (["missing.py:price"], 2, "missing.py was not found or is not readable"),
        (["missing.module:price"], 6, "process:module-1#1 did not start"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_each_failure_has_its_status(run: Run, words: list[str], status: int, message: str) -> None:
    done = run("call", *words)
    assert (done.status, done.output) == (status, b"")
    last = done.errors.splitlines()[-1]
    assert last.startswith("spear: ")
    assert message in last
    assert "Traceback" not in done.errors


def test_a_file_that_takes_too_long_to_load_is_given_up(run: Run, here: Path) -> None:
    (here / "sleepy.py").write_text("import signal\nsignal.pause()\n")
    done = run("call", "sleepy.py:price", "--startup-seconds", "1")
    assert (done.status, done.output) == (6, b"")
    assert "because it did not log in within 1 s (startup_seconds)" in done.errors


def test_no_time_to_start_is_refused(run: Run) -> None:
    done = run("call", "shop.py:price", "--startup-seconds", "0")
    assert done.status == 2
    assert "--startup-seconds must be more than 0 seconds, not 0" in done.errors


def test_wrong_arguments_are_told_with_the_right_ones(run: Run) -> None:
    done = run("call", "shop.py:price", "--colour", "red")
    assert (done.status, done.output) == (3, b"")
    assert done.errors.splitlines() == [
        "spear: price() takes no argument 'colour'",
        "usage: price(item: str, *, currency: str = 'EUR', timeout: int = 0, replicas: int = 0) -> str",
    ]
    done = run("call", "shop.py:count", "many")
    assert done.errors.splitlines() == [
        "spear: count(number=...): expected int, got str",
        "usage: count(number: int) -> AsyncIterator[int]",
    ]


def test_wrong_arguments_are_told_though_nobody_knows_the_right_ones(run: Run, here: Path) -> None:
    (here / "odd.py").write_text(
        """
import spear

app = spear.Agent()


class Unspeakable:
    def __repr__(self):
        raise ValueError


@app.function
async def obscure(number: int, detail: object = Unspeakable()) -> None:
    pass
"""
    )
    done = run("call", "odd.py:obscure", "many")
    assert (done.status, done.errors) == (3, "spear: obscure(number=...): expected int, got str\n")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["flag", "--loud", "yes"], "pass true or false"),
        (["size", "text"], "pass the bytes of a file as @FILE"),
        (
            ["needs", "--timeout", "30"],
            "--timeout is an option of spear; put it after -- to pass it",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_arguments_come_with_a_hint(
    run: Run, here: Path, words: list[str], hint: str
) -> None:
    name, *rest = words
    done = run("call", f"shop.py:{name}", *rest)
    assert (done.status, done.output) == (3, b"")
    said, usage, *hints = done.errors.splitlines()
    assert said.startswith(f"spear: {name}(")
    assert usage.startswith(f"usage: {name}(")
    assert len(hints) == 1
    assert hints[0].startswith(f"hint: {hint}")


def test_help_for_a_function_is_its_signature(run: Run) -> None:
    signature = (
        b"price(item: str, *, currency: str = 'EUR', timeout: int = 0, replicas: int = 0) -> str\n"
    )
    done = run("call", "shop.py:price", "--help", "-", "@nothing")
    assert (done.status, done.output, done.errors) == (0, signature, "")
    done = run("call", "shop.py", "--help")
    assert done.status == 0
    assert signature in done.output
    assert run("call", "shop.py:echo", "--", "--help", "me").output == b'[{"help": "me"}]\n'
    assert run("call", "shop.py:prise", "--help").status == 4


@pytest.mark.parametrize("target", ["shop.py", "shop.py:"])
def test_without_a_function_there_is_a_list(run: Run, here: Path, target: str) -> None:
    done = run("call", target)
    assert (done.status, done.output) == (2, b"")
    first, *lines = done.errors.splitlines()
    assert first == "spear: 'shop.py' names no function; its functions are"
    assert "  count(number: int) -> AsyncIterator[int]" in lines
    (here / "none.py").write_text("import spear\napp = spear.Agent()\n")
    assert run("call", "none.py").errors == (
        "spear: 'none.py' registers no functions: put `@app.function` above each of them\n"
    )


def test_a_function_that_fails_ends_in_good_order(run: Run) -> None:
    for words, status in (
        (["shop.py:boom"], 1), (["shop.py:price"], 3), (["shop.py:prise"], 4), (["shop.py:full"], 8),
        (["shop.py:too_large"], 9), (["shop.py:one_and_fail"], 1),
    ):  # fmt: skip
        done = run("call", *words, "--env", "FAREWELL=good bye")
        assert done.status == status
        assert "process:shop-1#1 stdout: good bye\n" in done.errors
    done = run("call", "shop.py:wait", "--timeout", "0.05", "--env", "FAREWELL=good bye")
    assert done.status == 5
    assert "good bye" not in done.errors  # its state is unknown


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
    report = shown[-1].removeprefix("process:broken-1#1 stderr: spear: ")
    assert said in report
    assert last == f"spear: process:broken-1#1 did not start: it exited with status 2: {report}"


def test_a_file_whose_last_words_are_its_own_does_not_repeat_them(run: Run, here: Path) -> None:
    (here / "broken.py").write_text("import os\nprint('spare', flush=True)\nos._exit(2)\n")
    done = run("call", "broken.py:anything")
    last = done.errors.splitlines()[-1]
    assert (done.status, last) == (
        6, "spear: process:broken-1#1 did not start: it exited with status 2"
    )  # fmt: skip


@pytest.mark.parametrize("definition", ["def work(item):", "async def work(item):"])
@pytest.mark.parametrize("command", [("call",), ("map", "--input", "plain.py", "-j1")])
def test_a_function_that_is_not_registered_says_so(
    run: Run, here: Path, command: tuple[str, ...], definition: str
) -> None:
    plain = f"import spear\napp = spear.Agent()\n{definition}\n    return item\n"
    (here / "plain.py").write_text(plain)
    done = run(*command, "plain.py:work")
    assert (done.status, done.output) == (4, b"")
    assert done.errors == (
        "spear: plain has no function 'work': plain.py defines work(), but does not register it; put "
        "`@app.function` above `def work`\n"
    )


def test_one_of_two_agents(run: Run, here: Path) -> None:
    (here / "two.py").write_text("from shop import app\nimport spear\nother = spear.Agent()\n")
    assert run("call", "two.py:app:price", "tea").status == 0
    assert run("call", "two.py:other:price", "tea").status == 4


def test_control_characters_do_not_reach_the_terminal(run: Run) -> None:
    done = run("call", "shop.py:boom", '"\\u001b[31mred\\u001b[0m\\r\\nspear: all is well"')
    assert done.errors == "spear: ValueError: \\x1b[31mred\\x1b[0m\\r\nspear: all is well\n"


# -- output of the function -------------------------------------------------------------------


def test_what_the_function_writes_is_shown_beside_the_result(run: Run) -> None:
    done = run("call", "shop.py:speak", "hello")
    assert (done.status, done.output) == (0, b'"said"\n')
    assert sorted(done.errors.splitlines()) == [
        "process:shop-1#1 stderr: I spear.function.speak[1]: log hello",
        "process:shop-1#1 stderr: err hello",
        "process:shop-1#1 stdout: out hello",
    ]


def test_nothing_that_the_function_writes_comes_between_the_bytes_of_the_result(
    terminal: Terminal,
) -> None:
    done = terminal.run("call", "shop.py:write_everywhere")
    assert (done.status, done.output) == (0, b'"said"\n')
    assert set(done.errors.splitlines()) >= {
        "process:shop-1#1 stdout: by the system",
        "process:shop-1#1 stdout: by a child",
    }
    assert "written without an end of line" in done.errors


def test_all_that_the_function_writes_is_shown(run: Run) -> None:
    done = run("call", "shop.py:chatter", "5000")
    assert (done.status, done.output) == (0, b"5000\n")
    assert done.errors.splitlines() == [f"process:shop-1#1 stdout: line {n}" for n in range(5000)]


def test_last_words_are_shown_once(terminal: Terminal) -> None:
    done = terminal.run("call", "shop.py:crash")
    assert done.errors == (
        "process:shop-1#1 stderr: last words\nspear: process:shop-1#1 exited with status 3\n"
    )


def story_of(errors: str) -> list[str]:
    """Return the lines of --verbose without their times and process ids."""
    lines = []
    for line in errors.splitlines():
        time, what = re.fullmatch(r" *([\d.]+) ms  (.*)", line).groups()  # type: ignore[union-attr]  # all lines match
        assert 0 <= float(time) < PATIENCE_SECONDS * 1e3
        lines.append(re.sub(r"pid \d+|[\d.]+ ms", "N", what))
    return lines


BEGINNING = [
    "process:shop-1#1 is created",
    "process:shop-1#1 is starting: N",
    "process:shop-1#1 is ready",
]
END = [
    "process:shop-1#1 is draining: it was stopped",
    "process:shop-1#1 exited with status 0, because it was stopped",
    "process:shop-1#1 was deleted, with its process group, socket and directory",
]
HERE = "on process:shop-1#1"


@pytest.mark.parametrize(
    ("words", "middle"),
    [
        (
            ["price", "tea"],
            ["price was called (+N)", f"price returned 14 bytes after running for N, {HERE} (+N)"],
        ),
        (
            ["count", "3"],
            [
                f"count was called, {HERE} (+N)",
                "count sent its first item (+N)",
                "count ended after 3 items (+N)",
            ],
        ),
        (["count", "0"], [f"count was called, {HERE} (+N)", "count ended after 0 items (+N)"]),
        (
            ["one_and_fail"],
            [
                f"one_and_fail was called, {HERE} (+N)",
                "one_and_fail sent its first item (+N)",
                "one_and_fail failed after 1 item with FunctionRaised (delivered: yes) (+N)",
            ],
        ),
        (
            ["boom"],
            [
                "boom was called (+N)",
                f"boom failed with FunctionRaised (delivered: yes), {HERE} (+N)",
            ],
        ),
    ],
    ids=lambda value: value[0],
)
def test_verbose_tells_the_life_of_the_call(run: Run, words: list[str], middle: list[str]) -> None:
    done = run("call", "--verbose", f"shop.py:{words[0]}", *words[1:])
    told = "".join(done.errors.partition("spear: ")[0])
    assert story_of(told) == [*BEGINNING, *middle, *END]


def test_verbose_tells_of_every_process_and_of_what_it_writes(run: Run) -> None:
    done = run("call", "shop.py:speak", "hello", "--verbose", "--replicas=2")
    assert (done.status, done.output) == (0, b'"said"\n')
    story = story_of(done.errors)
    for number in (1, 2):
        life = [line for line in BEGINNING + END if "#1" in line]
        there = [line.replace("shop-1", f"shop-{number}") for line in life]
        assert [line for line in story if line in there] == there
    begin, end = (story.index(line) for line in story if line.startswith("speak "))
    assert begin < end
    written = [
        line.partition(" ")[2] for line in story if " stdout: " in line or " stderr: " in line
    ]
    assert sorted(written) == [
        "stderr: I spear.function.speak[1]: log hello",
        "stderr: err hello",
        "stdout: out hello",
    ]


def test_verbose_tells_how_a_call_was_interrupted(terminal: Terminal) -> None:
    with terminal.start("call", "shop.py:wait", "--verbose") as process:
        read_until(process.stderr, b"waiting in")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130
        assert process.stderr is not None
        story = story_of(process.stderr.read().decode())
    assert story[0] == f"wait failed with Cancelled, {HERE} (+N)"
    assert story[-1] == END[-1]


def test_debug_shows_tracebacks(run: Run) -> None:
    done = run("call", "shop.py:boom", "--debug")
    assert done.status == 1
    assert "raise ValueError(text)\nValueError: it broke" in done.errors
    first, second, third, *_ = done.errors.splitlines()
    assert (first, second) == ("spear: ValueError: it broke", "Traceback (most recent call last):")
    assert third.endswith(", in boom")
    assert not done.errors.endswith("\n\n")


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


def test_the_function_runs_where_the_command_does(run: Run, here: Path) -> None:
    (here / "note.txt").write_text("tea")
    done = run("call", "shop.py:read", "note.txt")
    assert (done.status, done.output) == (0, b'"tea"\n')
    assert run("call", "shop:read", "note.txt").output == b'"tea"\n'


def test_a_file_is_called_though_the_working_directory_was_removed(
    run: Run, here: Path, gone: Path
) -> None:
    done = run("call", f"{here}/shop.py:price", "tea")
    assert (done.status, done.output, done.errors) == (0, b'"tea EUR 0 0"\n', "")
    removed = "is relative to the working directory, which has been removed: use an absolute path"
    done = run("call", "shop.py:price", "tea")
    assert (done.status, done.output, done.errors) == (2, b"", f"spear: shop.py {removed}\n")
    done = run("call", "shop:price", "tea")
    assert (done.status, "found neither a module nor a file named 'shop'" in done.errors) == (
        6,
        True,
    )


def test_variables_are_passed_on_when_they_are_named(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLOUR", "blue")
    monkeypatch.setenv("SECRET_PLAN", "tea for two")
    names = ["COLOUR", "SIZE", "EMPTY", "SECRET_PLAN"]
    for words in (
        ["--env", "COLOUR", "--env=SIZE=a=b", "--env", "EMPTY=", "shop.py:variables", *names],
        ["--env", "COLOUR", "shop.py:variables", *names, "--env", "SIZE=a=b", "--env=EMPTY="],
    ):
        done = run("call", *words)
        assert (done.status, json.loads(done.output)) == (0, ["blue", "a=b", "", None])
        assert "tea" not in done.errors
    assert json.loads(run("call", "shop.py:variables", "COLOUR").output) == [None]
    done = run("call", "shop.py:variables", "COLOUR", "--env", "COLOUR=red", "--verbose")
    assert json.loads(done.output) == ["red"]
    assert "red" not in done.errors  # the value may be a secret


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
    for path in own_temporary_directory.iterdir():  # no process was left to remove it
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
    done = run("<&-", "shop.py:size", "-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"spear: the argument - reads standard input, which is closed\n")
    done = run("0> unreadable", "shop.py:size", "-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"spear: cannot read standard input: Bad file descriptor\n"
    done = run(">&-", "shop.py:price", "tea")
    assert (done.returncode, done.stderr) == (2, NO_OUTPUT)
    done = run("2>&-", "shop.py:speak", "hello")
    assert (done.returncode, done.stdout) == (0, b'"said"\n')
    done = run("> /dev/full", "shop.py:price", "tea")
    assert done.returncode == 70
    assert done.stderr == b"spear: cannot write to standard output: No space left on device\n"
    assert run("2> /dev/full", "shop.py:boom").returncode == 1
    assert run("2> /dev/full", "nosuch.py:boom").returncode == 2


@pytest.mark.parametrize("module", ["spear", "spear.cli"])
def test_it_is_a_module_too(terminal: Terminal, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "call", "shop.py:price", "tea"],
        cwd=terminal.place,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b'"tea EUR 0 0"\n')
