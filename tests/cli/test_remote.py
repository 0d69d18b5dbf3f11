"""Finding a host, asking it, and handling answers that no host would send."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from spear import (
    CallFailed,
    ConfigurationError,
    DeadlineExceeded,
    FunctionRaised,
    HostLost,
    InvalidArguments,
    NoHost,
    NotFound,
    Overloaded,
    Rejected,
    SpawnFailed,
    SpearError,
    WorkerDied,
    _places,
)
from spear._places import directory, find, running, socket_path
from spear.cli import _remote, main
from spear.cli._failures import failure_from, failure_of
from spear.cli._remote import PIECE_BYTES, Remote
from spear.cli._status import exit_status

from .helpers import Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def options(host: str | None = None, token_file: str | None = None) -> argparse.Namespace:
    return argparse.Namespace(host=host, token_file=token_file)


@contextmanager
def answering(path: Path, answer: bytes | None, *more: bytes) -> Iterator[list[bytes]]:
    """Open a socket that answers requests with ``answer`` and ``more`` in turn; the last one repeats.

    Yields the requests. With None, requests get no answer.
    """
    requests: list[bytes] = []
    answers = [answer, *more]
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        listener.bind(str(path))
        listener.listen()

        def work() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                # A client may connect only to see whether a host listens.
                with closing(connection), suppress(OSError):
                    requests.append(whole_request(connection))
                    now = answers.pop(0) if len(answers) > 1 else answers[0]
                    if now is None:
                        connection.recv(1)  # until the client closes the connection
                    else:
                        connection.sendall(now)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield requests
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def whole_request(connection: socket.socket) -> bytes:
    """Receive a request. If a part stayed unread, closing the connection would reset it."""
    received = connection.recv(65536)
    while received:
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if len(body) >= (int(length[1]) if length else 0) and b"\r\n\r\n" in received:
            break
        more = connection.recv(65536)
        if not more:
            break
        received += more
    return received


def ok(body: bytes, head: bytes = b"") -> bytes:
    length = b"content-length: %d\r\n" % len(body)
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + length + head + b"\r\n" + body


# -- the choice of the host -------------------------------------------------------------------------


def test_where_hosts_are(
    own_temporary_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = str(own_temporary_directory / f"spear-{os.geteuid()}")
    assert directory() == ours
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    assert directory() == ours
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert socket_path("evening") == str(tmp_path / "spear" / "evening.sock")
    if os.geteuid() == 0:
        os.chown(tmp_path, 1234, 1234)  # after su, it belongs to another user
        assert directory() == ours


def test_nobody_runs(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(here))
    for words in (
        ["ps"],
        ["invoke", "price", "tea"],
        ["top"],
        ["logs"],
        ["drain"],
        ["scale", "a", "1"],
    ):
        done = run(*words)
        assert (done.status, done.output) == (10, b"")
        assert done.errors == "spear: no spearlet runs here: start one with `spear serve FILE.py`\n"
    done = run("ps", "--host", "evening")
    start = "start it with `spear serve --name evening FILE.py`"
    assert done.errors == f"spear: no spearlet named 'evening' runs here; {start}\n"


def test_the_one_that_runs_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    place = tmp_path / "spear"
    place.mkdir(mode=0o700)
    (place / "file.sock").touch()
    (place / "noise").touch()
    with answering(place / "evening.sock", ok(b"{}")):
        assert running() == ["evening"]
        assert find(None) == str(place / "evening.sock")
        assert Remote(options()).where == "the spearlet 'evening'"
        with answering(place / "noon.sock", ok(b"{}")):
            message = "2 spearlets run here: choose one with --host evening or --host noon"
            with pytest.raises(NoHost, match=message):
                find(None)
            assert find("noon") == str(place / "noon.sock")
            with pytest.raises(
                NoHost, match="named 'morning' runs here; running spearlets: evening, noon"
            ):
                find("morning")
            with answering(place / "default.sock", ok(b"{}")):
                assert find(None) == str(place / "default.sock")


def test_a_place_that_others_can_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "spear").mkdir()
    (tmp_path / "spear").chmod(0o777)
    for name in (None, "default"):
        with pytest.raises(ConfigurationError, match="must be a directory that only this user"):
            find(name)


def test_one_that_is_busy_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No task accepts, and the backlog is full."""
    monkeypatch.setattr(_places, "CONNECT_SECONDS", 0.01)
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        path = str(tmp_path / "s")
        listener.bind(path)
        listener.listen(0)
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as first:
            first.connect(path)
            assert _places.is_alive(path)
            with pytest.raises(NoHost, match="did not respond in time"):
                Remote(options(path), seconds=0.01).get("/")


