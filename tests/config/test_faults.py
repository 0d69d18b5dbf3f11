"""All mistakes in a configuration are reported at once, each with its place."""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING

import pytest
import trustme

from spear import ConfigurationError
from spear.config import (
    Configuration,
    Flags,
    HostConfiguration,
    check_configuration,
    read_token,
    split_listen,
)
from spear.config._programs import program_problems
from spear.runtimes import ProcessSettings

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Read


POLICY_LINE = (
    "spear.toml:15: functions.shop.policy: must be one of round-robin, least-loaded, random, "
    'power-of-two, sticky, not "fastest"'
)


def test_everything_that_is_wrong_at_once(read: Read) -> None:
    outcome = read(
        """[spearlet]
nmae = "x"
listen = 80

[limits]
wire = { max_calls = "many" }
timeouts.startup_seconds = -1

[functions.shop]
source = "shop.py"
replicas = { min = 3, max = 2 }
queue = -4
concurrency = 0
memory_bytes = 0
policy = "fastest"
restart = { intensity = -1,  period_seconds = "a" }
environment = { A = 1 }
"""
    )
    assert outcome.lines == [
        "spear.toml:2: spearlet.nmae: there is no such key; did you mean 'name'?",
        "spear.toml:3: spearlet.listen: must be text, in quotes, not 80",
        'spear.toml:6: limits.wire.max_calls: must be a whole number, not "many"',
        "spear.toml:7: limits.timeouts.startup_seconds: must be above 0, and is -1.0",
        "spear.toml:11: functions.shop.replicas.min: is 3, above replicas.max (2): increase replicas.max",
        POLICY_LINE,
        'spear.toml:16: functions.shop.restart.period_seconds: must be a number, not "a"',
        "spear.toml:16: functions.shop.restart.intensity: must be from 0 to 1000, not -1",
        "spear.toml:17: functions.shop.environment: must be a table of texts, but A is not in quotes",
        "spear.toml:13: functions.shop.concurrency: must be from 1 to 1000000, not 0",
        "spear.toml:12: functions.shop.queue: must be from 0 to 100000, not -4",
        "spear.toml:14: functions.shop.memory_bytes: must be positive, not 0",
    ]
    # An invalid value is replaced by its default, so that everything else can be checked.
    assert outcome.configuration.spearlet == HostConfiguration()
    with pytest.raises(ConfigurationError, match=r"spear.toml:2: .*\n.*\nspear.toml:6"):
        outcome.faults.raise_if_any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[functions]\nshop = 7", "spear.toml:2: functions.shop: must be a table: [functions.shop]"),
        ("functions = 7", "spear.toml:1: functions: must be a table: [functions]"),
        ("[limits.wire]\nmax_calls = 0", "toml:2: limits.wire.max_calls: must be above 0, and is 0"),
        ("[limits]\nlog_line_bytes = 0", "limits.log_line_bytes: must be above 0, and is 0"),
        ("[limits]\nshutdown_seconds = 0", "limits.shutdown_seconds: must be above 0, and is 0.0"),
        ("[limits]\nmax_calls = 7", "there is no such key; did you mean limits.wire.max_calls?"),
        (
            "[limits.wire]\nstartup_seconds = 7",
            "there is no such key; did you mean limits.timeouts.startup_seconds?",
        ),
        (
            "[spearlet]\nwrite_seconds = 7",
            "did you mean gateway.write_seconds or limits.wire.write_seconds?",
        ),
        ("[limits]\nqueue = 7", "limits.queue: there is no such key; did you mean functions.NAME.queue?"),
        (
            "[functions.a.restart]\nfailures = 7",
            "there is no such key; did you mean functions.a.health.failures?",
        ),
        ("[functions.a]\nlisten = 7", "there is no such key; did you mean spearlet.listen?"),
        ("[limits]\nwire = 7", "spear.toml:2: limits.wire: must be a table, not 7"),
        ("limits = 7", "spear.toml:1: limits: must be a table: [limits]"),
        ("[gateway]\nport = 7", "spear.toml:2: gateway.port: must be set in [spearlet], as listen"),
        ("[gateway]\nmax_streams = 0", "spear.toml:2: gateway.max_streams: must be a whole"),
        ("[gateway]\nmax_stream = 0", "gateway.max_stream: there is no such key; did you mean 'max"),
        ("[functions.a.replicas]\nidle = 3", "there is no such key; did you mean 'idle_seconds'?"),
        ("[function.shop]", "spear.toml:1: function: there is no such key; did you mean 'functions'?"),
        ("x = 1", "spear.toml:1: x: there is no such key; the keys are functions, gateway, li"),
        ("[functions.a]\nreplicas = true", 'replicas: must be a number, "MIN-MAX" or a table, not true'),
        ('[functions.a]\nreplicas = "many"', 'must be a number, "MIN-MAX" or a table, not "many"'),
        ("[functions.a]\nreplicas = 2.5", "replicas: must be a table, not 2.5"),
        ("[functions.a]\nreplicas = 0", "max: must be at least 1: with 0 replicas, no call would"),
        ("[functions.a]\nreplicas = 2000", "functions.a.replicas.min: must be from 0 to 1024"),
        ("[functions.a]\nrestart = 5", "spear.toml:2: functions.a.restart: must be a table, not 5"),
        ("[functions.a]\nrestart = {intensty = 5}", "restart.intensty: there is no such key; did you"),
        ("[functions.a]\ntimeout = nan", "functions.a.timeout: must be a number, not nan"),
        (f"[functions.a]\ntimeout = 1{'0' * 400}", "functions.a.timeout: must be a number, not 1000"),
        (f"[limits.wire]\ncall_seconds = 1{'0' * 400}", "call_seconds: must be a number, not 1000"),
        (f"[limits.wire]\nmax_calls = 1{'0' * 400}", "wire.max_calls: must be at most 461168601842738"),
        (f"[functions.a]\nmemory_bytes = 1{'0' * 400}", "memory_bytes: must be at most 461168601842738"),
        (f"[functions.a]\nreplicas = '1-{'9' * 5000}'", 'must be a number, "MIN-MAX" or a table, not'),
        ("[functions.a]\ntimeout = true", "functions.a.timeout: must be a number, not true"),
        ("[functions.a]\nqueue = {}", "functions.a.queue: must be a whole number, not a table"),
        ("[functions.a]\nqueue = 1.0", "functions.a.queue: must be a whole number, not 1.0"),
        ("[functions.a]\nqueue = 2020-01-01", 'must be a whole number, not "2020-01-01"'),
        ("[functions.a]\npython_path = 'x'", 'functions.a.python_path: must be a list of texts, not "x"'),
        ("[functions.a]\npython_path = [1]", "functions.a.python_path: must be a list of texts, not [1]"),
        (f"[functions.a]\nqueue = '{'x' * 99}'", 'xxx...'),
        ("[functions.a]\nenvironment = 1", "functions.a.environment: must be a table of texts"),
        ('[functions.a]\ncommand = ["a"]\nsource = "b"', "functions.a: needs either a source, such as"),
        ('[functions.a]\nsource = ""', "functions.a: needs either a source"),
        ('[functions.a]\nsource = "a\\u0000"', "functions.a.source: must not contain a NUL"),
        ('[functions.a]\nsource = "a"\nenvironment_handover = true', "needs a command"),
        ('[functions.a]\nsource = "a"\nenvironment = {"=" = "x"}', "environment: has '=', which"),
        ('[functions.a]\nsource = "a"\nopen_files = 5', "functions.a.open_files: must be at least 16"),
        ("[spearlet]\nallow_control = 1", "spear.toml:2: spearlet.allow_control: must be true or false"),
        ("[[spearlet]]", "spear.toml:1: spearlet: must be a table: [spearlet]"),
    ],
)  # fmt: skip
def test_values_that_make_no_sense(read: Read, text: str, message: str) -> None:
    assert message in "\n".join(read(text).lines)


