"""``spear map``: items in, lines out, failures kept, and runs that are continued."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from .helpers import (
    COMMAND,
    PATIENCE_SECONDS,
    Run,
    Terminal,
    items,
    lines_of,
    read_until,
    summary_of,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # each test starts processes

BREAKS = """
import os, pathlib, spear

app = spear.Agent()


@app.lifespan
async def life():
    if pathlib.Path("broken").exists():
        raise RuntimeError("broken")
    yield


@app.function
def break_it(text: str) -> None:
    pathlib.Path("broken").touch()
    os._exit(1)
"""
"""A program that starts once."""


def test_each_line_of_a_file_is_an_item(run: Run, here: Path) -> None:
    (here / "items.txt").write_bytes("\ufefftea\r\n two words\n\ngrün".encode())
    done = run("map", "shop.py:measure", "--input", "items.txt", "-j2", "--unit", "letters")
    assert done.status == 0
    assert lines_of(done.output) == [
        {"index": 0, "item": "tea", "result": "3 letters"},
        {"index": 1, "item": " two words", "result": "10 letters"},
        {"index": 2, "item": "", "result": "0 letters"},
        {"index": 3, "item": "grün", "result": "4 letters"},
    ]
    assert summary_of(done).startswith("spear: 4 of 4 done, 0 failed, ")


def test_each_value_of_json_lines_is_one_argument(run: Run, here: Path) -> None:
    items(here / "items.jsonl", '{"a": 1}', "", "[1, 2]", '{"$bytes": "/wA="}')
    done = run("map", "shop.py:kinds", "--input", "items.jsonl", "-j", "1")
    assert [line["result"] for line in lines_of(done.output)] == [["dict"], ["list"], ["bytes"]]
    assert lines_of(done.output)[2]["item"] == {"$bytes": "/wA="}


def test_each_list_is_several_arguments_with_starmap(run: Run, here: Path) -> None:
    items(here / "items", '["tea", 1]', '"tea"', "[]")
    words = ("--input", "items", "--jsonl", "--starmap", "-j1", "--quiet")
    done = run("map", "shop.py:kinds", *words)
    assert (done.status, done.errors) == (12, "")
    first, second, third = lines_of(done.output)
    assert (first["result"], third["result"]) == (["str", "int"], [])
    assert second["error"] == {
        "kind": "InvalidArguments",
        "code": "bad_item",
        "message": "--starmap needs items that are lists",
        "delivered": "no",
    }
    assert second["attempts"] == 0


def test_each_path_that_matches_a_pattern_is_an_item(run: Run, here: Path) -> None:
    (here / "a/b").mkdir(parents=True)
    for name in ("z.txt", "a/y.txt", "a/b/x.txt", "a/other.py"):
        (here / name).touch()
    done = run("map", "shop.py:echo", "--input", "**/*.txt", "--input", "a/*.py", "-j1")
    found = [line["item"] for line in lines_of(done.output)]
    assert found == ["a/b/x.txt", "a/y.txt", "z.txt", "a/other.py"]


def test_items_of_standard_input_are_called_as_they_arrive(terminal: Terminal) -> None:
    with subprocess.Popen(
        [*COMMAND, "map", "shop.py:measure", "--input", "-", "-j1"],
        cwd=terminal.place,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdin is not None
            for text in (b"tea", b"water"):
                process.stdin.write(text + b"\n")
                process.stdin.flush()
                assert text in read_until(process.stdout, text)
            process.stdin.close()
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()


def test_an_endless_input_ends_with_the_reader_of_the_output(terminal: Terminal) -> None:
    """The producer is stopped by back-pressure: nothing else bounds the memory."""
    with (
        subprocess.Popen(["yes"], stdout=subprocess.PIPE) as yes,
        subprocess.Popen(
            [*COMMAND, "map", "shop.py:measure", "--input", "-", "-j1"],
            cwd=terminal.place,
            stdin=yes.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert b'"item": "y", "result": "1 chars"' in process.stdout.readline()
            process.stdout.close()
            assert process.wait(PATIENCE_SECONDS) == 141
        finally:
            process.kill()
            yes.kill()


def test_failures_are_kept_and_do_not_stop_other_items(run: Run, here: Path) -> None:
    items(here / "items", "tea", "bad", "fatal", "water", "bad tea", "bad water", "bad ice")
    words = ("--input", "items", "-j1", "--ordered", "--unit", "chars")  # a keyword: no batches
    done = run("map", "shop.py:measure", *words)
    assert done.status == 12
    lines = [json.loads(line) for line in done.output.splitlines()]
    assert [line["index"] for line in lines] == list(range(7))
    assert lines[3]["result"] == "5 chars"
    assert lines[1] == {
        "index": 1,
        "item": "bad",
        "error": {
            "kind": "FunctionRaised",
            "code": "function_raised",
            "message": "bad is bad",
            "delivered": "yes",
            "type": "ValueError",
        },
        "attempts": 1,
    }
    assert lines[2]["error"]["code"] == "worker_died"
    assert lines[2]["error"]["exit_status"] == 3
    assert 'spear: item 1, "bad", failed: ValueError: bad is bad\n' in done.errors
    assert done.errors.count(", failed: ") == 3
    kinds = '\nspear: failed: 4 ValueError, 1 WorkerDied; their lines in the output have "error"\n'
    assert kinds in done.errors
    assert summary_of(done).startswith("spear: 2 of 7 done, 5 failed, ")


def test_a_long_item_that_fails_is_shown_in_part(run: Run, here: Path) -> None:
    long = f"bad {'x' * 1000}"
    items(here / "items", long)
    done = run("map", "shop.py:measure", "--input", "items", "-j1")
    assert lines_of(done.output)[0]["item"] == long
    assert "xxx..., failed: ValueError: bad xxx" in done.errors
    assert f'"{long}"' not in done.errors


def test_failed_items_are_called_again(run: Run, here: Path) -> None:
    items(here / "items", "one", "two", "three")
    done = run("map", "shop.py:third_time", "--input", "items", "-j2", "--retries", "1", "--quiet")
    assert (done.status, done.errors) == (12, "")
    assert [line["attempts"] for line in lines_of(done.output)] == [2, 2, 2]
    done = run("map", "shop.py:third_time", "--input", "items", "-j2", "--retries", "1")
    assert done.status == 0
    assert [line["result"] for line in lines_of(done.output)] == [3, 3, 3]


def test_calls_that_no_attempt_can_mend_are_not_repeated(run: Run, here: Path) -> None:
    items(here / "items.jsonl", "7")
    done = run("map", "shop.py:measure", "--input", "items.jsonl", "-j1", "--retries", "5")
    (line,) = lines_of(done.output)
    assert (done.status, line["attempts"]) == (12, 1)


def test_lines_are_in_the_order_of_the_items_on_request(run: Run, here: Path) -> None:
    items(here / "items.jsonl", "0", "1", "2")
    words = ("--input", "items.jsonl", "-j1", "--limit", "3", "--ordered")
    done = run("map", "shop.py:opposite", *words)
    assert [json.loads(line)["result"] for line in done.output.splitlines()] == [0, 1, 2]


def test_a_slow_item_holds_no_other_line_back(terminal: Terminal) -> None:
    items(terminal.place / "items", "wait", "tea")
    words = ("--input", "items", "-j1", "--limit", "2", "--alone", "true")
    with terminal.start("map", "shop.py:dawdle", *words) as process:
        assert read_until(process.stdout, b"tea").startswith(b'{"index": 1, ')
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130


def test_each_attempt_has_the_timeout_for_itself(run: Run, here: Path) -> None:
    items(here / "items", "wait", "go")
    words = ("--input", "items", "-j1", "--limit", "2", "--timeout", "2", "--retries", "1")
    done = run("map", "shop.py:dawdle", *words)
    waited, went = lines_of(done.output)
    assert went["result"] == "go"
    assert waited["attempts"] == 2
    assert "deadline_exceeded" in str(waited["error"])


def test_lines_that_cannot_be_items_fail_alone(run: Run, here: Path) -> None:
    (here / "items").write_bytes(b"tea\n\xff\xfe\nice\n")
    (here / "items.jsonl").write_bytes(b'{"a": \n"tea"\n\xff\n')
    words = ("--input", "items", "--input", "items.jsonl", "-j1")
    done = run("map", "shop.py:echo", *words)
    lines = lines_of(done.output)
    assert [line["index"] for line in lines if "error" in line] == [1, 3, 5]
    assert [line["item"] for line in lines] == [
        "tea", {"$bytes": "//4="}, "ice", '{"a": ', "tea", {"$bytes": "/w=="},
    ]  # fmt: skip
    assert ", failed: line 2 of items is not UTF-8: convert" in done.errors
    assert "line 1 of items.jsonl is not JSON: Expecting value, at column 7\n" in done.errors


def test_a_result_that_json_cannot_express_is_a_failure(run: Run, here: Path) -> None:
    items(here / "items.jsonl", '{"$bytes": "a2V5"}')
    done = run("map", "shop.py:twice_the_key", "--input", "items.jsonl", "-j1", "--retries", "3")
    (line,) = lines_of(done.output)
    assert (done.status, line["attempts"]) == (12, 1)
    assert "cannot be represented as JSON" in str(line["error"])


def test_an_input_without_items_starts_nothing(run: Run, here: Path) -> None:
    (here / "none").touch()
    done = run("map", "nowhere.py:function", "--input", "none", "--output", "out.jsonl")
    assert done.status == 0
    assert summary_of(done).startswith("spear: 0 of 0 done, 0 failed, ")
    assert (here / "out.jsonl").read_bytes() == b""


# -- an output that is continued --------------------------------------------------------------------


def test_an_output_that_exists_is_not_lost(run: Run, here: Path) -> None:
    items(here / "items", "tea")
    words = ("map", "shop.py:measure", "--input", "items", "--output", "out.jsonl", "-j1")
    assert run(*words).status == 0
    before = (here / "out.jsonl").read_bytes()
    done = run(*words)
    assert done.status == 2
    assert done.errors == (
        "spear: out.jsonl exists: continue it with --resume, or replace it with --overwrite\n"
    )
    assert (here / "out.jsonl").read_bytes() == before
    items(here / "items", "water")
    assert run(*words, "--overwrite").status == 0
    (line,) = lines_of((here / "out.jsonl").read_bytes())
    assert line["item"] == "water"


def test_a_run_that_is_resumed_calls_what_is_missing(run: Run, here: Path) -> None:
    """The input has changed its order and grown; "twice" is there twice, and was done once."""
    out = here / "out.jsonl"
    kept = b'{"index": 0, "item": "twice", "result": "kept"}\n'
    kept += b'{"index": 1, "item": "tea", "result": {"$bytes": ""}}\n'
    failed = b'{"index": 2, "item": "water", "error": {"code": "worker_died"}, "attempts": 1}\n'
    out.write_bytes(kept + failed + kept[:20])
    out.chmod(0o640)
    items(here / "items", "tea", "twice", "water", "ice", "twice")
    words = ("map", "shop.py:measure", "--input", "items", "--output", "out.jsonl", "-j1")
    done = run(*words, "--resume")
    assert done.status == 0
    assert summary_of(done).startswith("spear: 5 of 5 done (2 by an earlier run), 0 failed, ")
    output = out.read_bytes()
    assert output.startswith(kept)
    new = lines_of(output.removeprefix(kept))
    assert [(line["index"], line["item"]) for line in new] == [
        (2, "water"), (3, "ice"), (4, "twice"),
    ]  # fmt: skip
    assert out.stat().st_mode & 0o777 == 0o640
    assert sorted(each.name for each in here.iterdir()) == ["items", "out.jsonl", "shop.py"]


def test_a_torn_line_is_removed_without_a_copy(run: Run, here: Path) -> None:
    out = here / "out.jsonl"
    kept = b'{"index": 0, "item": "tea", "result": "kept"}\n'
    out.write_bytes(kept + b'{"index": 1, "it')
    inode = out.stat().st_ino
    items(here / "items", "tea")
    words = ("map", "shop.py:measure", "--input", "items", "--output", "out.jsonl", "--resume")
    done = run(*words)
    assert (done.status, out.read_bytes(), out.stat().st_ino) == (0, kept, inode)


@pytest.mark.parametrize("line", [b"text", b"[1]", b'{"index": 1}', b'{"item": 1, "result": 1}'])
def test_a_file_of_another_program_is_left_alone(run: Run, here: Path, line: bytes) -> None:
    (here / "items").touch()
    content = b'{"index": 0, "item": 1, "error": {}}\n' + line + b"\n"
    (here / "out").write_bytes(content)
    done = run("map", "shop.py:echo", "--input", "items", "--output", "out", "--resume")
    assert done.status == 2
    assert done.errors == (
        "spear: line 2 of out was not written by spear map: choose another file\n"
    )
    assert (here / "out").read_bytes() == content


def test_two_runs_do_not_share_an_output(run: Run, here: Path) -> None:
    (here / "items").touch()
    with open(here / "out", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        done = run("map", "shop.py:echo", "--input", "items", "--output", "out")
    assert (done.status, done.errors) == (
        2, "spear: out is in use: another spear map writes to it\n"
    )  # fmt: skip


def test_an_interrupted_run_leaves_a_file_that_can_be_continued(terminal: Terminal) -> None:
    items(terminal.place / "items", "tea", "ice", "wait", "water")
    words = ("map", "shop.py:dawdle", "--input", "items", "-j1", "--output", "out", "--alone=true")
    with terminal.start(*words) as process:
        assert process.stderr is not None
        read_until(
            process.stderr, b"waiting"
        )  # one item at a time: the lines before it are written
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130
        said = process.stderr.read().decode()
    assert "spear: interrupted: 2 of 4 done, 0 failed, 2 left, " in said
    assert said.endswith("; to go on, add --resume to the same command\n")
    output = terminal.place / "out"
    assert [line["item"] for line in lines_of(output.read_bytes())] == ["tea", "ice"]
    items(terminal.place / "items", "tea", "ice", "go", "water")
    done = terminal.run(*words, "--resume")
    assert done.status == 0
    found = [line["item"] for line in lines_of(output.read_bytes())]
    assert found == ["tea", "ice", "go", "water"]


# -- what cannot be done ----------------------------------------------------------------------------


def test_a_full_disk_ends_the_run(run: Run, here: Path) -> None:
    items(here / "items", *map(str, range(1000)))
    done = run("map", "shop.py:measure", "--input", "items", "--output", "/dev/full", "-j1")
    assert done.status == 70
    assert summary_of(done) == "spear: cannot write to /dev/full: No space left on device"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no items were given: use --input FILE"),
        (("--input", "absent.txt"), "--input absent.txt: no such file"),
        (("--input", "*.absent"), "--input *.absent: no file matches the pattern"),
        (("--input", "."), "--input .: is a directory; for its files, use --input './*'"),
        (("--input", "-", "--input", "-"), "standard input, -, can be read only once"),
        (("--input", "shop.py", "more.py"), "items come from --input, whose pattern needs quotes"),
        (("--input", "shop.py", "-j0"), "-j must be at least 1, not 0"),
        (("--input", "shop.py", "-j", "many"), "-j needs a whole number"),
        (("--input", "shop.py", "--limit", "0"), "--limit must be at least 1"),
        (("--input", "shop.py", "--retries=-1"), "--retries must be at least 0"),
        (("--input", "shop.py", "--timeout", "0"), "--timeout must be more than 0"),
        (("--input", "shop.py", "--startup-seconds", "inf"), "--startup-seconds must be more"),
        (("--input", "shop.py", "--resume"), "--resume needs --output FILE"),
        (("--input", "shop.py", "--output", "o", "--resume", "--overwrite"), "does not: use one"),
        (("--input", "shop.py", "--output", "."), "cannot write to .: Is a directory"),
        (
            ("--input", "shop.py", "--output", "no/out"),
            "cannot write to no/out: there is no directory no",
        ),
        (("--input", "shop.py", "--output", "o" * 300), "ooo: File name too long"),
        (
            ("--input", "shop.py", "--output", "/dev/null", "--resume"),
            "--resume needs a regular file",
        ),
    ],
)
def test_a_wrong_command_line_says_what_to_do(
    run: Run, words: tuple[str, ...], message: str
) -> None:
    done = run("map", "shop.py:echo", *words)
    assert (done.status, done.output) == (2, b"")
    assert message in done.errors


def test_a_function_that_cannot_be_mapped_ends_the_run(run: Run, here: Path) -> None:
    items(here / "items", "tea")
    assert run("map", "shop.py:nothing", "--input", "items", "-j1").status == 4
    done = run("map", "shop.py:count", "--input", "items", "-j1")
    assert (done.status, done.output) == (2, b"")
    assert done.errors == (
        "spear: count() returns a stream, of which spear map has no line: return a list instead, or use "
        "spear call shop.py:count for each item\n"
    )


def test_processes_that_no_longer_start_end_the_run(terminal: Terminal) -> None:
    (terminal.place / "breaks.py").write_text(BREAKS)
    items(terminal.place / "items", "tea", "water")
    words = ("map", "breaks.py:break_it", "--input", "items", "-j1", "--output", "out")
    done = terminal.run(*words)
    assert done.status == 6
    assert summary_of(done).startswith("spear: processes no longer start: ")
    counts = done.errors.splitlines()[-2]
    assert counts.startswith("spear: ended by an error: 0 of 2 done, 1 failed, 1 left, ")
    assert counts.endswith("; to go on, add --resume to the same command")
    (line,) = lines_of((terminal.place / "out").read_bytes())
    assert (line["item"], line["attempts"]) == ("tea", 1)


def test_a_line_that_is_too_long_ends_the_run(terminal: Terminal) -> None:
    with open("/dev/zero", "rb") as zeros:
        done = subprocess.run(
            [*COMMAND, "map", "shop.py:echo", "--input", "-"],
            cwd=terminal.place,
            stdin=zeros,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert done.returncode == 2
    assert b"line 1 of standard input has more than 33554432 bytes" in done.stderr


def test_the_help_of_a_function_is_that_of_spear_call(run: Run) -> None:
    done = run("map", "shop.py:measure", "--help")
    assert done.output == b"measure(text: str, *, unit: str = 'chars') -> str\n"
    assert run("map", "shop.py").status == 2