# -- invalid answers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "closed the connection before it responded"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{", "closed the connection in the middle"),
        (b"SSH-2.0-OpenSSH\r\n", "sent an invalid response: it may not be a spearlet"),
        (ok(b"<html>"), "sent an invalid response: it may not be a spearlet"),
        (b"HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno", "the host responded with 404 and no reason"),
        (
            b"HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n{",
            "the host responded with 500 and no reason",
        ),
        (
            ok(b'{"error": {"kind": "NoSuchPath"}}').replace(b"200 OK", b"404 No"),
            "the host may have another version than this command",
        ),
    ],
)  # fmt: skip
def test_answers_that_make_no_sense(tmp_path: Path, answer: bytes, message: str) -> None:
    with answering(tmp_path / "s", answer), pytest.raises(SpearError, match=message):
        Remote(options(str(tmp_path / "s"))).get("/v1/statistics")


def test_an_answer_that_does_not_come(tmp_path: Path) -> None:
    with answering(tmp_path / "s", None), pytest.raises(NoHost, match="did not respond in time"):
        Remote(options(str(tmp_path / "s")), seconds=0.05).get("/")


def test_an_answer_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_remote, "MAX_ANSWER_BYTES", 3)
    with answering(tmp_path / "s", ok(b"[1, 2]")), pytest.raises(NoHost, match="more than 3 bytes"):
        Remote(options(str(tmp_path / "s"))).get("/")


def test_what_cannot_be_sent(tmp_path: Path) -> None:
    with answering(tmp_path / "s", ok(b"{}")):
        remote = Remote(options(str(tmp_path / "s")))
        with pytest.raises(SpearError, match="cannot be sent"):
            remote.get("/\n")
        with (
            pytest.raises(SpearError, match="cannot be sent: Invalid header value"),
            remote.request("GET", "/", headers={"Idempotency-Key": "a\nb"}),
        ):
            pass


def test_nobody_is_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(NoHost, match=r"/s is not running: No such file or directory; --host NAME"):
        Remote(options(str(tmp_path / "s")))
    with closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(tmp_path / "left"))
    remote = Remote(options(str(tmp_path / "left")))
    with pytest.raises(NoHost, match="is not running: no process listens at its address"):
        remote.get("/")
    (tmp_path / "left").unlink()  # the host ended at this moment
    with pytest.raises(NoHost, match="is not running"):
        remote.get("/")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(NoHost, match=r"http://127\.0\.0\.1:.* is not running"):
            Remote(options(f"http://127.0.0.1:{taken.getsockname()[1]}")).get("/")
    (tmp_path / "file").touch()
    for each in (str(tmp_path / "file"), str(tmp_path), "/\0"):
        with pytest.raises(ConfigurationError, match=r"^--host /.* is not a socket"):
            Remote(options(each))


def test_a_host_that_is_lost_may_have_done_what_it_was_asked(tmp_path: Path) -> None:
    half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"
    for answer, what in (
        (b"", "closed the connection before it responded"),
        (half, "in the middle"),
    ):
        with answering(tmp_path / "s", answer):
            remote = Remote(options(str(tmp_path / "s")))
            with pytest.raises(
                HostLost, match=f"{what}.*: the request may have been carried"
            ) as caught:
                remote.post("/", {})
            with pytest.raises(NoHost, match=what):
                remote.get("/")
        (tmp_path / "s").unlink()
        assert (exit_status(caught.value), caught.value.delivered) == (11, "maybe")
    with (
        answering(tmp_path / "s", None),
        pytest.raises(HostLost, match="did not respond in time: the request may have been carried"),
        Remote(options(str(tmp_path / "s")), seconds=0.05).request("POST", "/"),
    ):
        pass


