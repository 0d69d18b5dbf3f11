"""Progress bars and unfinished lines, on a terminal and elsewhere."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from .helpers import PATIENCE_SECONDS, Terminal, read_until
from .screens import COLUMNS, Screen, on_screen

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # each test starts processes

BAR = "━"


def interrupt(screen: Screen) -> None:
    """End the command, so that it removes what it has made."""
    screen.type("\x03")
    assert screen.wait_ended() == 130


def call_ahead(*reports: object) -> list[str]:
    return ["call", "shop.py:ahead", json.dumps(reports)]


@pytest.mark.parametrize(
    ("reports", "shown"),
    [
        ([0.25], "ahead:  25%"),
        ([0, 1], "ahead:  100%"),
        ([[3, 12]], "ahead:  3/12"),
        ([[1, 2, "loading"]], "ahead:  1/2  loading"),
        (["half way", 0.5], "ahead:  50%  half way"),
    ],
)
def test_progress_of_a_call_is_a_bar(here: Path, reports: list[object], shown: str) -> None:
    with on_screen(*call_ahead(*reports), environment={}) as screen:
        text = screen.wait_until(lambda text: shown in text)
        (row,) = text.strip().splitlines()
        assert row.startswith(BAR)
        assert len(row) <= COLUMNS
        interrupt(screen)
        assert screen.text.replace("^C", "").strip() == ""  # the bar has gone


def test_a_terminal_without_a_size_is_taken_for_a_usual_one(here: Path) -> None:
    with on_screen(*call_ahead(0.25), environment={}, has_size=False) as screen:
        screen.wait_until(lambda text: "ahead:  25%" in text)
        interrupt(screen)


@pytest.mark.parametrize(
    ("reports", "shown"),
    [
        ([1, 37], "ahead:  37"),
        (["lo\x1b[2Jading"], "ahead:  lo\\x1b[2Jading"),
        ([{"left": 3}], 'ahead:  {"left": 3}'),
        ([[1, 0]], "ahead:  [1, 0]"),
        ([True], "ahead:  true"),
    ],
)
def test_progress_without_a_share_is_text(here: Path, reports: list[object], shown: str) -> None:
    with on_screen(*call_ahead(*reports), environment={}) as screen:
        text = screen.wait_until(lambda text: shown in text)
        assert text.strip() == shown
        interrupt(screen)


def test_progress_of_a_stream_is_a_bar_below_its_items(here: Path) -> None:
    with on_screen("call", "shop.py:menu_ahead", "0.25", environment={}) as screen:
        text = screen.wait_until(lambda text: "25%" in text and "tea" in text)
        item, row = text.strip().splitlines()
        assert item == '"tea"'
        assert row.startswith(BAR)
        assert "menu_ahead:  25%" in row
        interrupt(screen)
        assert screen.text.replace("^C", "").split() == ['"tea"']  # the bar has gone


def test_without_rich_progress_is_text_and_a_hint(here: Path) -> None:
    code = "import sys; sys.modules['rich'] = None; from spear.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code]
    with on_screen(*call_ahead(0.25), environment={}, command=command) as screen:
        text = screen.wait_until(lambda text: "25%" in text)
        hint, row = text.strip().splitlines()
        assert hint == "spear: a progress bar needs rich: install the extra spearlet[cli]"
        assert row.startswith("ahead:  25%")
        interrupt(screen)


def test_an_unfinished_line_appears_on_a_terminal(here: Path) -> None:
    with on_screen("call", "shop.py:redraw", environment={}) as screen:
        text = screen.wait_until(lambda text: "20%" in text)
        assert text.strip() == "process:shop-1#1 stderr:  20%"
        interrupt(screen)


def test_an_unfinished_line_becomes_a_line_where_there_is_no_terminal(terminal: Terminal) -> None:
    with terminal.start("call", "shop.py:redraw") as process:
        assert read_until(process.stderr, b"20%") == b"process:shop-1#1 stderr:  20%\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130


def test_a_line_that_was_redrawn_is_written_in_its_last_state(terminal: Terminal) -> None:
    done = terminal.run("call", "shop.py:redraw_and_end")
    assert (done.output, done.errors) == (b'"done"\n', "process:shop-1#1 stderr:  20%\n")


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(here: Path) -> None:
    with on_screen("call", "shop.py:redraw", environment={"TERM": "dumb"}) as screen:
        screen.wait_until(lambda text: "20%" in text)
        interrupt(screen)
        assert b"\x1b" not in screen.raw


def test_a_map_has_a_bar_below_the_output_of_its_function(here: Path) -> None:
    (here / "items").write_text("tea\nwait\nbad\n")
    words = ("map", "shop.py:dawdle", "--input", "items", "-j1", "--limit=3", "--alone=true")
    with on_screen(*words, "--output", "out", environment={}) as screen:
        text = screen.wait_until(lambda text: "2 of 3 done" in text and "waiting" in text)
        *lines, row = text.strip().splitlines()
        assert lines == ["process:shop-1#1 stdout: waiting"]
        assert row.startswith(BAR)
        interrupt(screen)
        assert "spear: interrupted: 2 of 3 done" in screen.text
        assert BAR not in screen.text


def test_lines_of_a_map_and_its_bar_share_a_terminal(here: Path) -> None:
    (here / "items").write_text("tea\nice\nwait\n")
    words = (
        "map",
        "shop.py:dawdle",
        "--input",
        "items",
        "-j1",
        "--limit=3",
        "--ordered",
        "--alone=true",
    )
    with on_screen(*words, environment={}) as screen:
        screen.wait_until(lambda text: '"result": "ice"' in text and "2 of 3 done" in text)
        results = [line for line in screen.lines if line.startswith("{")]
        assert [json.loads(line)["result"] for line in results] == ["tea", "ice"]
        assert sum(BAR in line for line in screen.lines) == 1
        interrupt(screen)


def test_a_bar_has_one_row_on_a_narrow_terminal(here: Path) -> None:
    """The bar shrinks first; then it goes, and the text is cut."""
    (here / "items").write_text("tea\nwait\n")
    words = ("map", "shop.py:dawdle", "--input", "items", "-j1", "--limit=2", "--alone=true")
    with on_screen(*words, "--output", "out", environment={}) as screen:
        screen.wait_until(lambda text: "1 of 2 done" in text and BAR in text)
        screen.resize(30, 24)
        text = screen.wait_until(lambda text: "1 of 2 done" in text and BAR not in text)
        *lines, row = text.strip().splitlines()
        assert row.startswith("1 of 2 done, 0 failed, ")
        assert not any("failed" in line for line in lines)
        interrupt(screen)


def test_a_quiet_map_has_no_bar(here: Path) -> None:
    (here / "items").write_text("tea\n")
    words = ("map", "shop.py:dawdle", "--input", "items", "-j1", "--quiet", "--output", "out")
    with on_screen(*words, environment={}) as screen:
        assert screen.wait_ended() == 0
        assert screen.raw == b""
