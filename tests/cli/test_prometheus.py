"""A real Prometheus scrapes a host of ``spear serve``, as configured in ``deploy/prometheus``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from .helpers import PATIENCE_SECONDS
from .serving import serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .serving import Host

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy" / "prometheus"
TOKEN: Final = "a-token-for-tests-0123456789"

_SEARCHED: Final = f"{os.environ.get('PATH', '')}:{ROOT / 'build' / 'prometheus' / 'usr' / 'bin'}"
PROMETHEUS: Final = shutil.which("prometheus", path=_SEARCHED)
PROMTOOL: Final = shutil.which("promtool", path=_SEARCHED)

LISTENING: Final = "0A"
"""The state of a listening socket in /proc/net/tcp."""

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool was not found: run .ci/get-prometheus to test the rules"
)


def promtool(*words: str, stdin: bytes = b"") -> str:
    """Run promtool, which must succeed; return its output."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *words],
        input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


@needs_promtool
def test_prometheus_accepts_the_configuration_and_the_rules() -> None:
    assert "7 rules found" in promtool("check", "config", str(DEPLOY / "prometheus.yml"))


def test_the_document_lists_each_alert_in_order() -> None:
    document = (ROOT / "docs" / "operating.md").read_text("utf-8")
    rules = (DEPLOY / "spear.rules.yml").read_text("utf-8")
    listed = re.findall(r"^\| `(Spear\w+)` \|", document, re.MULTILINE)
    assert listed == re.findall(r"- alert: (\w+)", rules)


@needs_promtool
def test_each_alert_fires_for_a_host_in_trouble_alone() -> None:
    promtool("test", "rules", str(Path(__file__).with_name("alerts.yml")))  # raises nothing


def call(host: Host, function: str) -> None:
    """Call a function over HTTP."""
    connection = host.connect()
    try:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        connection.request("POST", f"/v1/functions/{function}/call", b"{}", headers)
        connection.getresponse().read()
    finally:
        connection.close()


def configure(place: Path, host: Host, token: Path) -> Path:
    """Write the files of ``deploy/`` for a host with a token; return the path of the first."""
    shutil.copy(DEPLOY / "spear.rules.yml", place)
    text = (DEPLOY / "prometheus.yml").read_text()
    urls = host.said["urls"]
    assert isinstance(urls, list)
    for shown, actual in {
        "127.0.0.1:8080": str(urls[0]).removeprefix("http://"),
        "15s": "100ms",
        "# authorization": "authorization",
        "#   credentials_file: /etc/spear/token": f"  credentials_file: {token}",
    }.items():
        assert shown in text
        text = text.replace(shown, actual)
    path = place / "prometheus.yml"
    path.write_text(text)
    return path


def listening_port(pid: int) -> int | None:
    """Return the TCP port on which a process listens; None if it does not listen yet."""
    places = Path(f"/proc/{pid}/fd")
    sockets = {os.readlink(each) for each in places.iterdir() if each.is_symlink()}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == LISTENING and f"socket:[{inode}]" in sockets:
            return int(local.partition(":")[2], 16)
    return None


@contextmanager
def running_prometheus(place: Path, configuration: Path) -> Iterator[str]:
    """Run Prometheus on any port while the block runs; yield the address of its API."""
    assert PROMETHEUS is not None
    words = (
        f"--config.file={configuration}",
        f"--storage.tsdb.path={place / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    )
    with (place / "log").open("wb") as log:
        process = subprocess.Popen([PROMETHEUS, *words], stdout=log, stderr=log)
    with process:
        try:
            wait_until(
                lambda: process.poll() is not None or listening_port(process.pid) is not None
            )
            assert process.poll() is None, (place / "log").read_text()
            yield f"http://127.0.0.1:{listening_port(process.pid)}/api/v1"
        finally:
            process.kill()


def asked(address: str) -> dict[str, object]:
    """Return the data of a response of Prometheus; empty while it still starts."""
    try:
        with urlopen(address, timeout=PATIENCE_SECONDS) as response:
            data = json.load(response)["data"]
    except OSError:
        return {}
    assert isinstance(data, dict)
    return data


def values(api: str, query: str) -> list[str]:
    """Return the values of a query's result."""
    found = asked(f"{api}/query?query={quote(query)}").get("result", [])
    assert isinstance(found, list)
    return [each["value"][1] for each in found]


@pytest.mark.slow
@pytest.mark.skipif(
    PROMETHEUS is None, reason="Prometheus was not found: run .ci/get-prometheus to test with it"
)
def test_prometheus_scrapes_a_host_and_answers_with_its_numbers(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with serving(tmp_path, "till.py", "--replicas", "2", "--token-file", str(token)) as host:
        for _ in range(3):
            call(host, "greet")
        call(host, "crash")
        with running_prometheus(tmp_path, configure(tmp_path, host, token)) as api:
            ok = 'spear_calls_total{job="spear",deployment="till",function="greet",outcome="ok"}'
            wait_until(lambda: values(api, ok) == ["3"])
            call(host, "greet")
            wait_until(lambda: values(api, ok) == ["4"])
            died = 'sum(spear_calls_total{function="crash",outcome="WorkerDied"})'
            assert values(api, died) == ["1"]
            assert values(api, "spear_replica_losses_total") == ["1"]
            assert values(api, "spear_replicas_wanted") == ["2"]
            fast = 'spear_call_duration_seconds_bucket{function="greet",le="+Inf"}'
            assert values(api, fast) == ["4"]
            # Every rule is evaluated, and none has an error.
            wait_until(lambda: _healths(api) == {"ok"})


def _healths(api: str) -> set[str]:
    groups = asked(f"{api}/rules").get("groups", [])
    assert isinstance(groups, list)
    return {rule["health"] for group in groups for rule in group["rules"]}


@pytest.mark.slow
@needs_promtool
def test_promtool_finds_nothing_to_improve_in_the_metrics(tmp_path: Path) -> None:
    with serving(tmp_path, "till.py") as host:
        call(host, "greet")
        status, body = host.get("/metrics")
    assert status == 200
    assert promtool("check", "metrics", stdin=body) == ""