@pytest.mark.parametrize("size", [1, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES])
def test_lines_as_they_come(tmp_path: Path, size: int) -> None:
    lines = [b"a" * size + b"\n", b"\n", b"b" * size + b"\n", b"c"]
    with (
        answering(tmp_path / "s", ok(b"".join(lines))),
        Remote(options(str(tmp_path / "s"))).request("GET", "/") as answer,
    ):
        assert list(answer.lines()) == lines


@pytest.mark.parametrize("cut", [b"", b"4\r\n{}\n\n\r\n", b"4\r\n{}", b"4\r\n{}\n\n\r\n0\r\n"])
def test_lines_that_are_cut_off_have_no_end(tmp_path: Path, cut: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    with (
        answering(tmp_path / "s", head + cut),
        Remote(options(str(tmp_path / "s"))).request("GET", "/") as answer,
    ):
        if cut.endswith(b"0\r\n"):  # complete, except the end of the last line
            assert list(answer.documents()) == [{}]
        else:
            with pytest.raises(NoHost, match="closed the connection in the middle of its response"):
                list(answer.documents())


def test_a_line_has_a_greatest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_remote, "MAX_ANSWER_BYTES", 99)
    with (
        answering(tmp_path / "s", ok(b"a" * 100)),
        Remote(options(str(tmp_path / "s"))).request("GET", "/") as answer,
        pytest.raises(NoHost, match="a line of more than 99 bytes"),
    ):
        list(answer.lines())


def test_http_and_https_are_taken_for_each_other(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def work() -> None:
            for answer in (b"", ok(b"7")):
                connection, _ = listener.accept()
                with closing(connection):
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=work)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(NoHost, match=r"before it responded; if it uses TLS, use https://$"):
            Remote(options(f"http://{address}")).get("/")
        with pytest.raises(NoHost, match=r"if it does not use TLS, use http://$"):
            Remote(options(f"https://{address}")).get("/")
        thread.join()


def test_a_path_below_a_url_that_nothing_is_at(tmp_path: Path) -> None:
    body = b'{"error": {"kind": "NoSuchPath"}}'
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def work() -> None:
            connection, _ = listener.accept()
            with closing(connection):
                connection.recv(65536)
                connection.sendall(ok(body).replace(b"200 OK", b"404 No"))

        thread = threading.Thread(target=work)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(
            ConfigurationError, match=f"^{url} has nothing at /foo: remove this path from"
        ):
            Remote(options(f"{url}/foo")).get("/v1/health")
        thread.join()


def test_those_that_leave_are_not_wanted_ones(run: Run, tmp_path: Path) -> None:
    body = b'{"name": "mine", "state": "ready", "statistics": {"ready": 4, "wanted": 3}}'
    with answering(tmp_path / "s", ok(body)):
        done = run("scale", "--host", str(tmp_path / "s"), "mine", "3")
    assert done.output == b"mine is ready: 3/3 ready, 1 more draining\n"


def test_names_that_are_none(run: Run, tmp_path: Path) -> None:
    with answering(tmp_path / "s", ok(b"{}")):
        host = ["--host", str(tmp_path / "s")]
        for words in (["scale", "", "1"], ["stop", ""], ["logs", ""], ["invoke", ""]):
            done = run(words[0], *host, *words[1:])
            kind = "function" if words[0] == "invoke" else "deployment"
            message = f"spear: the name of a {kind} must not be empty\n"
            assert (done.status, done.output, done.errors) == (2, b"", message)


def test_words_that_are_not_utf_8(run: Run, tmp_path: Path) -> None:
    wrong = os.fsdecode(b"\xff")
    with answering(tmp_path / "s", ok(b"{}")) as requests:
        host = ["--host", str(tmp_path / "s")]
        for words in (["scale", wrong, "1"], ["stop", wrong], ["logs", wrong], ["invoke", wrong]):
            done = run(words[0], *host, *words[1:])
            kind = "function" if words[0] == "invoke" else "deployment"
            message = f"spear: '\\udcff' is not the name of a {kind}: it is not UTF-8\n"
            assert (done.status, done.errors) == (2, message)
        run("logs", *host, "shop", "--instance", wrong)
        assert b"instance=%FF " in requests[-1]
        for word in (wrong, f"--{wrong}=3"):
            done = run("invoke", *host, "echo", word)
            assert (done.status, "contains \\udcff, which is not UTF-8" in done.errors) == (
                2,
                True,
            )


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port", "http://[::1"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(
        ConfigurationError, match="is not a valid URL: use http://HOST:PORT or https://"
    ):
        Remote(options(url))


