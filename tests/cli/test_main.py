"""The command inside this process: help, errors, interrupts, and what it imports."""

from __future__ import annotations

import errno
import io
import json
import logging
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import spear
from spear import (
    CallFailed,
    ChannelBroken,
    ConfigurationError,
    DeadlineExceeded,
    FunctionRaised,
    InvalidArguments,
    NotFound,
    Overloaded,
    Rejected,
    SpawnFailed,
    WorkerDied,
)
from spear.cli import main
from spear.cli._error_lines import ErrorLines
from spear.cli._say import say
from spear.cli._status import EXIT_STATUSES, describe_statuses, exit_status

from .helpers import COMMAND, NO_OUTPUT, PATIENCE_SECONDS, Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from spear.cli._parser import CommandParser


def test_without_words_it_shows_its_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    output = capfd.readouterr().out
    assert "usage: spear [-h] [--version] COMMAND ..." in output
    assert "call" in output


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_is_no_failure(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "start a function in a separate process" in capfd.readouterr().out


def test_help_for_a_call_says_all_there_is_to_know(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["call", "--help"]) == 0
    output = capfd.readouterr().out
    for word in (
        "spear call [options] FILE.py:FUNCTION", "--replicas", "--timeout", "--verbose", "--debug",
        "--env NAME[=VALUE]", "@photo.png", "@order.json", "standard input", "--currency GBP",
        "examples:",
    ):  # fmt: skip
        assert word in output
    assert describe_statuses() in output


def test_the_version(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["spear", "--version"])
    assert main() == 0
    assert capfd.readouterr().out == f"spear {spear.__version__}\n"


def test_it_may_be_run_in_a_thread(capfd: pytest.CaptureFixture[str]) -> None:
    """Signals cannot be handled in a thread."""
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(main(["--version"])))
    thread.start()
    thread.join()
    assert statuses == [0]