def test_the_keys_of_a_gateway_that_are_listed_can_be_said(read: Read) -> None:
    (told,) = read("[gateway]\nfoo = 1").lines
    listed = told.partition("; the keys are ")[2].split(", ")
    assert "max_streams" in listed
    for name in listed:
        assert "must be set in" not in "".join(read(f"[gateway]\n{name} = []").lines)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("open_files = 3", "functions.a.open_files: must be at least 16, not 3"),
        ("cpu_seconds = 0", "functions.a.cpu_seconds: must be positive, not 0"),
        (
            'environment = {"A=B" = "x"}',
            "functions.a.environment: has 'A=B', which is not a valid variable name",
        ),
        (
            'pass_environment = ["A=B"]',
            "functions.a.pass_environment: has 'A=B', which is not a valid variable name",
        ),
        (
            'pass_environment = [""]',
            "functions.a.pass_environment: has '', which is not a valid variable name",
        ),
        (
            'command = ["true"]',
            'functions.a: needs either a source, such as "shop.py", or a command, not both',
        ),
    ],
)
def test_what_cannot_be_used_is_told_once(read: Read, tmp_path: Path, said: str, line: str) -> None:
    (tmp_path / "ok.py").touch()
    number = 1 if line.startswith("functions.a:") else 3
    text = f'[functions.a]\nsource = "ok.py"\n{said}\n'
    assert read(text, check=True).lines == [f"spear.toml:{number}: {line}"]