def test_a_url_and_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        requests: list[bytes] = []

        def work() -> None:
            for _ in range(4):
                connection, _ = listener.accept()
                with closing(connection):
                    requests.append(whole_request(connection))
                    connection.sendall(ok(b"7"))

        thread = threading.Thread(target=work)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("SPEAR_HOST", f"{url}/below/")
        assert Remote(options()).get("/x") == 7
        monkeypatch.setenv("SPEAR_TOKEN", "from-the-environment")
        assert Remote(options()).get("/x") == 7
        (tmp_path / "token").write_text("from-a-file\n")
        remote = Remote(options(url, str(tmp_path / "token")))
        assert remote.where == url
        assert remote.post("/x", {"a": 1}) == 7
        monkeypatch.setenv("SPEAR_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.delenv("SPEAR_TOKEN")
        assert Remote(options(url)).get("/x") == 7
        thread.join()
    assert b"Authorization: Bearer from-a-file\r\n" in requests[3]
    assert requests[0].startswith(b"GET /below/x HTTP/1.1\r\n")
    assert b"Authorization" not in requests[0]
    assert b"Authorization: Bearer from-the-environment\r\n" in requests[1]
    assert requests[2].startswith(b"POST /x HTTP/1.1\r\n")
    assert b"Authorization: Bearer from-a-file\r\n" in requests[2]


def test_tokens_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    with pytest.raises(ConfigurationError, match=r"cannot read .*/token: No such file"):
        Remote(options("http://x", str(file)))
    for content in (b"", b"\n", b"a\nb", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="token contains no valid token"):
            Remote(options("http://x", str(file)))
    monkeypatch.setenv("SPEAR_TOKEN", "a\x07")
    with pytest.raises(ConfigurationError, match="SPEAR_TOKEN contains no valid token"):
        Remote(options("http://x"))


def test_control_characters_do_not_reach_the_terminal(run: Run, tmp_path: Path) -> None:
    answer = b'{"error": {"kind": "NotFound", "message": "no \\u001b[2J"}}'
    head = b"HTTP/1.1 404 No\r\ncontent-type: application/json\r\n"
    with answering(tmp_path / "s", head + b"content-length: %d\r\n\r\n" % len(answer) + answer):
        done = run("ps", "--host", str(tmp_path / "s"))
    assert (done.status, done.errors) == (4, "spear: no \\x1b[2J\n")


# -- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ({"kind": "NotFound", "message": "no"}, NotFound, "no"),
        ({"kind": "FunctionRaised", "type": "ValueError", "message": ""}, FunctionRaised, "ValueError"),
        ({"kind": "InvalidArguments", "message": "price(): no"}, InvalidArguments, "price(): no"),
        ({"kind": "DeadlineExceeded", "message": "late"}, DeadlineExceeded, "late"),
        ({"kind": "Rejected", "message": "no"}, Rejected, "no"),
        ({"kind": "CallFailed"}, CallFailed, "the host responded with 418 CallFailed"),
        (
            {"kind": "FunctionRaised", "type": "KeyError", "message": "'x'"},
            FunctionRaised,
            "KeyError: 'x'",
        ),
        (
            {"kind": "FunctionRaised", "type": "KeyError", "message": "", "traceback": "T"},
            FunctionRaised,
            "KeyError\nT",
        ),
        ({"kind": "WorkerDied", "message": "m", "stderr_tail": "t"}, WorkerDied, "m\n--- stderr ---\nt"),
        (
            {"kind": "SpawnFailed", "message": "m", "stderr_tail": "t"},
            SpawnFailed,
            "m\n--- stderr ---\nt",
        ),
        ({"kind": "Overloaded", "message": "full"}, Overloaded, "full; try again in 3 s"),
        ({"kind": "Busy", "code": "busy", "message": "try again"}, Overloaded, "try again"),
        (
            {"kind": "Unauthorized", "message": "no token"},
            ConfigurationError,
            "no token; pass the host's token with --token-file FILE or SPEAR_TOKEN",
        ),
        ({"kind": "Forbidden", "message": "not here"}, ConfigurationError, "not here"),
        ({"kind": "InternalError", "message": "a bug"}, SpearError, "a bug"),
        ({}, SpearError, "the host responded with 418 None"),
    ],
)  # fmt: skip
def test_errors_are_those_of_a_program(
    error: dict[str, object], kind: type[SpearError], message: str
) -> None:
    failure = failure_from(error, 418, {"retry-after": "3"})
    assert type(failure) is kind
    assert str(failure) == message


