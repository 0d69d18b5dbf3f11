"""Output for scripts: with --json, each command prints one document or an error."""

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


# -- serve --check ----------------------------------------------------------------------------------


def test_a_check_tells_what_is_wrong(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEAR_LISTN", "x")
    (here / "spear.toml").write_text(
        "[spearlet]\nlistne = 1\n[functions.till]\nsource = 'till.py'\n"
    )
    done = run("serve", "--set", "x=1", "--check", "--json")
    assert (done.status, done.errors) == (2, "")
    told = json.loads(done.output)
    assert (told["warnings"], told["deployments"]) == ([], ["till"])
    faults = {each["where"]: (each["key"], each["says"]) for each in told["faults"]}
    assert faults == {
        "SPEAR_LISTN": ("", "there is no such variable; did you mean SPEAR_LISTEN?"),
        "--set x=1": ("", "KEY must be a key in a table, as in --set limits.wire.max_calls=200"),
        "spear.toml:2": ("spearlet.listne", "there is no such key; did you mean 'listen'?"),
        "spear.toml:4": (
            "functions.till.source", f"{here}/till.py was not found or is not readable",
        ),
    }  # fmt: skip
    lines = run("serve", "--set", "x=1", "--check").errors.removeprefix("spear: ").splitlines()
    assert lines == [
        ": ".join(filter(None, (each["where"], each["key"], each["says"])))
        for each in told["faults"]
    ]


def test_a_check_that_finds_nothing(run: Run, here: Path) -> None:
    file = here / "token"
    file.write_text("0123456789abcdef-the-token")
    file.chmod(0o644)
    done = run("serve", "shop.py", "--token-file", "token", "--check", "--json")
    assert (done.status, done.errors) == (0, "")
    told = json.loads(done.output)
    assert (told["faults"], told["deployments"]) == ([], ["shop"])
    assert told["warnings"] == [
        f"{file} can be read by every user of this machine: chmod o-r {file}"
    ]


# -- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "kind", "message"),
    [
        (["ps", "--json"], 10, "NoHost", "start one with `spear serve FILE.py`"),
        (["ps", "--js"], 10, "NoHost", "start one with `spear serve FILE.py`"),
        (["ps", "--json", "--lod"], 2, "ConfigurationError", "unrecognized arguments: --lod"),
        (["scale", "shop", "many", "--json"], 2, "ConfigurationError", "must be N or MIN-MAX"),
        (["serve", "--check", "--json"], 2, "ConfigurationError", "no source was given"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_told(
    run: Run, here: Path, words: list[str], status: int, kind: str, message: str
) -> None:
    done = run(*words)
    assert (done.status, done.output) == (status, b"")
    error = json.loads(done.errors)["error"]
    assert (error["kind"], message in error["message"]) == (kind, True)


def test_errors_of_what_is_not_for_scripts_are_text(run: Run, here: Path) -> None:
    """Commands that start a host, and arguments of functions, have no JSON for errors."""
    for words in (
        ["serve", "--json"],
        ["call", "none.py:price", "--json", "x"],
        ["invoke", "--json"],
    ):
        assert run(*words).errors.startswith("spear: ")


@pytest.mark.slow
def test_errors_are_told_as_the_host_tells_them(host: Host, run: Run) -> None:
    done = run("restart", "none", "--json")
    status, answer = host.get("/v1/deployments/none")
    assert (done.status, status) == (4, 404)
    told, wanted = json.loads(done.errors)["error"], json.loads(answer)["error"]
    assert told.pop("request_id") != wanted.pop("request_id")
    assert told == wanted
