"""``breakpoint()`` in the process of an instance, against a host that this test plays."""

from __future__ import annotations

import bdb
import json
import socket
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from spear import _debugger
from spear._breakpoints import MAX_LINE_BYTES, VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class PlayedHost:
    """A host whose messages a test chooses, and which records those of the debugger."""

    def __init__(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("")
        self.listener.listen()
        self.heard: list[dict[str, str]] = []

    def answer(self, *answers: dict[str, str]) -> Callable[[], None]:
        """Accept one connection in a thread: an answer to the first message, and to each prompt."""

        def run() -> None:
            sock, _ = self.listener.accept()
            left = list(answers)
            with sock, sock.makefile("rb") as lines:
                for line in lines:
                    self.heard.append(json.loads(line))
                    if self.heard[-1].keys() & {"place", "prompt"}:
                        if not left:
                            break
                        sock.sendall(json.dumps(left.pop(0)).encode() + b"\n")

        thread = threading.Thread(target=run)
        thread.start()
        return thread.join

    def said(self, key: str) -> list[str]:
        """Return the values of the messages with a key."""
        return [each[key] for each in self.heard if key in each]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedHost]:
    host = PlayedHost()
    monkeypatch.setenv(VARIABLE, host.listener.getsockname()[1:].decode())
    monkeypatch.setattr(_debugger, "_passed", set())
    yield host
    host.listener.close()


def run_apart(work: Callable[[], object]) -> list[object]:
    """Run a function in a thread, whose tracing the debugger may end; return its result or exception."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results


def stopping(header: str = "", commands: tuple[str, ...] = ()) -> int:
    value = 1
    _debugger.stop_at(sys._getframe(), header, commands)
    value += 1
    return value


def test_lines_reach_the_debugger_and_its_output_the_terminal(played: PlayedHost) -> None:
    join = played.answer({"attached": ""}, {"line": "value = 41"}, {"line": "c"})
    assert run_apart(lambda: stopping("look here", ("p value",))) == [42]
    join()
    (place,) = played.said("place")
    assert place.startswith("test_debugger.py:")
    assert place.endswith(" in stopping")
    assert "".join(played.said("text")).startswith("look here\n")
    assert "1\n" in "".join(played.said("text"))
    assert played.said("prompt") == ["(Pdb) ", "(Pdb) "]
    assert played.said("end") == ["continued"]


def test_quit_raises_in_the_function_and_ends_the_tracing(played: PlayedHost) -> None:
    join = played.answer({"attached": ""}, {"line": "q"})
    (error,) = run_apart(stopping)
    join()
    assert type(error) is bdb.BdbQuit
    assert played.said("end") == ["quit"]


@pytest.mark.parametrize("last", [{"detached": ""}, None])
def test_a_detached_terminal_and_a_lost_host_let_the_function_go_on(
    last: dict[str, str] | None, played: PlayedHost
) -> None:
    join = played.answer({"attached": ""}, *([last] if last else []))
    assert run_apart(stopping) == [2]
    join()
    assert len(played.said("prompt")) == 1


def test_breakpoints_of_the_debugger_keep_its_connection(played: PlayedHost) -> None:
    line = stopping.__code__.co_firstlineno + 4
    join = played.answer(
        {"attached": ""}, {"line": f"b {__file__}:{line}"}, {"line": "c"}, {"line": "p value"},
        {"line": "c"}, {"line": "c"}, {"detached": ""},
    )  # fmt: skip
    assert run_apart(lambda: (stopping(), stopping())) == [(2, 2)]
    join()
    assert "2\n" in "".join(played.said("text"))
    assert len(played.said("place")) == 1  # the second call stopped on the same connection
    assert len(played.said("prompt")) == 6


def test_a_host_that_stops_its_debugger_lets_the_function_go_on(
    played: PlayedHost, caplog: pytest.LogCaptureFixture
) -> None:
    join = played.answer()
    assert stopping() == 2
    join()
    assert "was passed over: the host has stopped its debugger" in caplog.text


def test_a_host_that_has_gone_is_named(
    played: PlayedHost, caplog: pytest.LogCaptureFixture
) -> None:
    played.listener.close()
    assert stopping() == 2
    assert "the debugger of the host cannot be reached" in caplog.text


def test_another_users_socket_is_refused(
    played: PlayedHost, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spear._breakpoints.os.geteuid", lambda: 4711)
    assert stopping() == 2
    assert "another user listens there" in caplog.text


def test_a_served_host_passes_a_breakpoint_over_and_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(_debugger, "_passed", set())
    assert [stopping(), stopping()] == [2, 2]
    (record,) = caplog.records
    assert "was passed over: only `spear dev` has a debugger" in record.message


def test_a_value_of_any_size_is_cut_to_a_line_of_the_exchange() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        exchange = _debugger.Exchange(ours)
        exchange.is_open = True
        exchange.write("\N{GRINNING FACE}" * MAX_LINE_BYTES + "\n")
        reading = threading.Thread(target=exchange.flush)
        reading.start()
        with theirs.makefile("rb") as lines:
            line = lines.readline()
        reading.join()
        assert len(line) < MAX_LINE_BYTES
        assert json.loads(line)["text"].endswith(" ...\n")
        exchange.close()
        exchange.flush()
        assert exchange.readline() == ""