def test_what_may_have_been_executed() -> None:
    assert failure_from({"kind": "WorkerDied", "message": "m", "delivered": "no"}).delivered == "no"
    assert failure_from({"kind": "WorkerDied", "message": "m"}).delivered == "maybe"
    assert failure_of(500, "application/json", b"[]", {}).delivered == "maybe"


# -- streamed lines -----------------------------------------------------------------------------------


def test_lines_that_were_lost(run: Run, tmp_path: Path) -> None:
    body = b'{"lost": 3}\n\n[]\n{"instance": "process:a-1#1", "stream": "stdout", "text": "a\\u001b"}\n'
    with answering(tmp_path / "s", ok(body)):
        done = run("logs", "a", "--host", str(tmp_path / "s"))
    first, second = done.output.decode().splitlines()
    assert first == "... 3 lines were lost: they came faster than they were read"
    assert second.endswith(" a-1#1 stdout: a\\x1b")


def test_a_line_that_is_cut_off(run: Run, tmp_path: Path) -> None:
    with answering(tmp_path / "s", ok(b'{"lost": 3}\n{"inst')):
        done = run("logs", "a", "-f", "--host", str(tmp_path / "s"))
        assert done.output.startswith(b"... 3 lines")
        assert (done.status, "ended its response within a line" in done.errors) == (10, True)
        done = run("top", "--once", "--host", str(tmp_path / "s"))
        assert done.status == 10


def test_a_reader_that_has_gone_ends_the_logs_before_the_next_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    with (
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener,  # never answers
        open(writer, "w") as output,
        monkeypatch.context() as patch,
    ):
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        patch.setattr(sys, "stdout", output)
        os.close(reader)
        assert main(["logs", "a", "-f", "--host", str(tmp_path / "s")]) == 141


def test_no_thread_of_the_logs_outlives_the_command(run: Run, tmp_path: Path) -> None:
    """It would wait for a descriptor that is no longer the command's."""
    before = set(threading.enumerate())
    with answering(tmp_path / "s", ok(b'{"lost": 3}\n')):
        assert run("logs", "a", "-f", "--host", str(tmp_path / "s")).status == 0
    assert "reader of the output" not in {each.name for each in set(threading.enumerate()) - before}


def test_a_host_that_ends_before_there_are_rates(run: Run, tmp_path: Path) -> None:
    with answering(tmp_path / "s", ok(b'{"time": 3}\n')):
        done = run("top", "--once", "--host", str(tmp_path / "s"))
    assert (done.status, done.output) == (10, b"")
    assert "has stopped" in done.errors


def test_items_that_are_none(run: Run, tmp_path: Path) -> None:
    with answering(tmp_path / "s", ok(b'{"kind": "stream"}'), ok(b'"a"\n{')):
        done = run("invoke", "--host", str(tmp_path / "s"), "price")
    assert (done.status, done.output) == (10, b'"a"\n')
    assert "sent an invalid response: it may not be a spearlet" in done.errors


def test_a_host_that_describes_nothing(run: Run, tmp_path: Path) -> None:
    refused = b'{"error": {"kind": "InvalidArguments", "message": "no"}}'
    with answering(
        tmp_path / "s", ok(b"{}"), ok(refused).replace(b"200 OK", b"400 No"), b"neither HTTP"
    ):
        done = run("invoke", "--host", str(tmp_path / "s"), "price")
    assert (done.status, done.errors) == (3, "spear: no\n")
    with answering(tmp_path / "t", ok(b'{"kind": "stream"}')):
        done = run("invoke", "--host", str(tmp_path / "t"), "price", "--help")
        assert done.output == b"price\n"