def test_all_that_is_wrong_with_a_function_is_told_at_once(read: Read, tmp_path: Path) -> None:
    text = """[functions.gone]
source = "gone.py"
python = "/no/python"
python_path = ["/no/path"]
working_directory = "/no/directory"
[functions.odd]
sorce = "odd.py"
concurrency = 0
[functions.broken]
source = "broken.py"
working_directory = "/no/directory"
[functions.empty]
source = "./empty"
working_directory = "/no/directory"
"""
    (tmp_path / "broken.py").write_text("def")
    (tmp_path / "empty").mkdir()
    cannot_enter = "/no/directory was not found or is not an accessible directory"
    has_no_program = "has no main.py, which must define the functions"
    assert sorted(read(text, check=True).lines) == sorted([
        f"spear.toml:2: functions.gone.source: {tmp_path}/gone.py was not found or is not readable",
        "spear.toml:3: functions.gone.python: /no/python was not found or is not executable",
        "spear.toml:4: functions.gone.python_path: /no/path is not a directory",
        f"spear.toml:5: functions.gone.working_directory: {cannot_enter}",
        "spear.toml:7: functions.odd.sorce: there is no such key; did you mean 'source'?",
        'spear.toml:6: functions.odd: needs either a source, such as "shop.py", or a command',
        "spear.toml:8: functions.odd.concurrency: must be from 1 to 1000000, not 0",
        f"spear.toml:11: functions.broken.working_directory: {cannot_enter}",
        f"{tmp_path}/broken.py:1: invalid syntax",
        f"spear.toml:13: functions.empty.source: {tmp_path}/empty {has_no_program}",
        f"spear.toml:14: functions.empty.working_directory: {cannot_enter}",
    ])  # fmt: skip


def test_a_source_with_a_nul_is_told_once(read: Read) -> None:
    for name in ("a", "a.py"):
        text = f'[functions.a]\nsource = "{name}\\u0000"\n'
        line = "spear.toml:2: functions.a.source: must not contain a NUL character"
        assert read(text, check=True).lines == [line]


