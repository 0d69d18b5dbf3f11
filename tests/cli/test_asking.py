"""The commands that ask a running host; most of these tests share one host."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
import trustme

from .helpers import COMMAND, NO_OUTPUT, PATIENCE_SECONDS, Run, completions, read_until
from .serving import TILL, Host, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef-the-token"
MOST_BYTES = 48 << 20
"""Maximum bytes of a request that the host accepts: more than a message has."""


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    place = tmp_path_factory.mktemp("asked")
    (place / "token").write_text(TOKEN)
    (place / "shop.py").write_text(SHOP)
    most = f"gateway.max_body_bytes={MOST_BYTES}"
    with serving(place, "shop.py", "till.py", "--token-file", "token", "--set", most) as host:
        yield host


SHOP = '''
import spear
app = spear.Agent("shop")

@app.function
async def echo(*values: object, **named: object) -> object:
    return [*values, named] if named else values[0] if len(values) == 1 else list(values)

@app.function
async def price(item: str, *, currency: str = "EUR", timeout: int = 0) -> str:
    """What it costs."""
    return f"{item} {currency} {timeout}"

@app.function
def reverse(data: bytes) -> bytes:
    return data[::-1]

@app.function
async def size(data: bytes) -> int:
    return len(data)

@app.function
async def flag(*, loud: bool = False) -> bool:
    return loud

@app.function
async def boom(text: str = "it broke") -> None:
    raise ValueError(text)

@app.function
async def odd() -> object:
    return {"bytes": b"\\xff\\x00", b"key": [None, 1.5, "größe"], "nan": float("nan")}

@app.function
async def pieces(number: int):
    for each in range(number):
        yield b"%d;" % each

@app.function
async def one_and_fail():
    yield "first"
    raise ValueError("no second")
'''


# -- invoke -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["price", "tea"], b'"tea EUR 0"\n'),
        (["price", "tea", "--currency", "GBP", "--", "--timeout", "3"], b'"tea GBP 3"\n'),
        (["shop.price", "tea", "--timeout", "20", "--session=a"], b'"tea EUR 0"\n'),
        (["price", "tea", "--timeout", "inf"], b'"tea EUR 0"\n'),
        (["echo", "7", '"7"', "[1]", '{"a": null}'], b'[7, "7", [1], {"a": null}]\n'),
        (["echo", "größe"], '"größe"\n'.encode()),
        (["echo", "[1, 2]"], b"[1, 2]\n"),
        (["echo", '{"a": 1}'], b'{"a": 1}\n'),
        (["echo"], b"[]\n"),
        (["echo", "--a", "1"], b'[{"a": 1}]\n'),
        (["echo", '{"$float": "inf"}'], b'{"$float": "inf"}\n'),
        (["echo", "9" * 5000], b"9" * 5000 + b"\n"),
        (["reverse", "-"], b"tupni"),
        (["reverse", '{"$bytes": "AAE="}'], b"\x01\x00"),
        (["odd"], None),
        (["pieces", "3"], b"0;1;2;"),
        (["ticks", "3"], b"0\n1\n2\n"),
        (["price", "1.10", "--currency", "7"], b'"1.10 7 0"\n'),
        (["price", "--help"], b"price(item: str, *, currency: str = 'EUR', timeout: int = 0) -> str\n"),
    ],
    ids=lambda value: " ".join(value)[:80] if isinstance(value, list) else "",
)  # fmt: skip
def test_output_is_that_of_a_call(
    host: Host, run: Run, here: Path, words: list[str], output: bytes | None
) -> None:
    done = run("invoke", *words, stdin=b"input")
    assert (done.status, done.errors) == (0, "")
    if output is None:
        result = json.loads(done.output)
        assert result["bytes"] == {"$bytes": base64.b64encode(b"\xff\x00").decode()}
        assert result['{"$bytes": "a2V5"}'] == [None, 1.5, "größe"]
        assert result["nan"] == {"$float": "nan"}
    else:
        assert done.output == output


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["boom"], 1, "spear: ValueError: it broke\n"),
        (["boom", "a\x1b[2J"], 1, "spear: ValueError: a\\x1b[2J\n"),
        (["price"], 3, "usage: price(item: str"),
        (["flag", "--loud", "yes"], 3, "hint: pass true or false, as in --loud true\n"),
        (["price", "tea", "--timeout", "3", "--colour", "red"], 3, "hint: --timeout is an option of"),
        (["prize", "tea"], 4, "did you mean 'price'?"),
        (["wait_for_ever"], 4, "no deployment has a function"),
        (["endless", "--timeout", "0.2"], 5, "endless took longer than 0.2 s"),
        (["boom", ""], 1, "spear: ValueError\n"),
        (["crash"], 7, " exited with status 3\n--- stderr ---\nlast words\n"),
        (["total", "[1]"], 3, "hint: a command line cannot send items"),
        (["one_and_fail"], 1, "spear: ValueError: no second\n"),
        (["ticks", "2", "--async"], 9, "ticks() gives a stream of items, and cannot be submitted"),
        (["ticks", "2", "--key", "k"], 2, "Idempotency-Key is not supported for streams"),
        ([], 2, "no function was given: use spear invoke NAME\nusage: spear invoke [options] NAME"),
        (["price", "--timeout", "0"], 2, "--timeout must be more than 0"),
        (["price", "--timeout", "soon"], 2, "--timeout needs a number, not 'soon'"),
        (["price", "--key"], 2, "--key needs a value"),
        (["price", "--host", "nobody"], 10, "no spearlet named 'nobody' runs here; running spearlets: d"),
    ],
    ids=lambda value: " ".join(value).replace("\x1b", "") if isinstance(value, list) else "",
)  # fmt: skip
def test_failures_are_those_of_a_call(
    host: Host, run: Run, words: list[str], status: int, message: str
) -> None:
    done = run("invoke", *words)
    assert message in done.errors
    assert done.status == status


def test_bytes_may_be_as_large_as_the_host_allows(host: Host, run: Run) -> None:
    done = run("invoke", "size", "-", stdin=bytes(40 << 20))
    assert (done.status, done.output, done.errors) == (0, b"%d\n" % (40 << 20), "")
    done = run("invoke", "size", "-", stdin=bytes(MOST_BYTES + 1))
    assert done.status == 2
    assert done.errors == (
        f"spear: the body has more than {MOST_BYTES} bytes: send less, or raise the host's "
        "max_body_bytes\n"
    )


def test_a_key_is_good_for_one_effect(host: Host, run: Run) -> None:
    outputs = [run("invoke", "count", "--key", "k1").output for _ in range(3)]
    assert len(set(outputs)) == 1
    assert run("invoke", "count").output not in outputs


def test_a_call_that_nobody_waits_for(host: Host, run: Run) -> None:
    number = run("invoke", "till.say", "later", "--async").output.decode().strip()
    assert number
    host.hear("stdout: later")


def test_a_stream_as_it_comes_and_a_caller_who_leaves(host: Host) -> None:
    with host.invoke("endless") as process:
        assert read_until(process.stdout, b"tick") == b'"tick"\n'
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) in (130, -signal.SIGINT)
    command = f"{' '.join(COMMAND)} invoke endless; echo $? >&2"
    done = subprocess.run(
        ["sh", "-c", f"({command}) | head -n 1"],
        env={**os.environ, **host.environment},
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b'"tick"\n', b"141\n")
    # Both calls are cancelled.
    wait_until(lambda: b'"calls_in_flight":0' in statistics(host).replace(b" ", b""))


def statistics(host: Host) -> bytes:
    with host.ask("ps", "--json") as process:
        return process.communicate(timeout=PATIENCE_SECONDS)[0]


def test_over_tcp_it_takes_the_token(
    host: Host, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = host.said["urls"]
    assert isinstance(urls, list)
    url = str(urls[0])
    assert run(
        "invoke", "price", "tea", "--host", url, "--token-file", str(host.place / "token")
    ).output
    done = run("invoke", "price", "tea", "--host", url)
    assert done.status == 2
    assert "pass the host's token with --token-file FILE or SPEAR_TOKEN" in done.errors
    monkeypatch.setenv("SPEAR_TOKEN", TOKEN)
    monkeypatch.setenv("SPEAR_HOST", url)
    assert run("invoke", "price", "tea").output == b'"tea EUR 0"\n'
    assert f"{url}" not in run("ps").errors
    monkeypatch.setenv("SPEAR_TOKEN", "another-token-altogether")
    assert run("ps").status == 2


def test_over_tls_it_takes_a_certificate_that_is_known(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    (tmp_path / "token").write_text(TOKEN)
    words = ("--tls-cert", "both.pem", "--tls-key", "both.pem", "--token-file", "token")
    with serving(tmp_path, "till.py", *words) as host:
        urls = host.said["urls"]
        assert isinstance(urls, list)
        assert str(urls[0]).startswith("https://127.0.0.1:")
        monkeypatch.setenv("SPEAR_TOKEN", TOKEN)
        monkeypatch.setenv("SPEAR_HOST", str(urls[0]))
        done = run("invoke", "greet")
        assert (done.status, "cannot be reached" in done.errors) == (10, True)
        assert "certificate" in done.errors
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert run("invoke", "greet").output == b'"hello you"\n'
        assert host.end()[0] == 0


def test_no_output_to_write_to(host: Host) -> None:
    for words in (["invoke", "price", "tea"], ["invoke", "ticks", "2"]):
        done = subprocess.run(
            ["sh", "-c", f"{' '.join(COMMAND)} {' '.join(words)} >&-"],
            env={**os.environ, **host.environment},
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert (done.returncode, done.stderr) == (2, NO_OUTPUT)
    with open("/dev/full", "wb") as full:
        process = subprocess.run(
            [*COMMAND, "invoke", "price", "tea"],
            env={**os.environ, **host.environment}, stdout=full, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert process.returncode == 70
    assert b"cannot write to standard output: No space left" in process.stderr


# -- ps ---------------------------------------------------------------------------------------------


def test_what_runs(host: Host, run: Run) -> None:
    run("invoke", "price", "tea")
    done = run("ps")
    lines = done.output.decode().splitlines()
    assert (done.status, done.errors) == (0, "")
    assert lines[0].startswith(f"spearlet default, pid {host.process.pid}, running for ")
    assert any(
        line.startswith("shop  ") and " ready " in line and " 1/1 " in line for line in lines
    )
    (price,) = [line.split() for line in lines if line.startswith("shop.price ")]
    assert int(price[1]) > 0
    assert price[3].endswith("s")
    assert "INSTANCE" not in done.output.decode()
    text = run("ps", "-i").output.decode()
    (instance,) = [line.split() for line in text.splitlines() if line.startswith("process:shop-1#")]
    assert instance[1] == "ready"
    assert int(instance[2]) > 0
    assert json.loads(run("ps", "--json").output)["name"] == "default"


# -- logs -------------------------------------------------------------------------------------------


def test_what_was_written(host: Host, run: Run) -> None:
    for text in ("one", "two\x1b[2J"):
        assert run("invoke", "say", text).status == 0
    done = run("logs", "till")
    lines = done.output.decode().splitlines()
    written = [line.partition(" ")[2] for line in lines]
    assert any(line.startswith("till-1#") and line.endswith(" stdout: one") for line in written)
    assert any(line.endswith(" stderr: again one") for line in written)
    assert "\x1b" not in done.output.decode()
    assert len(run("logs", "till", "-n", "1").output.splitlines()) == 1
    assert run("logs", "till", "--tail", "0").output == b""
    assert b"again one" in run("logs").output
    assert run("logs", "shop").output.count(b"again") == 0
    line = json.loads(run("logs", "till", "--json").output.splitlines()[-1])
    assert line["instance"].startswith("process:till-1#")
    instance = line["instance"]
    assert b"again" in run("logs", "till", "--instance", instance).output
    assert run("logs", "till", "--instance", "process:till-9#1").output.count(b"again") == 0
    for words in (["logs", "tilt"], ["logs", "tilt", "-f"]):
        done = run(*words)
        assert (done.status, done.output) == (4, b"")
    done = run("logs", "till", "--tail", "-1")
    assert (done.status, "--tail must be at least 0, not -1" in done.errors) == (2, True)


@pytest.mark.parametrize("names", [["till"], []])
def test_what_is_being_written(host: Host, run: Run, names: list[str]) -> None:
    with host.ask("logs", *names, "-f", "-n", "0") as process:
        # The command may not have begun to follow yet.
        def is_heard() -> bool:
            run("invoke", "say", "now")
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            return b"stdout: now" in (process.stdout.read() or b"")

        wait_until(is_heard)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) in (130, -signal.SIGINT)


# -- operating --------------------------------------------------------------------------------------


def test_how_many(host: Host, run: Run) -> None:
    done = run("scale", "shop", "2")
    assert (done.status, done.output) == (0, b"shop is ready: 2/2 ready\n")
    deployment = json.loads(run("scale", "shop", "1-3", "--json").output)
    assert deployment["settings"]["replicas"]["max"] == 3
    assert run("scale", "shop", "1").status == 0
    done = run("scale", "shop", "many")
    assert (done.status, "must be N or MIN-MAX, as in 4 or 1-8" in done.errors) == (2, True)
    assert run("scale", "shop", "9" * 5000).status == 2
    assert run("scale", "shop", "3-1").status in (2, 3)
    assert run("scale", "shops", "1").status == 4


def test_new_ones_instead_of_the_old(host: Host, run: Run) -> None:
    before = run("ps", "-i").output
    done = run("restart", "shop", "till")
    assert (done.status, done.output) == (
        0,
        b"shop is ready: 1/1 ready\ntill is ready: 1/1 ready\n",
    )
    assert run("ps", "-i").output != before
    (shop,) = json.loads(run("restart", "shop", "--json").output)["deployments"]
    assert shop["name"] == "shop"
    (host.place / "shop.py").write_text("raise ValueError('no good')\n")
    done = run("restart", "shop")
    assert done.status == 6
    assert "--- stderr ---\nTraceback " in done.errors
    assert done.errors.endswith("ValueError: no good\n")
    done = run("scale", "shop", "2")  # loads the file for a zygote
    assert (done.status, done.errors.endswith("ValueError: no good\n")) == (6, True)
    assert b" shop-zygote#1 stderr: Traceback " in run("logs", "shop").output
    run("scale", "shop", "1")
    assert run("invoke", "price", "tea").output == b'"tea EUR 0"\n'
    (host.place / "shop.py").write_text(SHOP)


def test_names_are_completed(host: Host, run: Run) -> None:
    assert completions(run, "restart", "") == ["shop", "till"]
    assert completions(run, "restart", "shop", "t") == ["till"]
    assert completions(run, "scale", "s") == ["shop"]
    assert completions(run, "scale", "shop", "") == []
    assert completions(run, "invoke", "pri") == ["price"]
    assert completions(run, "invoke", "--timeout", "2", "till.c") == [
        "till.chatter",
        "till.count",
        "till.crash",
    ]
    assert completions(run, "logs", "-f", "") == ["shop", "till"]
    assert completions(run, "ps", "--host", "") == ["default"]
    assert completions(run, "attach", "") == ["shop-1", "till-1"]


def test_a_served_host_has_no_debugger(host: Host, run: Run) -> None:
    done = run("attach", "shop-1")
    assert (done.status, done.output) == (9, b"")
    assert "this host has no debugger: serve the program with `spear dev`" in done.errors


def test_the_end_of_a_deployment_and_of_a_host(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, "till.py", "more=till.py") as host:
        for name, value in host.environment.items():
            monkeypatch.setenv(name, value)
        assert run("stop", "more").output == b"more is stopped\n"
        assert run("stop", "more").status == 4
        assert run("invoke", "greet").output == b'"hello you"\n'
        done = run("drain", "--seconds", "nan")
        assert (done.status, "needs a number, not 'nan'" in done.errors) == (2, True)
        assert run("drain", "--seconds", "inf").status == 2
        assert run("drain", "--seconds", "9" * 40).errors.startswith("spear: --seconds must be")
        assert run("invoke", "say", "farewell").status == 0
        with host.ask("logs", "-f") as following:
            read_until(following.stdout, b"farewell")
            with host.ask("drain", "--seconds", "20") as draining:
                said = draining.communicate(timeout=PATIENCE_SECONDS)[0]
                assert said == b"the spearlet 'default' has drained and stopped\n"
            assert following.wait(PATIENCE_SECONDS) in (0, 10)
        assert host.process.wait(PATIENCE_SECONDS) == 0


def test_a_drain_that_nobody_waits_for(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, "till.py") as host:
        for name, value in host.environment.items():
            monkeypatch.setenv(name, value)
        assert run("stop", "till").status == 0
        assert run("logs").status == 4
        assert run("drain", "--no-wait").output == b"the spearlet 'default' is draining\n"
        assert host.process.wait(PATIENCE_SECONDS) == 0


def test_a_deployment_that_is_not_well(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command shows the reason, and the last output of the instances."""
    (tmp_path / "till.py").write_text(TILL)
    (tmp_path / "spear.toml").write_text(
        '[functions.till]\nsource = "till.py"\n'
        "restart = { intensity = 0, first_delay_seconds = 0, retry_seconds = inf }\n"
    )
    with serving(tmp_path) as host:
        for name, value in host.environment.items():
            monkeypatch.setenv(name, value)
        assert run("invoke", "crash").status == 7
        wait_until(lambda: b"unhealthy" in run("ps").output)
        text = run("ps").output.decode()
        assert "last output of till:\n" in text
        assert "  last words" in text
        assert run("invoke", "greet").status == 7
