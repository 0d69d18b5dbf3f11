"""The combination of a file, the environment and flags, and their precedence."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from spear import ConfigurationError, HostLimits, InstanceTimeouts, RetryPolicy, WireLimits
from spear.config import (
    Configuration,
    Flags,
    HostConfiguration,
    deployment_settings,
    load_configuration,
    process_settings,
    variable_of,
)
from spear.spearlet import RestartPolicy, Scale

if TYPE_CHECKING:
    from .conftest import Read

SHOP = '[functions.shop]\nsource = "shop.py"\n'


def test_nothing_said_is_all_default(read: Read) -> None:
    outcome = read()
    assert outcome.configuration == Configuration()
    assert outcome.configuration.spearlet == HostConfiguration()
    assert outcome.configuration.limits == HostLimits()
    assert outcome.lines == []


def test_a_file_says_everything(read: Read, tmp_path: Path) -> None:
    outcome = read(
        """
        [spearlet]
        name = "evening"
        listen = "127.0.0.1:0"
        token_file = "secrets/token"
        allow_control = true
        log_level = "info"
        log_instances = false

        [gateway]
        max_body_bytes = 1_000
        allowed_hosts = ["functions.example"]

        [limits]
        max_submitted = 5
        wire.max_calls = 7
        timeouts = { startup_seconds = 30 }

        [functions.shop]
        source = "shop.py:app"
        runtime = "process"
        replicas = { min = 2, max = 5, spare = 1, idle_seconds = 9, target = 0.5 }
        concurrency = 3
        queue = 11
        timeout = inf
        policy = "sticky"
        dedup_seconds = 5
        abandoned_seconds = 300
        restart = { intensity = 1, retry_seconds = inf }
        python = "/usr/bin/python3"
        python_path = ["lib", "~/more"]
        environment = { LEVEL = "high" }
        pass_environment = ["HOME"]
        working_directory = "."
        memory_bytes = 1_073_741_824
        open_files = 64
        cpu_seconds = 60
        core_bytes = 5
        low_latency = true
        debug = true

        [functions.other]
        command = ["./agent", "{bootstrap_fd}"]
        environment_handover = true
        """
    )
    assert outcome.lines == []
    host = outcome.configuration.spearlet
    assert (host.name, host.listen, host.log_level) == ("evening", "127.0.0.1:0", "info")
    assert host.token_file == str(tmp_path / "secrets" / "token")
    assert (host.allow_control, host.log_instances) == (True, False)
    gateway = outcome.configuration.gateway
    assert (gateway.max_body_bytes, gateway.allowed_hosts) == (1000, ("functions.example",))
    limits = outcome.configuration.limits
    assert (limits.wire.max_calls, limits.timeouts.startup_seconds) == (7, 30.0)
    assert limits.max_submitted == 5
    assert limits.wire.connect_seconds == WireLimits().connect_seconds
    settings = deployment_settings(outcome.shop)
    assert settings.replicas == Scale(min=2, max=5, spare=1, idle_seconds=9.0, target=0.5)
    assert (settings.concurrency, settings.queue, settings.timeout) == (3, 11, math.inf)
    assert (settings.policy, settings.dedup_seconds) == ("sticky", 5.0)
    assert settings.abandoned_seconds == 300
    assert settings.restart == RestartPolicy(intensity=1, retry_seconds=math.inf)
    process = process_settings(outcome.shop)
    assert process.target == f"{tmp_path / 'shop.py'}:app"
    assert process.python == "/usr/bin/python3"
    assert process.python_path == (str(tmp_path / "lib"), os.path.expanduser("~/more"))
    assert (process.environment, process.pass_environment) == ({"LEVEL": "high"}, ("HOME",))
    assert process.working_directory == str(tmp_path)
    limited = process.limits
    assert (limited.memory_bytes, limited.open_files) == (1 << 30, 64)
    assert (limited.cpu_seconds, limited.core_bytes) == (60, 5)
    assert (process.low_latency, process.debug) == (True, True)
    other = process_settings(outcome.configuration.functions["other"])
    assert other.command == (str(tmp_path / "agent"), "{bootstrap_fd}")
    assert (other.environment_handover, other.python) == (True, sys.executable)


@pytest.mark.parametrize(
    ("said", "scale"),
    [
        ("3", Scale(min=3, max=3)),
        ('"2-6"', Scale(min=2, max=6)),
        ('" 0 - 1 "', Scale(min=0, max=1)),
        ("{ max = 4 }", Scale(min=1, max=4)),
    ],
)
def test_how_many_replicas(read: Read, said: str, scale: Scale) -> None:
    assert read(f"{SHOP}replicas = {said}").shop.replicas == scale


def test_timeouts_of_a_deployment_are_those_of_the_host_where_nothing_else_is_said(
    read: Read,
) -> None:
    outcome = read(
        f"""
        [limits.timeouts]
        startup_seconds = 30
        kill_seconds = 9

        {SHOP}
        timeouts = {{ startup_seconds = 60.5 }}

        [functions.other]
        source = "shop.py"
        """
    )
    assert outcome.lines == []
    functions = outcome.configuration.functions
    assert deployment_settings(functions["shop"]).timeouts == InstanceTimeouts(
        startup_seconds=60.5, kill_seconds=9.0
    )
    assert deployment_settings(functions["other"]).timeouts is None


def test_a_timeout_that_cannot_be_is_a_fault_of_its_key(read: Read) -> None:
    outcome = read(f"{SHOP}timeouts = {{ startup_seconds = 0, kil_seconds = 1 }}\n")
    assert outcome.lines == [
        (
            "spear.toml:3: functions.shop.timeouts.kil_seconds: there is no such key; did you mean "
            "'kill_seconds'?"
        ),
        "spear.toml:3: functions.shop.timeouts.startup_seconds: must be above 0, and is 0.0",
    ]


def test_retries_and_waits_of_a_deployment(read: Read) -> None:
    outcome = read(
        f"""
        {SHOP}
        queue_timeout = 30
        retry = {{ max_attempts = 5, on = ["ConnectionError"], idempotent = true }}
        """
    )
    assert outcome.lines == []
    settings = deployment_settings(outcome.shop)
    assert settings.queue_timeout == 30
    assert settings.retry == RetryPolicy(max_attempts=5, on=("ConnectionError",), idempotent=True)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("queue_timout = 3", "queue_timout: there is no such key; did you mean 'queue_timeout'?"),
        ("queue_timeout = -1", "queue_timeout: must be a number of seconds, at least 0, not -1.0"),
        (
            "retry = { max_atempts = 3 }",
            "retry.max_atempts: there is no such key; did you mean 'max_attempts'?",
        ),
        (
            'retry = { on = ["KeyError"] }',
            "retry.on: needs idempotent=True: a function that has raised has run, and would run again",
        ),
        ("retry = 3", "retry: must be a table, not 3"),
    ],
)
def test_retries_and_waits_that_cannot_be_are_faults_of_their_keys(
    read: Read, said: str, fault: str
) -> None:
    assert read(f"{SHOP}{said}\n").lines == [f"spear.toml:3: functions.shop.{fault}"]


def test_flags_before_environment_before_file(read: Read) -> None:
    file = (
        f'[spearlet]\nname = "a"\nlisten = "off"\n[limits.wire]\nmax_calls = 1\n{SHOP}queue = 1\n'
    )
    file += "timeout = 1"
    environment = {
        "SPEAR_NAME": "b",
        "SPEAR_LOG_LEVEL": "debug",
        "SPEAR_LIMITS_WIRE_MAX_CALLS": "2",
        "SPEAR_GATEWAY_MAX_STREAMS": "2",
        "SPEAR_FUNCTIONS_SHOP_QUEUE": "2",
        "SPEAR_FUNCTIONS_SHOP_TIMEOUT": "2",
        "SPEAR_ALLOW_CONTROL": "true",
    }
    flags = Flags(
        host={"name": "c", "log_instances": False},
        functions={"queue": "3"},
        settings=(("limits.wire.max_calls", "3"),),
    )
    outcome = read(file, environment=environment, flags=flags)
    assert outcome.lines == []
    host = outcome.configuration.spearlet
    assert (host.name, host.listen, host.log_level) == ("c", "off", "debug")
    assert (host.allow_control, host.log_instances) == (True, False)
    assert outcome.configuration.limits.wire.max_calls == 3
    assert outcome.configuration.gateway.max_streams == 2
    assert (outcome.shop.queue, outcome.shop.timeout) == (3, 2.0)


def test_tables_are_merged_key_by_key(read: Read) -> None:
    file = f'{SHOP}replicas = {{ min = 1, max = 2 }}\nenvironment = {{ A = "1", B = "1" }}'
    outcome = read(
        file,
        environment={"SPEAR_FUNCTIONS_SHOP_REPLICAS_MAX": "9"},
        flags=Flags(
            environment={"B": "2", "C": "3"}, settings=(("functions.shop.environment.D", "4"),)
        ),
    )
    assert outcome.lines == []
    assert outcome.shop.replicas == Scale(min=1, max=9)
    assert outcome.shop.environment == {"A": "1", "B": "2", "C": "3", "D": "4"}
    assert read(file, flags=Flags(functions={"replicas": "4"})).shop.replicas == Scale(min=4, max=4)
    assert read(file, flags=Flags(functions={"replicas": "1-4"})).shop.replicas == Scale(max=4)


@pytest.mark.parametrize(
    ("said", "value"),
    [("A,B", ("A", "B")), ('["A", "B"]', ("A", "B")), ("A", ("A",)), ("", ())],
)
def test_a_list_in_the_environment(read: Read, said: str, value: tuple[str, ...]) -> None:
    outcome = read(SHOP, environment={"SPEAR_FUNCTIONS_SHOP_PASS_ENVIRONMENT": said})
    assert (outcome.lines, outcome.shop.pass_environment) == ([], value)


def test_text_needs_no_quotes_outside_of_a_file(read: Read) -> None:
    outcome = read(SHOP, environment={"SPEAR_NAME": "7", "SPEAR_LISTEN": "true"})
    assert (outcome.configuration.spearlet.name, outcome.configuration.spearlet.listen) == (
        "7",
        "true",
    )


def test_sources_on_the_command_line(read: Read, tmp_path: Path) -> None:
    sources = (("shop", "shop.py"), ("till", "./till/"), ("module", "company.shop:app"))
    outcome = read(
        '[functions.filed]\nsource = "x.py"',
        flags=Flags(sources=sources, functions={"debug": True}),
    )
    assert outcome.lines == []
    functions = outcome.configuration.functions
    assert {name: each.source for name, each in functions.items()} == {
        "filed": str(tmp_path / "x.py"),
        "shop": str(tmp_path / "shop.py"),
        "till": str(tmp_path / "till"),
        "module": "company.shop:app",
    }
    assert all(each.debug for each in functions.values())
    assert functions["module"].python_path == (str(tmp_path),)
    assert functions["shop"].python_path == ()


def test_two_sources_of_one_name(read: Read) -> None:
    outcome = read(flags=Flags(sources=(("shop", "shop.py"), ("shop", "old/shop.py"))))
    assert outcome.lines == [
        "old/shop.py and shop.py would both be named shop: choose another name, as in NAME=old/shop.py"
    ]


def test_paths_are_relative_to_who_says_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "script").touch()
    (tmp_path / "etc" / "tool").touch()
    (tmp_path / "etc" / "spear.toml").write_text(
        '[spearlet]\ntls_cert = "cert.pem"\ntls_key = ""\n[functions.a]\nsource = "tool"\n'
        '[functions.b]\nsource = "shop.api"\npython = "python3"\npython_path = ["x"]\n'
    )
    monkeypatch.chdir(tmp_path)
    flags = Flags(sources=(("c", "script"),), host={"control_socket": "s.sock"})
    loaded, _ = load_configuration("etc/spear.toml", {"SPEAR_TOKEN_FILE": "token"}, flags)
    host, functions = loaded.configuration.spearlet, loaded.configuration.functions
    etc = tmp_path / "etc"
    assert (host.tls_cert, host.tls_key) == (str(etc / "cert.pem"), "")
    assert (host.token_file, host.control_socket) == (
        str(tmp_path / "token"),
        str(tmp_path / "s.sock"),
    )
    assert (functions["a"].source, functions["c"].source) == (
        str(etc / "tool"),
        str(tmp_path / "script"),
    )
    assert (functions["b"].source, functions["b"].python) == ("shop.api", "python3")
    assert functions["b"].python_path == (str(etc / "x"),)
    assert loaded.file == str(etc / "spear.toml")


def test_names_of_variables() -> None:
    assert variable_of(("spearlet", "tls_cert")) == "SPEAR_TLS_CERT"
    assert variable_of(("limits", "wire", "max_calls")) == "SPEAR_LIMITS_WIRE_MAX_CALLS"
    path = ("functions", "old-shop", "restart", "intensity")
    assert variable_of(path) == "SPEAR_FUNCTIONS_OLD_SHOP_RESTART_INTENSITY"


def test_variables_of_others_are_left_alone(read: Read) -> None:
    environment = {
        "SPEAR_PORT": "tcp://10.0.0.1:80",
        "SPEAR_SERVICE_HOST": "10.0.0.1",
        "SPEAR_HOST": "x",
        "SPEAR_TOKEN": "x",
        "SPEAR_CONFIG": "x",
        "HOME": "x",
    }
    assert read(SHOP, environment=environment).lines == []


NO_VARIABLE = "there is no such variable; only functions and runtimes in the file have variables"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SPEAR_LISTN", "there is no such variable; did you mean SPEAR_LISTEN?"),
        ("SPEAR_LIMITS_NEVER", NO_VARIABLE),
        (
            "SPEAR_FUNCTIONS_TILL_X",
            NO_VARIABLE,
        ),
    ],
)
def test_misspelt_variables(read: Read, name: str, message: str) -> None:
    assert read(SHOP, environment={name: "1"}).lines == [f"{name}: {message}"]


def test_a_variable_that_may_mean_two_functions(read: Read) -> None:
    file = '[functions.a-b]\nsource = "x.py"\n[functions.a_b]\nsource = "y.py"\n'
    (line,) = read(file, environment={"SPEAR_FUNCTIONS_A_B_QUEUE": "1"}).lines
    both = "functions.a-b.queue and functions.a_b.queue"
    assert line == f"SPEAR_FUNCTIONS_A_B_QUEUE may mean {both}: set the key in the file"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("x", "--set x=1: KEY must be a key in a table, as in --set limits.wire.max_calls=200"),
        ("spearlet", "--set spearlet: spearlet: must be a table: [spearlet]"),
        (
            "limits.wire.max_cals",
            "--set limits.wire.max_cals: limits.wire.max_cals: there is no such key; did you mean",
        ),
        (
            "limit.max_calls",
            "--set limit.max_calls: limit: there is no such key; did you mean 'limits'?",
        ),
        (
            "functions.shop",
            "--set functions.shop: functions.shop: must be a table: [functions.shop]",
        ),
        (
            "limits.wire.max_calls.more",
            "--set limits.wire.max_calls.more: limits.wire.max_calls: must be a whole number",
        ),
    ],
)
def test_keys_that_cannot_be_set(read: Read, key: str, message: str) -> None:
    (line,) = read(flags=Flags(settings=((key, "1"),))).lines
    assert line.startswith(message)


def test_where_a_command_was_given_counts_also_when_it_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spear.toml").write_text('[functions.a]\nsource = "a.py"\nqueue = "x"\n')
    monkeypatch.chdir(tmp_path)
    flags = Flags(sources=(("b", "b.py"), ("c", "shop.api")))
    first, faults = load_configuration("spear.toml", {}, flags)
    assert faults.lines[0].startswith("spear.toml:3: ")
    monkeypatch.chdir("/")
    again, faults = load_configuration("spear.toml", {}, flags)
    assert again == first
    assert faults.lines[0].startswith("spear.toml:3: ")
    assert first.file == str(tmp_path / "spear.toml")
    assert first.configuration.functions["c"].python_path == (str(tmp_path),)


def test_absolute_paths_need_no_working_directory(tmp_path: Path, gone: Path) -> None:
    file = tmp_path / "spear.toml"
    file.write_text('[functions.a]\nsource = "a.py"\nqueue = "x"\n')
    flags = Flags(sources=(("b", "/b.py"), ("c", "shop.api"), ("d", "~/d.py")))
    loaded, faults = load_configuration(str(file), {"SPEAR_TOKEN_FILE": "/token"}, flags)
    assert faults.lines == (f'{file}:3: functions.a.queue: must be a whole number, not "x"',)
    functions = loaded.configuration.functions
    assert functions["a"].source == str(tmp_path / "a.py")
    assert functions["c"].python_path == ()


@pytest.mark.parametrize(
    ("file", "source"), [("spear.toml", "/b.py"), (None, "b.py"), (None, "./b.py")]
)
def test_a_relative_path_from_a_directory_that_was_removed(
    gone: Path, file: str | None, source: str
) -> None:
    message = "is relative to the working directory, which has been removed"
    with pytest.raises(ConfigurationError, match=message):
        load_configuration(file, {}, Flags(sources=(("b", source),)))