def test_a_limit_above_the_hosts_own(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (32, 32))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    text = '[functions.a]\ncommand = ["true", "{bootstrap_fd}"]\nopen_files = 64\ncore_bytes = 0\n'
    line = "spear.toml:3: functions.a.open_files: is 64, above the host's own limit of 32"
    assert read(text, check=True).lines == [line]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_place_that_we_may_not_look_at(read: Read, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "shop.py").touch()
    closed = tmp_path / "closed"
    long = "x" * 300
    python = 'python = "/bin/sh"\n'  # every user can execute it
    text = f'[functions.a]\nsource = "{closed}/shop.py"\n{python}'
    text += f'[functions.b]\nsource = "{long}.py"\n{python}'
    outcome = read(text)
    os.seteuid(65534)
    try:
        check_configuration(outcome.configuration, outcome.faults)
    finally:
        os.seteuid(0)
    first, second = outcome.lines
    assert first.startswith(f"spear.toml:2: functions.a.source: {closed}/shop.py is not a file")
    assert second == (
        f"spear.toml:5: functions.b.source: {tmp_path}/{long}.py was not found or is not readable"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[spearlet\n", "spear.toml:1: this is not TOML: Expected ']'"),
        (b"a = 1\nb = ", "spear.toml:2: this is not TOML: Invalid value"),
        (b"a = 1\nb = '''x\n", "spear.toml:3: this is not TOML"),
        (b"a = 1\na = 2\n", "spear.toml:2: this is not TOML: Cannot overwrite a value"),
        (b"a = 1\nb = \"\xff\"", "spear.toml:2: this is not UTF-8"),
        (b"\xef\xbb\xbfa = 1\n", "spear.toml:1: begins with a byte order mark: save"),
        (b"#" * ((1 << 20) + 1), "spear.toml has more than 1048576 bytes: is it the right file?"),
        (b"a = 1\nb.c = 1e400", "spear.toml:2: b.c: this number cannot be used: 1e400 is out of"),
        (b"[a]\nb = [\n1e400]", "spear.toml:2: a.b: this number cannot be used: 1e400"),
        (b"[a]\nb.c = 1\n" + b"9" * 400 + b" = " + b"9" * 400 + b".5", "spear.toml:3: a.9999"),
        (b"a = " + b"9" * 5000, "spear.toml:1: a: this number cannot be used: an integer has more"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "spear.toml is nested too deeply"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_files_that_cannot_be_read(
    read: Read, tmp_path: Path, content: bytes, message: str
) -> None:
    read("")  # passes
    (tmp_path / "spear.toml").write_bytes(content)
    from spear.config import Flags, load_configuration

    with pytest.raises(ConfigurationError) as caught:
        load_configuration("spear.toml", {}, Flags())
    assert str(caught.value).startswith(message)


def test_a_file_that_is_not_there(read: Read, tmp_path: Path) -> None:
    from spear.config import Flags, load_configuration

    read("")
    with pytest.raises(ConfigurationError, match=r"cannot read nowhere\.toml: No such file"):
        load_configuration("nowhere.toml", {}, Flags())
    with pytest.raises(ConfigurationError, match=r"cannot read /nowhere\.toml"):
        load_configuration("/nowhere.toml", {}, Flags())


# -- checks of this machine ---------------------------------------------------------------------


def test_nothing_to_serve(read: Read) -> None:
    assert read("", check=True).lines == [
        "there are no functions to serve: name a file, or write [functions.NAME]"
    ]


def test_what_is_fine(read: Read, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("x = 1\n")
    (tmp_path / "shop").mkdir()
    (tmp_path / "script").write_text("#!/usr/bin/env sh\n")
    (tmp_path / "script").chmod(0o700)
    (tmp_path / "shop" / "main.py").write_text("x = 1\n")
    (tmp_path / "token").write_text("0123456789abcdef\n")
    outcome = read(
        '[spearlet]\ntoken_file = "token"\nlisten = "[::1]:0"\n'
        '[functions.a]\nsource = "shop.py"\nworking_directory = "."\n'
        '[functions.b]\nsource = "./shop"\n'
        '[functions.c]\nsource = "company.shop"\npython_path = ["shop"]\n'
        '[functions.d]\ncommand = ["sh", "-c", "true", "{bootstrap_fd}"]\n'
        '[functions.f]\ncommand = ["python3", "shop.py"]\nenvironment_handover = true\n'
        'working_directory = "."\n'
        '[functions.g]\ncommand = ["./script", "{bootstrap_fd}"]\n'
        '[functions.h]\ncommand = ["python3", "-m", "shop", "{bootstrap_fd}"]\n'
        f'[functions.e]\nsource = "shop.py"\npython = "{sys.executable}"\n',
        check=True,
    )
    assert outcome.lines == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[functions.a]", "functions.a: needs either a source"),
        ('[functions.a]\nsource = "no.py"', "spear.toml:2: functions.a.source: {}/no.py was not found"),
        ('[functions.a]\nsource = "./empty"', "functions.a.source: {}/empty has no main.py, which must"),
        ('[functions.a]\nsource = "bad.py"', "{}/bad.py:2: "),
        ('[functions.a]\nsource = "nul.py"', "{}/nul.py: source code"),
        ('[functions.a]\nsource = "./spear.toml"', "a.source: spear.toml is a configuration"),
        ('[functions.a]\nsource = "ok.py"\npython = "nopython"', "functions.a.python: nopython was not"),
        ('[functions.a]\ncommand = ["nocommand"]', "functions.a.command: nocommand was not found"),
        (
            '[functions.a]\nsource = "ok.py"\nworking_directory = "w"',
            "spear.toml:3: functions.a.working_directory: {}/w was not found or is not an accessible",
        ),
        (
            '[functions.a]\nsource = "ok.py"\npython_path = ["p"]',
            "spear.toml:3: functions.a.python_path: {}/p is not a directory",
        ),
        ('[functions."a b"]\nsource = "ok.py"', "functions.a b: is not a valid name of a deployment: "),
        ('[functions.a]\nqueue = -1\n[functions.b]\nsource = "no.py"', "{}/no.py was not found"),
        ('[spearlet]\nname = "a/b"', "spear.toml:2: spearlet.name: must be 1 to 32 characters"),
        ('[spearlet]\nlisten = "8080"', "spear.toml:2: spearlet.listen: must be HOST:PORT or 'off'"),
        (f'[spearlet]\nlisten = "a:{"9" * 5000}"', "spearlet.listen: must be HOST:PORT or 'off'"),
        ('[spearlet]\ntoken_file = "none"', "spearlet.token_file: cannot read {}/none: No such file"),
        ('[spearlet]\ntls_cert = "ok.py"', "spear.toml:2: spearlet.tls_cert: needs tls_key, too"),
        ('[spearlet]\ntls_key = "ok.py"', "spear.toml:2: spearlet.tls_key: needs tls_cert, too"),
        (
            '[spearlet]\ntls_cert = "ok.py"\ntls_key = "ok.py"',
            "spear.toml:2: spearlet.tls_cert: cannot be used with its key",
        ),
    ],
)  # fmt: skip
def test_what_this_machine_does_not_have(
    read: Read, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "ok.py").touch()
    (tmp_path / "bad.py").write_text("x = 1\nx = = 1\n")
    (tmp_path / "nul.py").write_bytes(b"\0")
    (tmp_path / "empty").mkdir()
    assert message.format(tmp_path) in "\n".join(read(text, check=True).lines)


def test_a_missing_temporary_directory_is_told_once(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gettempdir() -> str:
        raise FileNotFoundError

    monkeypatch.setattr("tempfile.gettempdir", gettempdir)
    text = '[functions.a]\nsource = "x.a"\n[functions.b]\nsource = "x.b"\nworking_directory = "."\n'
    (line,) = read(text, check=True).lines
    assert line.startswith("no temporary directory is writable")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ('"python3", "agent.py"', "cannot log in without the host's address: pass {bootstrap_fd} as an"),
        ('"python3", "agent.py"', "a new, empty directory, which has no agent.py: use its absolute path"),
        ('"{sys.executable}", "{here}/agent.py"', "cannot log in"),
        ('"{sys.executable}", "agent.py", "{bootstrap_fd}"', "has no agent.py"),
        ('"python3", "{here}/missing.py", "{bootstrap_fd}"', "{here}/missing.py is not a file"),
        ('"python3", "-u", "-OO", "agent.py", "{bootstrap_fd}"', "has no agent.py"),
        ('"true"', "cannot log in"),
        ('"./lost", "{bootstrap_fd}"', "{here}/lost is a script for '/no/such/python', which"),
        ('"./stray", "{bootstrap_fd}"', "{here}/stray is a script for 'no-such-python', which"),
        ('"./nothing", "{bootstrap_fd}"', "{here}/nothing is a script for '', which is not an exec"),
        ('"./text", "{bootstrap_fd}"', "{here}/text is a text file that does not begin"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_start_is_found(
    read: Read, tmp_path: Path, command: str, message: str
) -> None:
    for name, text in (
        ("lost", "#!/no/such/python\n"),
        ("stray", "#!/usr/bin/env no-such-python\n"),
        ("nothing", "#!\n"),
        ("text", "import spear\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o700)
    (tmp_path / "agent.py").write_text(text)
    for name, value in (("{here}", str(tmp_path)), ("{sys.executable}", sys.executable)):
        command, message = command.replace(name, value), message.replace(name, value)
    lines = read(f"[functions.a]\ncommand = [{command}]\n", check=True).lines
    assert [each for each in lines if message in each]
    assert {each.partition(": ")[0] for each in lines} == {"spear.toml:2"}


def test_a_script_that_only_the_system_may_read_is_left_to_it(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_text("")
    program.chmod(0o100)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)  # root may open any file
    settings = ProcessSettings(command=(str(program), "{bootstrap_fd}"))
    assert list(program_problems(settings)) == []


def test_a_certificate_that_fits(read: Read, tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(str(tmp_path / "cert.pem"), append=number > 0)
    text = '[spearlet]\ntls_cert = "cert.pem"\ntls_key = "key.pem"\n'
    text += '[functions.a]\nsource = "company.shop"\n'
    assert read(text, check=True).lines == []


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("off", None),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:0", ("::1", 0)),
        ("a.b:1", ("a.b", 1)),
    ],
)
def test_where_to_listen(listen: str, address: tuple[str, int] | None) -> None:
    assert split_listen(listen) == address


@pytest.mark.parametrize("listen", ["", "80", ":80", "a:", "a:x", "a:65536", "a:-1", "a:²"])
def test_where_nobody_can_listen(listen: str) -> None:
    with pytest.raises(ConfigurationError, match="must be HOST:PORT or 'off'"):
        split_listen(listen)


@pytest.mark.parametrize("port", ["65536", "99999", "100000"])
def test_a_port_that_is_too_large_is_said_to_be(port: str) -> None:
    with pytest.raises(ConfigurationError, match="a port is at most 65535"):
        split_listen(f"127.0.0.1:{port}")


def test_tokens(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" 0123456789abcdef\n")
    assert read_token(str(file)) == "0123456789abcdef"
    for content in (b"", b"\n", b"a b", b"a\nb", b"\xff", b"a\x00b"):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="contains no valid token"):
            read_token(str(file))


def test_a_table_that_nobody_has_said_is_the_same_every_time() -> None:
    assert Configuration() == Configuration()


def test_a_number_of_more_digits_than_python_reads(read: Read) -> None:
    digits = "9" * 5000
    with pytest.raises(
        ConfigurationError, match=r"spear.toml:2: limits.wire.max_calls: this number"
    ):
        read(f"[limits.wire]\nmax_calls = {digits}")
    with pytest.raises(ConfigurationError, match=r"spear.toml:3: functions.a.restart: this number"):
        read(f"[functions.a]\nsource = 'a'\nrestart = {{intensity = {digits}}}")
    outcome = read(environment={"SPEAR_LIMITS_WIRE_MAX_CALLS": digits})
    assert 'limits.wire.max_calls: must be a whole number, not "999' in "\n".join(outcome.lines)


@pytest.mark.parametrize("digits", ["9" * 40, "9" * 400, "-" + "9" * 400, "0x" + "f" * 5000])
def test_a_number_of_many_digits_is_a_fault_of_its_key(read: Read, digits: str) -> None:
    """The number may be in a file, in a variable or in a flag."""
    keys = (
        "limits.wire.max_calls",
        "limits.wire.call_seconds",
        "gateway.max_streams",
        "gateway.idle_seconds",
    )
    for key in keys:
        section, _, name = key.rpartition(".")
        variable = f"SPEAR_{key.upper().replace('.', '_')}"
        for outcome in (
            read(f"[{section}]\n{name} = {digits}"),
            read(environment={variable: digits}),
            read(flags=Flags(settings=((key, digits),))),
        ):
            (line,) = outcome.lines
            assert f": {key}: must be" in line
