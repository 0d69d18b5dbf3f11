"""``spear map``: an output that is an input, and an output of other calls."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from .helpers import Run, Terminal, items, lines_of, summary_of

if TYPE_CHECKING:
    from pathlib import Path

MEASURE = ("map", "shop.py:measure", "-j1")
LINE = b'{"index": 0, "item": "tea", "result": "kept"}\n'


@pytest.mark.parametrize("name", ["same.txt", "./same.txt", "link.txt", "hard.txt"])
@pytest.mark.parametrize("flag", ["--overwrite", "--resume"])
def test_an_output_that_is_an_input_is_refused(run: Run, here: Path, name: str, flag: str) -> None:
    same = here / "same.txt"
    items(same, "tea", "ice")
    (here / "link.txt").symlink_to(same)
    (here / "hard.txt").hardlink_to(same)
    done = run(*MEASURE, "--input", name, "--output", "same.txt", flag)
    assert (done.status, done.output) == (2, b"")
    assert done.errors == (
        f"spear: --input {name} is also the output: choose another file for the output\n"
    )
    assert same.read_bytes() == b"tea\nice\n"


def test_an_output_that_is_the_program_is_refused(run: Run, here: Path) -> None:
    before = (here / "shop.py").read_bytes()
    items(here / "items", "tea")
    done = run(*MEASURE, "--input", "items", "--output", "./shop.py", "--overwrite")
    assert done.errors == "spear: shop.py is the program: choose another file for the output\n"
    assert done.status == 2
    assert (here / "shop.py").read_bytes() == before


@pytest.mark.slow
def test_a_redirected_output_that_is_an_input_is_refused(terminal: Terminal) -> None:
    """The shell has opened both; appending to the input would never end."""
    same = terminal.place / "same.txt"
    items(same, "tea")
    with open(same, "ab") as appended:
        done = terminal.run(*MEASURE, "--input", "same.txt", stdout=appended)
    assert done.status == 2
    assert "--input same.txt is also the output" in done.errors
    assert same.read_bytes() == b"tea\n"


@pytest.mark.slow
def test_a_pattern_leaves_the_output_out(run: Run, here: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (here / name).touch()
    (here / "nowhere.txt").symlink_to("absent")
    words = ("map", "shop.py:echo", "-j1", "--input", "*.txt", "--output", "out.txt")
    for flag in ((), ("--resume",), ("--overwrite",)):
        assert run(*words, *flag).status == 0
        found = [line["item"] for line in lines_of((here / "out.txt").read_bytes())]
        assert found == ["a.txt", "b.txt", "nowhere.txt"]


@pytest.mark.slow
def test_the_first_line_of_a_file_has_what_is_called(run: Run, here: Path) -> None:
    items(here / "items", "tea", "ice")
    words = (*MEASURE, "--input", "items")
    done = run(*words, "--output", "out", "--ordered")
    assert done.status == 0
    first, second = lines_of((here / "out").read_bytes())
    call = first.pop("call")
    assert isinstance(call, dict)
    assert call["function"] == "shop.py:measure"
    assert [first, second] == lines_of(run(*words).output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "more", "reason"),
    [
        ("shop.py:echo", (), "has results of shop.py:measure, not of shop.py:echo: "),
        ("shop.py:measure", ("--unit", "letters"), "has results of shop.py:measure with other arg"),
        ("shop.py:measure", ("--starmap",), "has results of shop.py:measure with other arguments"),
    ],
)
def test_the_output_of_other_calls_is_not_resumed(
    run: Run, here: Path, function: str, more: tuple[str, ...], reason: str
) -> None:
    items(here / "items", "tea", "bad")
    words = ("-j1", "--input", "items", "--output", "out")
    assert run("map", "shop.py:measure", *words, "--unit=chars").status == 12
    before = (here / "out").read_bytes()
    shared = more or ("--unit=chars",)
    done = run("map", function, *words, *shared, "--resume")
    assert (done.status, done.output) == (2, b"")
    assert done.errors.startswith(f"spear: out {reason}")
    assert (here / "out").read_bytes() == before


def test_an_output_without_a_record_is_resumed(run: Run, here: Path) -> None:
    odd = json.loads(LINE) | {"call": "of another program"}
    (here / "out").write_bytes(LINE + json.dumps(odd).encode() + b"\n")
    items(here / "items", "tea", "tea")
    done = run("map", "shop.py:echo", "--input", "items", "--output", "out", "--resume")
    assert done.status == 0
    assert summary_of(done).startswith("spear: 2 of 2 done (2 by an earlier run), 0 failed, ")


@pytest.mark.slow
def test_a_refused_run_leaves_no_file_and_replaces_none(run: Run, here: Path) -> None:
    (here / "old").write_bytes(LINE)
    items(here / "items", "tea")
    words = (*MEASURE, "--input", "items", "--colour", "red")
    assert run(*words, "--output", "new").status == 3
    assert run(*words, "--output", "old", "--overwrite").status == 3
    assert not (here / "new").exists()
    assert (here / "old").read_bytes() == LINE


def test_an_empty_input_replaces_an_output(run: Run, here: Path) -> None:
    (here / "old").write_bytes(LINE)
    (here / "none").touch()
    assert run(*MEASURE, "--input", "none", "--output", "old", "--overwrite").status == 0
    assert (here / "old").read_bytes() == b""


def test_an_output_in_no_directory_names_the_directory(run: Run, here: Path) -> None:
    items(here / "items", "tea")
    done = run(*MEASURE, "--input", "items", "--output", "no/such/out")
    assert done.errors == ("spear: cannot write to no/such/out: there is no directory no/such\n")
