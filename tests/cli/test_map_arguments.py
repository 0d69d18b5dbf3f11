"""``spear map``: arguments that all calls share, items that are text, and failures that are retried."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from .helpers import PATIENCE_SECONDS, Run, Terminal, items, lines_of, read_until, summary_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # each test starts processes

PROGRAM = """
import datetime, pathlib, spear

app = spear.Agent()


@app.function
def nothing() -> int:
    return 0


@app.function
def both(text: str, number: int) -> str:
    return text * number


@app.function
def on(text: str, *, day: datetime.date = datetime.date(2026, 1, 1)) -> str:
    return f"{text} {day}"


@app.function
def twice(number: int) -> int:
    return number * 2


@app.function
def half(number: float | None) -> float | None:
    return None if number is None else number / 2


@app.function
def negate(flag: bool) -> bool:
    return not flag


@app.function
def weekday(day: datetime.date) -> int:
    return day.isoweekday()


@app.function
def suffix(path: pathlib.Path) -> str:
    return path.suffix


@app.function
def typed(value) -> str:
    return type(value).__name__


@app.function
def anything(value: object) -> str:
    return type(value).__name__


@app.function
def size(values: list[int]) -> int:
    return len(values)


@app.function
def letters(text: str):
    return (each for each in text)
"""


@pytest.fixture
def program(here: Path) -> Path:
    """A program with annotated functions, in the working directory."""
    (here / "typed.py").write_text(PROGRAM)
    items(here / "items", "tea", "ice", "water")
    return here


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ("on", "--dya", "2026-11-30"),
            ["on() takes no argument 'dya'; did you mean 'day'?"],
        ),
        (("on", "--day", "tomorrow"), ["on(day=...): expected date, got"]),
        (
            ("on", "--timout", "3"),
            [
                "on() takes no argument 'timout'",
                "hint: --timout is no option of spear; did you mean '--timeout'?",
            ],
        ),
        (("nothing",), ["nothing() takes no arguments by position, not 1"]),
        (("both",), ["both() requires the argument 'number'"]),
        (("both", "--text", "tea"), ["both() got 'text' twice, by position and by name"]),
    ],
)
def test_shared_arguments_that_do_not_fit_end_the_run(
    run: Run, program: Path, words: tuple[str, ...], lines: list[str]
) -> None:
    function, *shared = words
    given = ("--input", "items", "--output", "out", *shared)
    done = run("map", f"typed.py:{function}", "-j2", *given)
    assert (done.status, done.output) == (3, b"")
    said = done.errors.splitlines()
    assert said[0].startswith(f"spear: {lines[0]}")
    assert said[1].startswith(f"usage: {function}(")
    assert said[2:] == lines[1:]
    assert not (program / "out").exists()


def test_a_wrong_item_fails_beside_shared_arguments_that_fit(run: Run, program: Path) -> None:
    items(program / "items.jsonl", '"tea"', "7")
    given = ("--input", "items.jsonl", "--day", "2026-11-30", "-j1")
    done = run("map", "typed.py:on", *given)
    good, bad = lines_of(done.output)
    assert (done.status, good["result"]) == (12, "tea 2026-11-30")
    assert bad["error"] == {
        "kind": "InvalidArguments",
        "code": "argument_type",
        "message": "on(text=...): expected str, got int",
        "delivered": "no",
        "parameter": "text",
        "expected": "str",
        "got": "int",
    }


def test_the_number_of_arguments_is_the_items_with_starmap(run: Run, program: Path) -> None:
    items(program / "items.jsonl", '["tea"]', '["tea", 2]', '["tea", 2, 3]')
    done = run("map", "typed.py:both", "--starmap", "--input", "items.jsonl", "-j1")
    lines = lines_of(done.output)
    assert ["error" in line for line in lines] == [True, False, True]
    assert (done.status, lines[1]["result"]) == (12, "teatea")


@pytest.mark.parametrize(
    ("function", "lines", "results"),
    [
        ("twice", ["3", "-4"], [6, -8]),
        ("half", ["3", "1.5", "null"], [1.5, 0.75, None]),
        ("negate", ["true", "false"], [False, True]),
        ("weekday", ["2026-11-30"], [1]),
        ("suffix", ["a.txt", "7"], [".txt", ""]),
        ("size", ["[1, 2]"], [2]),
        ("typed", ["3", "null", "tea"], ["str", "str", "str"]),
        ("anything", ["3", "tea"], ["str", "str"]),
    ],
)
def test_text_items_are_read_for_the_type_of_their_parameter(
    run: Run, program: Path, function: str, lines: list[str], results: list[object]
) -> None:
    items(program / "texts", *lines)
    done = run("map", f"typed.py:{function}", "--input", "texts", "-j1")
    found = lines_of(done.output)
    assert [line.get("result") for line in found] == results
    assert [line["item"] for line in found] == lines  # as it was written, so that --resume finds it


def test_a_text_item_that_is_no_json_stays_text(run: Run, program: Path) -> None:
    deep = "[" * 100_000
    items(program / "texts", "three", deep)
    items(program / "items.jsonl", '"3"')
    given = ("--input", "texts", "--input", "items.jsonl", "-j1", "--quiet")
    done = run("map", "typed.py:twice", *given)
    assert done.status == 12
    for line in lines_of(done.output):
        assert "twice(number=...): expected int, got str" in str(line["error"])


def test_a_returned_generator_says_what_to_return(run: Run, program: Path) -> None:
    done = run("map", "typed.py:letters", "--input", "items", "-j1")
    assert done.status == 12
    assert (
        "TypeError: letters() returned a generator: a stream function must contain a `yield`; for one "
        "result, return a list\n"
    ) in done.errors


def test_the_first_failures_that_are_retried_are_shown_at_once(terminal: Terminal) -> None:
    """The last item waits for ever, so no failure is final before the run is interrupted."""
    items(terminal.place / "items", *(f"bad {each}" for each in range(5)), "wait")
    words = ("map", "shop.py:once_more", "--input", "items", "-j1", "--alone=true")
    with terminal.start(*words, "--retries", "9", "--output", "out") as process:
        shown = b'item 2, "bad 2", failed, will be called again: ValueError: bad 2 is bad\n'
        assert read_until(process.stderr, shown) == b"spear: " + shown
        read_until(process.stderr, b"waiting")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert "spear: interrupted: 0 of 6 done, 0 failed, 5 to retry, 1 left, " in said


def test_items_that_succeed_later_are_not_to_retry(run: Run, program: Path) -> None:
    items(program / "items", "one", "two", "three", "four")
    given = ("--input", "items", "-j1", "--retries", "2", "--output", "out")
    done = run("map", "shop.py:third_time", *given)
    assert done.status == 0
    assert done.errors.count(", failed, will be called again: ConnectionError: not yet\n") == 3
    assert summary_of(done).startswith("spear: 4 of 4 done, 0 failed, ")
    assert done.errors.count(" to retry") == 0


def test_a_retried_item_does_not_wait_for_all_others(run: Run, program: Path) -> None:
    """The second item waits in the same process until the first one has been retried."""
    items(program / "items", "first", *(f"later {each}" for each in range(2000)))
    given = ("--input", "items", "-j1", "--limit", "1", "--retries", "2", "--alone=true")
    done = run("map", "shop.py:once_more", *given)
    assert done.status == 0
    place = [line.split(b'"item": ')[1] for line in done.output.splitlines()]
    first = next(index for index, line in enumerate(place) if line.startswith(b'"first"'))
    assert 0 < first < 2000
