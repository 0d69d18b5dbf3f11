"""Configurations with runtimes and deployments of other distributions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs
import pytest
from entry_points import Install
from runtimes.test_registry import Abacus

from spear import ConfigurationError, DeploymentSettings, Scale
from spear.channels import default_strategy
from spear.config import (
    Flags,
    deployment_settings,
    make_runtimes,
    make_strategies,
    show_as_json,
    show_as_toml,
    target_settings,
)
from spear.runtimes import RuntimeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Read


@attrs.frozen(kw_only=True)
class FrameSettings(RuntimeSettings):
    target: str
    beads: int = 10
    colours: tuple[str, ...] = ()
    environment: Mapping[str, str] = attrs.field(factory=dict, metadata={"secret": True})

    def __attrs_post_init__(self) -> None:
        if self.beads < 1:
            raise ConfigurationError.about("beads", f"must be at least 1, not {self.beads}")
        if self.target.endswith(".txt"):
            raise ConfigurationError.about("target", "is no program")
        if "grey" in self.colours:
            raise ValueError("grey is no colour")

    def problems(self) -> Iterator[ConfigurationError]:
        if self.beads == 999:
            raise ZeroDivisionError
        if self.beads > 100:
            yield ConfigurationError.about("beads", "do not fit on this table")
        if self.target.endswith(".pl"):
            yield ConfigurationError.about("target", "cannot be counted with")
        if "nothing" in self.target:
            yield ConfigurationError("the table is too small")


@attrs.define(eq=False, kw_only=True)
class Frame(Abacus):
    name: ClassVar[str] = "frame"
    settings_class: ClassVar[type[RuntimeSettings]] = FrameSettings

    wood: str = "beech"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.wood == "balsa":
            raise ConfigurationError.about("wood", "is too soft")
        if self.wood == "plastic":
            raise ValueError("that is no wood")


@attrs.frozen(kw_only=True)
class OddSettings(RuntimeSettings):
    made_of: Frame | None = None


@attrs.define(eq=False, kw_only=True)
class Odd(Abacus):
    name: ClassVar[str] = "odd"
    settings_class: ClassVar[type[RuntimeSettings]] = OddSettings


@attrs.frozen(kw_only=True)
class UntoldSettings(RuntimeSettings):
    unknown: NowhereToBeFound  # type: ignore[name-defined]  # noqa: F821  # a mistake


@attrs.define(eq=False, kw_only=True)
class Untold(Abacus):
    name: ClassVar[str] = "untold"
    settings_class: ClassVar[type[RuntimeSettings]] = UntoldSettings


@attrs.frozen(kw_only=True)
class UnsayableSettings(RuntimeSettings):
    things: set[str]


@attrs.define(eq=False, kw_only=True)
class Unsayable(Abacus):
    name: ClassVar[str] = "unsayable"
    settings_class: ClassVar[type[RuntimeSettings]] = UnsayableSettings


@pytest.fixture(autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    place: Path = tmp_path_factory.mktemp("installed")
    monkeypatch.syspath_prepend(str(place))
    install = Install(place, monkeypatch, "spear.runtimes")
    for name in ("frame", "odd", "untold", "locked", "unsayable"):
        install(name, f"from config.test_runtimes import {name.title()} as thing")
    install("broken", "1 / 0")


@attrs.frozen(kw_only=True)
class Wood:
    kind: str
    age: int = 1

    def __attrs_post_init__(self) -> None:
        if self.age > 1000:
            raise ValueError("no tree is so old")


@attrs.frozen(kw_only=True)
class LockedSettings(RuntimeSettings):
    token: str = attrs.field(default="", metadata={"secret": True})
    pins: tuple[str, ...] = attrs.field(default=(), metadata={"secret": True})
    names: list[str] = attrs.field(factory=list)
    labels: dict[str, str] = attrs.field(factory=dict)
    label: str | None = None
    owners: tuple[str, ...] | None = None
    level: Literal["low", "high"] = "low"
    number: Literal[1, 2] = 1
    sizes: list[int] = attrs.field(factory=list)
    either: int | str = 1
    made_of: Wood | None = None
    _hidden: int = 3


@attrs.define(eq=False, kw_only=True)
class Locked(Abacus):
    name: ClassVar[str] = "locked"
    settings_class: ClassVar[type[RuntimeSettings]] = LockedSettings

    password: str | None = attrs.field(default=None, metadata={"secret": True})
    hosts: tuple[str, ...] = ()
    wood: Wood | None = None


SHOP = '[functions.shop]\nruntime = "frame"\nsource = "shop.py"\n'


def test_a_deployment_has_the_keys_of_its_runtime(read: Read, tmp_path: Path) -> None:
    outcome = read(
        SHOP + 'beads = 17\ncolours = ["red", "blue"]\nreplicas = "1-3"\ndebug = true\n', check=True
    )
    assert outcome.lines == []
    assert target_settings(outcome.shop) == FrameSettings(
        target=str(tmp_path / "shop.py"), beads=17, colours=("red", "blue"), debug=True
    )
    assert deployment_settings(outcome.shop) == DeploymentSettings(replicas=Scale(min=1, max=3))


def test_variables_and_flags_say_them_too(read: Read) -> None:
    outcome = read(
        SHOP,
        environment={
            "SPEAR_FUNCTIONS_SHOP_BEADS": "18",
            "SPEAR_FUNCTIONS_SHOP_COLOURS": '["red"]',
            "SPEAR_RUNTIMES_FRAME_WOOD": "oak",
        },
        flags=Flags(
            settings=(("functions.shop.beads", "19"), ("runtimes.frame.max_instances", "4")),
            environment={"COLOUR": "blue"},
        ),
    )
    # Only runtimes that the file names have environment variables.
    assert len(outcome.lines) == 1, outcome.lines
    (line,) = outcome.lines
    assert line.startswith("SPEAR_RUNTIMES_FRAME_WOOD: there is no such variable")
    settings = target_settings(outcome.shop)
    assert isinstance(settings, FrameSettings)
    assert (settings.beads, settings.colours) == (19, ("red",))
    assert settings.environment == {"COLOUR": "blue"}
    (runtime,) = make_runtimes(outcome.configuration)
    assert (runtime.name, runtime.max_instances) == ("frame", 4)
    outcome = read(SHOP + "[runtimes.frame]\n", environment={"SPEAR_RUNTIMES_FRAME_WOOD": "oak"})
    (runtime,) = make_runtimes(outcome.configuration)
    assert isinstance(runtime, Frame)
    assert (outcome.lines, runtime.wood) == ([], "oak")


def test_what_is_shown_means_the_same(read: Read) -> None:
    said = SHOP + 'beads = 3\nenvironment = { KEY = "secret" }\n[runtimes.frame]\nwood = "oak"\n'
    configuration = read(said).configuration
    shown = json.loads(show_as_json(configuration))
    assert shown["runtimes"] == {"frame": {"wood": "oak"}}
    assert shown["functions"]["shop"]["beads"] == 3
    assert shown["functions"]["shop"]["environment"] == {"KEY": "<hidden>"}
    assert not {"memory_bytes", "python", "target", "settings"} & shown["functions"]["shop"].keys()
    again = read(show_as_toml(configuration).replace("<hidden>", "secret"))
    assert (again.lines, again.configuration) == ([], configuration)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("bead = 1", "functions.shop.bead: there is no such key; did you mean 'beads'?"),
        ("memory_bytes = 1", "functions.shop.memory_bytes: there is no such key; the keys are "),
        ('beads = "many"', 'functions.shop.beads: must be a whole number, not "many"'),
        ("beads = 0", "functions.shop.beads: must be at least 1, not 0"),
        ("beads = 101", "functions.shop.beads: do not fit on this table"),
        (
            'colours = ["grey"]',
            "functions.shop: cannot be used as settings of its runtime: ValueError: grey",
        ),
        ("queue = -1", "functions.shop.queue: must be from 0"),
    ],
)
def test_what_is_wrong_is_told_by_key(read: Read, said: str, line: str) -> None:
    (told,) = read(f"{SHOP}{said}\n", check=True).lines
    assert told.startswith((f"spear.toml:4: {line}", f"spear.toml:1: {line}"))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("shop.txt", "functions.shop.source: is no program"),
        ("shop.pl", "functions.shop.source: cannot be counted with"),
        ("nothing", "functions.shop: the table is too small"),
    ],
)
def test_a_source_that_a_runtime_cannot_use(read: Read, source: str, line: str) -> None:
    (told,) = read(f'[functions.shop]\nruntime = "frame"\nsource = "{source}"\n', check=True).lines
    assert told.endswith(line)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ('runtime = "frame"', "functions.shop: needs source, which the runtime 'frame' requires"),
        (
            'runtime = "fram"',
            "functions.shop.runtime: runtime 'fram' cannot be used: no runtime has this name",
        ),
        (
            'runtime = "broken"',
            "functions.shop.runtime: the entry point 'broken' (spear.runtimes) of ",
        ),
        ("runtime = 17", "functions.shop.runtime: must be text, in quotes, not 17"),
        ('runtime = "odd"\nsource = "x"', "functions.shop.source: there is no such key"),
        ('runtime = "odd"\nmade_of = 3', "functions.shop.made_of: must be a table, not 3"),
        (
            'runtime = "untold"',
            "functions.shop.runtime: the types of the fields of UntoldSettings cannot",
        ),
        ('runtime = "abacus"', "functions.shop.runtime: runtime 'abacus' cannot be used"),
    ],
)
def test_a_runtime_that_cannot_be_used(read: Read, said: str, line: str) -> None:
    (told,) = read(f"[functions.shop]\n{said}\n", check=True).lines
    assert line in told


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("runtimes.frame = 3", "runtimes.frame: must be a table: [runtimes.frame]"),
        ("runtimes.fram.wood = 'oak'", "runtimes.fram: runtime 'fram' cannot be used"),
        (
            "runtimes.frame.wod = 'oak'",
            "runtimes.frame.wod: there is no such key; did you mean 'wood'",
        ),
        ("runtimes.frame.wood = 3", "runtimes.frame.wood: must be text, in quotes, not 3"),
        ("runtimes.frame.wood = 'balsa'", "runtimes.frame.wood: is too soft"),
        ("runtimes.frame.wood = 'plastic'", "runtimes.frame: cannot be configured: ValueError"),
        ("runtimes.process.max_instances = 0", "runtimes.process.max_instances: must be from 1"),
    ],
)
def test_a_runtime_that_cannot_be_configured_so(read: Read, said: str, line: str) -> None:
    outcome = read(said + "\n")
    (told,) = outcome.lines
    assert line in told


def test_processes_have_a_table_too(read: Read) -> None:
    outcome = read("[runtimes.process]\nmax_instances = 8\n")
    (runtime,) = make_runtimes(outcome.configuration)
    assert (outcome.lines, runtime.name, runtime.max_instances) == ([], "process", 8)


# -- communication of their instances -------------------------------------------------------------


def test_the_transports_of_a_runtime(read: Read) -> None:
    outcome = read(
        '[runtimes.process]\ntransports = ["unix", "tcp"]\nmax_instances = 7\n'
        '[runtimes.frame]\nwood = "oak"\ntransports = ["tcp"]\n'
    )
    assert outcome.lines == []
    strategies = make_strategies(outcome.configuration)
    assert strategies["process"].transports == ("unix", "tcp")
    assert strategies["process"].most is None
    assert strategies["process"].reach is default_strategy("process").reach
    assert strategies["frame"].transports == ("tcp",)
    process, frame = make_runtimes(outcome.configuration)
    assert process.max_instances == 7
    assert isinstance(frame, Frame)
    assert frame.wood == "oak"
    shown = json.loads(show_as_json(outcome.configuration))
    assert shown["runtimes"]["frame"] == {"wood": "oak", "transports": ["tcp"]}
    assert make_strategies(read("").configuration) == {}


@pytest.mark.parametrize(
    ("transports", "wrong"),
    [
        ('"unix"', "must be a list of texts"),
        ("[]", "must name at least one transport"),
        ('["unix", "pigeon"]', "transport 'pigeon' cannot be used: known transports are "),
        ('["grpc"]', "transport 'grpc' cannot be used: not part of this release"),
        ('["memory"]', "must not contain 'memory', which cannot be reached from other processes"),
        (
            '["unix", "memory"]',
            "must not contain 'memory', which cannot be reached from other processes",
        ),
    ],
)
def test_transports_that_cannot_be_used(read: Read, transports: str, wrong: str) -> None:
    outcome = read(f"[runtimes.process]\ntransports = {transports}\n")
    (line,) = outcome.lines
    assert f"runtimes.process.transports: {wrong}" in line


def test_the_memory_runtime_is_reached_through_memory(read: Read) -> None:
    outcome = read('[runtimes.memory]\ntransports = ["memory", "unix"]\n')
    assert outcome.lines == []
    assert make_strategies(outcome.configuration)["memory"].transports == ("memory", "unix")


def test_variables_and_flags_say_transports_too(read: Read) -> None:
    said = "[runtimes.process]\nmax_instances = 7\n"
    outcome = read(said, environment={"SPEAR_RUNTIMES_PROCESS_TRANSPORTS": "tcp"})
    assert outcome.lines == []
    assert make_strategies(outcome.configuration)["process"].transports == ("tcp",)
    flags = Flags(settings=(("runtimes.process.transports", '["unix", "tcp"]'),))
    outcome = read("", flags=flags)
    assert outcome.lines == []
    assert make_strategies(outcome.configuration)["process"].transports == ("unix", "tcp")


# -- keys of other distributions ------------------------------------------------------------------

LOCKED = '[functions.shop]\nruntime = "locked"\n'


def test_secrets_of_a_runtime_are_not_shown(read: Read) -> None:
    said = (
        LOCKED + 'token = "hush-1"\npins = ["hush-2", "hush-3"]\n'
        '[runtimes.locked]\npassword = "hush-4"\nhosts = ["a"]\nwood = { kind = "oak" }\n'
    )
    outcome = read(said)
    assert outcome.lines == []
    shown = json.loads(show_as_json(outcome.configuration))
    assert "hush" not in show_as_json(outcome.configuration) + show_as_toml(outcome.configuration)
    assert shown["functions"]["shop"]["token"] == "<hidden>"
    assert shown["functions"]["shop"]["pins"] == ["<hidden>", "<hidden>"]
    assert shown["runtimes"]["locked"] == {
        "password": "<hidden>", "hosts": ["a"], "wood": {"kind": "oak", "age": 1},
    }  # fmt: skip
    shown = json.loads(show_as_json(read(LOCKED).configuration))
    assert (shown["functions"]["shop"]["token"], shown["functions"]["shop"]["pins"]) == ("", [])


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("token = 4711", "functions.shop.token: must be text, in quotes"),
        ('pins = "4711"', "functions.shop.pins: must be a list of texts"),
    ],
)
def test_a_secret_of_a_wrong_type_is_not_shown(read: Read, said: str, line: str) -> None:
    (told,) = read(f"{LOCKED}{said}\n").lines
    assert told == f"spear.toml:3: {line}"


def test_keys_of_a_runtime_are_read_by_their_types_wherever_they_are_said(read: Read) -> None:
    values = {
        "token": "1234", "pins": "1, 2", "names": "a,b", "label": "7", "owners": "x, y",
        "level": "high", "labels.shelf": "3",
    }  # fmt: skip
    expected = LockedSettings(
        token="1234", pins=("1", "2"), names=["a", "b"], label="7", owners=("x", "y"), level="high",
        labels={"shelf": "3"},
    )  # fmt: skip
    by_flags = [(f"functions.shop.{key}", value) for key, value in values.items()]
    runtime = ("functions.shop.runtime", "locked")
    outcome = read(LOCKED, flags=Flags(settings=tuple(by_flags)))
    assert (outcome.lines, target_settings(outcome.shop)) == ([], expected)
    outcome = read("[functions.shop]\n", flags=Flags(settings=(*by_flags, runtime)))
    assert (outcome.lines, target_settings(outcome.shop)) == ([], expected)
    del values["labels.shelf"]
    expected = attrs.evolve(expected, labels={})
    variables = {f"SPEAR_FUNCTIONS_SHOP_{key.upper()}": value for key, value in values.items()}
    outcome = read(LOCKED, environment=variables)
    assert (outcome.lines, target_settings(outcome.shop)) == ([], expected)
    variables["SPEAR_FUNCTIONS_SHOP_RUNTIME"] = "locked"
    outcome = read(None, environment=variables, flags=Flags(settings=(runtime,)))
    assert (outcome.lines, target_settings(outcome.shop)) == ([], expected)
    outcome = read("[functions.shop]\n", environment=variables)
    assert (outcome.lines, target_settings(outcome.shop)) == ([], expected)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("names = [1]", "functions.shop.names: must be a list of texts, not [1]"),
        (
            "labels = { shelf = 3 }",
            "functions.shop.labels: must be a table of texts, but",
        ),
        ("level = 'middle'", 'functions.shop.level: must be one of low, high, not "middle"'),
        ("number = 2", "functions.shop.number: must be of the type typing.Literal[1, 2], which a"),
        (
            "sizes = [1]",
            "functions.shop.sizes: must be of the type list[int], which a configuration",
        ),
        (
            "either = 3",
            "functions.shop.either: must be of the type int | str, which a configuration",
        ),
        ("made_of = {}", "functions.shop.made_of: must be valid settings for Wood: TypeError"),
        (
            "made_of = { kind = 'oak', age = 1001 }",
            "functions.shop.made_of: must be valid settings for Wood: ValueError: no tree",
        ),
        ("_hidden = 3", "functions.shop._hidden: there is no such key"),
    ],
)
def test_keys_of_a_runtime_that_cannot_be_said_so(read: Read, said: str, line: str) -> None:
    (told,) = read(f"{LOCKED}{said}\n").lines
    assert told.startswith(f"spear.toml:3: {line}")


@pytest.mark.parametrize("said", ["", "things = ['a']\n"])
def test_a_settings_class_that_no_configuration_can_make_is_at_fault(read: Read, said: str) -> None:
    (told,) = read(f"[functions.shop]\nruntime = 'unsayable'\n{said}").lines
    assert told == (
        "spear.toml:2: functions.shop.runtime: UnsayableSettings requires things, of the type "
        "set[str], which a configuration cannot express: the author of the class must add a default"
    )


def test_a_bug_of_a_runtime_keeps_no_other_fault_from_being_found(read: Read) -> None:
    said = (
        SHOP + "beads = 999\n[functions.till]\nruntime = 'frame'\nsource = 'till.py'\nbeads = 101\n"
    )
    first, second = read(said, check=True).lines
    assert "functions.shop: the runtime 'frame' is broken: its problems has raised Zero" in first
    assert "functions.till.beads: do not fit on this table" in second