def test_it_begins_at_once() -> None:
    """An interrupt before the handler is set shows a traceback, so few modules are loaded by then."""
    code = (
        "import sys; before = set(sys.modules); import spear.cli; print(*set(sys.modules) - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {each for each in run.stdout.split() if each.startswith("spear")}
    assert loaded == {"spear", "spear._lazy", "spear._version", "spear.cli", "spear.cli._entry"}
    assert not {"argparse", "trio", "typing"} & set(run.stdout.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sing"], "invalid choice: 'sing'"),
        (["--loud"], "required: COMMAND"),
        (["--loud", "ps"], "--loud must follow the command: spear ps --loud ..."),
        (["--host=x", "scale"], "--host must follow the command: spear scale --host ..."),
        (["ps", "--loud"], "unrecognized arguments: --loud\nusage: spear ps ["),
        (["ps", "--jsn"], "arguments: --jsn; did you mean --json?\nusage: spear ps ["),
        (
            ["logs", "--folow", "--jsn=yes"],
            "arguments: --folow --jsn=yes; did you mean --follow and --json?\n",
        ),
        (
            ["serve", "--polcy", "x"],
            "arguments: --polcy; did you mean --policy?\nusage: spear serve [",
        ),
        (
            ["call", "--tmeout", "3", "shop.py:price"],
            "did you mean --timeout?\nusage: spear call [",
        ),
        (
            ["completion", "--wrds"],
            "unrecognized arguments: --wrds\nusage: ",
        ),  # an option that only shells use
        (["call"], "no function was given: use spear call FILE.py:FUNCTION"),
        (["call", "--"], "no function was given"),
        (["call", ":price"], "':price' names no file: use FILE.py:FUNCTION"),
        (
            ["call", "--loud", "shop.py:price"],
            "unrecognized arguments: --loud\nusage: spear call [",
        ),
        (["call", "/dev/null:price"], "/dev/null is not a file"),
        (["call", "shop.py:price", "--currency"], "--currency needs a value"),
        (["call", "shop.py:price", "--timeout"], "--timeout needs a value"),
        (
            ["call", "--timeout", "soon", "shop.py:price"],
            "argument --timeout: needs a number, not 'soon'",
        ),
        (
            ["call", "shop.py:price", "--timeout=soon"],
            "--timeout needs a number, not 'soon'\nusage: spear call [options] FILE.py:FUNCTION",
        ),
        (["call", "shop.py:price", "--timeout", "0"], "--timeout must be more than 0"),
        *(
            (
                ["call", "shop.py:price", "--timeout", each],
                f"--timeout needs a number, not {each!r}",
            )
            for each in ["nan", "1e400", "1_0", "\u0661"]
        ),
        (
            ["call", "shop.py:price", "--replicas", "1_0"],
            "--replicas needs a whole number, not '1_0'",
        ),
        (
            ["call", "--replicas", "\u0661", "shop.py:price"],
            "argument --replicas: needs a whole number, not '\u0661'",
        ),
        (
            ["call", "shop.py:price", "--replicas", "1.5"],
            "--replicas needs a whole number, not '1.5'",
        ),
        (["call", "shop.py:price", "--replicas", "0"], "replicas must be from 1 to"),
        (["call", "shop.py:price", "--verbose=yes"], "--verbose takes no value"),
        (
            ["call", "shop.py:price", "@user"],
            "No such file or directory; to pass text that begins with @, write '\"@user\"'",
        ),
        (
            ["call", "shop.py:price", "9" * 100_001],
            "99999... cannot be used: an integer has more than",
        ),
        (["call", "shop.py:price", "--env", ""], "--env needs a name"),
        (["call", "shop.py:price", "--env"], "--env needs a value"),
        (
            ["call", "shop.py:price", "--env", "NO_SUCH"],
            "--env NO_SUCH: the environment has no such",
        ),
        (["call", "--env", "=x", "shop.py:price"], "--env needs a name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense(
    here: Path, words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.startswith("spear: ")
    assert message in errors


def test_a_call(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger("spear").level, logging.getLogger("spear.instances").level
    assert main(["call", "shop.py:speak", "hello"]) == 0
    output, errors = capfd.readouterr()
    assert output == '"said"\n'
    assert "process:shop-1#1 stdout: out hello\n" in errors
    assert logging.getLogger("spear").handlers == []
    after = logging.getLogger("spear").level, logging.getLogger("spear.instances").level
    assert after == before


@pytest.mark.slow
def test_large_results_and_small_ones(
    here: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (here / "data").write_bytes(bytes(100_000))
    assert main(["call", "shop.py:reverse", "@data"]) == 0
    assert capfdbinary.readouterr().out == bytes(100_000)
    assert main(["call", "shop.py:count", "2", "--verbose"]) == 0
    output, errors = capfdbinary.readouterr()
    assert output == b"0\n1\n"
    assert b"count ended after 2 items" in errors


def test_no_output_to_write_to(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["call", "shop.py:price", "tea"]) == 2


def test_every_error_has_a_status() -> None:
    statuses = [
        exit_status(each)
        for each in (
            FunctionRaised("x"), ConfigurationError("x"), InvalidArguments("x"), NotFound("x"),
            DeadlineExceeded("x"), SpawnFailed("x"), WorkerDied("x"), Overloaded("x"), Rejected("x"),
            CallFailed("x"), ChannelBroken("x"), ValueError("x"),
        )
    ]  # fmt: skip
    assert statuses == [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 70, 70]
    numbers = [status for _, status, _ in EXIT_STATUSES]
    assert len(numbers) == len(set(numbers))
    for number in (0, *numbers, 70, 130):
        assert f"\n  {number} " in describe_statuses()


# -- other exceptions of a call ---------------------------------------------------------------


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A list; the command raises the exceptions that a test puts into it."""
    errors: list[BaseException] = []

    def define(name: str, parser: CommandParser) -> None:
        def run(options: object) -> int:
            raise errors[0]

        parser.set_run(run, shows_lines=name == "call")

    monkeypatch.setattr("spear.cli._parser.define", define)
    return errors


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
        (NotFound("nowhere"), 4, "spear: nowhere\n"),
        (SpawnFailed("no", stderr_tail="a\nb"), 6, "spear: no\n"),
        (WorkerDied("dead", stderr_tail="a\nb"), 7, "spear: dead\n"),
        (FunctionRaised("a\x07\tb\n\x9bc"), 1, "spear: Exception: a\\x07\tb\n\\x9bc\n"),
        (BaseExceptionGroup("g", [KeyboardInterrupt(), NotFound("x")]), 130, ""),
        (ExceptionGroup("g", [ExceptionGroup("h", [NotFound("x")])]), 4, "spear: x\n"),
        (
            OSError(errno.EMFILE, "None left"),
            71,
            "spear: operating system error: [Errno 24] None left\n",
        ),
        (MemoryError("none left"), 71, "spear: operating system error: none left\n"),
        (
            ExceptionGroup("g", [OSError(errno.ENOSPC, "x")]),
            71,
            "spear: operating system error: [Errno 28] x\n",
        ),
    ],
    ids=repr,
)
def test_failures_are_reported(
    raising: list[BaseException],
    error: BaseException,
    status: int,
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    raising.append(error)
    assert main(["call"]) == status
    assert capfd.readouterr() == ("", message)


def test_last_words_are_shown_if_they_have_not_been(
    raising: list[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    raising.append(WorkerDied("dead", stderr_tail="a\nb"))
    assert main(["restart"]) == 7
    assert capfd.readouterr() == ("", "spear: dead\n--- stderr ---\na\nb\n")


FULL = "spear: cannot write to standard output: No space left on device\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--help"], ["ps", "--help"], ["--version"], ["completion", "zsh"]]
)
def test_a_full_disk_is_told(terminal: Terminal, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = terminal.run(*words, stdout=full)
    assert (done.status, done.errors) == (70, FULL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "ps", "ps --json", "top --once", "logs", "result x", "scale shop 2", "drain", "invoke price",
        "--help", "--version", "call --help", "completion bash", "call shop.py:price tea",
        "serve shop.py --check", "serve shop.py --check --json", "serve shop.py --show-config",
    ],
)  # fmt: skip
def test_no_command_succeeds_without_standard_output(terminal: Terminal, line: str) -> None:
    """The command fails before it sends a request to a host."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *line.split()],
        cwd=terminal.place, stderr=subprocess.PIPE, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    if line.endswith("--json"):
        assert json.loads(done.stderr)["error"]["message"].startswith("standard output is closed")
    else:
        assert done.stderr == NO_OUTPUT


@pytest.mark.slow
def test_errors_never_go_to_standard_output(terminal: Terminal) -> None:
    """Python's print() writes to standard output if standard error is closed."""
    for words in (["ps", "--host", "none"], ["ps", "--host", "none", "--json"]):
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, *words],
            cwd=terminal.place, stdout=subprocess.PIPE, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (10, b"")


def test_what_standard_output_has_no_letters_for(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="ascii") as stdout,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", stdout)
        say("1 µs")
    assert capfd.readouterr().out == "1 \\xb5s\n"


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError(),
        ExceptionGroup("g", [ZeroDivisionError()]),
        FileNotFoundError(errno.ENOENT, "we should have known"),
    ],
    ids=repr,
)
def test_a_bug_shows_its_traceback(raising: list[BaseException], error: Exception) -> None:
    raising.append(error)
    with pytest.raises(type(error)):
        main(["call"])


def test_no_descriptor_is_left_to_read_modules_with(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def define(name: str, parser: CommandParser) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("spear.cli._parser.define", define)
    assert main(["call"]) == 71
    assert (
        capfd.readouterr().err == "spear: operating system error: [Errno 24] Too many open files\n"
    )
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["call"]) == 71


def test_no_thread_is_left_to_write_errors_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OSError, match="can't start new thread") as caught:
        ErrorLines()
    assert exit_status(caught.value) == 71


@pytest.mark.slow
def test_what_is_not_installed_is_named() -> None:
    code = (
        "import sys, spear.cli; sys.modules['wsproto'] = None; "
        "sys.exit(spear.cli.main(['serve', 'shop.py']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "spear: the HTTP gateway needs wsproto: install the extra spearlet[http]\n"


@pytest.mark.slow
def test_the_command_is_quick_to_say_no(terminal: Terminal) -> None:
    """Commands that run no functions themselves import neither an event loop nor the host's side."""
    nobody = ["--host", "nobody"]
    for words in (
        ["--version"], ["--help"], ["ps", *nobody], ["completion", "bash"], ["invoke", *nobody, "x"],
        ["top", *nobody], ["logs", *nobody], ["drain", *nobody],
    ):  # fmt: skip
        code = f"import sys, spear.cli; spear.cli.main({words}); print(*sorted(sys.modules))"
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        loaded = set(run.stdout.split())
        assert "spear.cli._main" in loaded
        assert not loaded & {"trio", "spear.spearlet", "spear.runtimes", "spear.channels", "cbor2"}
