"""What scripts are told: each command's --json, one document on standard output or an error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from .helpers import PATIENCE_SECONDS, Run
from .serving import Host, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    place = tmp_path_factory.mktemp("scripts")
    with serving(place, "till.py", "more=till.py") as host:
        yield host


@pytest.fixture
def host(hosting: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    for name, value in hosting.environment.items():
        monkeypatch.setenv(name, value)
    return hosting


@pytest.mark.slow
def test_deployments_are_told_in_one_document(host: Host, run: Run) -> None:
    for names in (["till"], ["till", "more"]):
        told = json.loads(run("restart", *names, "--json").output)
        assert [each["name"] for each in told["deployments"]] == names
    done = run("restart", "till", "none", "--json")
    assert done.status == 4
    assert [each["name"] for each in json.loads(done.output)["deployments"]] == ["till"]
    done = run("restart", "none", "--json")
    assert (done.status, done.output) == (4, b"")


@pytest.mark.slow
def test_what_runs_has_no_buckets(host: Host, run: Run) -> None:
    assert run("invoke", "till.greet").status == 0
    assert b'"buckets"' in host.get("/v1/statistics")[1]
    output = run("ps", "--json").output
    assert b'"buckets"' not in output
    (till,) = [each for each in json.loads(output)["deployments"] if each["name"] == "till"]
    assert till["function_statistics"]["greet"]["latency"]["count"] > 0


@pytest.mark.slow
def test_ends_are_told(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, "till.py", "more=till.py") as host:
        for name, value in host.environment.items():
            monkeypatch.setenv(name, value)
        (more,) = json.loads(run("stop", "more", "--json").output)["deployments"]
        assert (more["name"], more["statistics"]["ready"]) == ("more", 0)
        with host.ask("drain", "--json") as draining:
            said = draining.communicate(timeout=PATIENCE_SECONDS)[0]
        assert json.loads(said) == {"state": "gone"}
        assert host.process.wait(PATIENCE_SECONDS) == 0
    with serving(tmp_path, "till.py") as host:
        assert json.loads(run("drain", "--no-wait", "--json").output) == {"state": "draining"}
        assert host.process.wait(PATIENCE_SECONDS) == 0
