"""Faulty runtimes of other distributions: each fault has a typed error that names the runtime."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
from entry_points import Install

from spear import Agent, ConfigurationError, InstanceId, UnsupportedRuntime, open_spearlet
from spear.channels import open_communication_factory
from spear.runtimes import (
    InstanceBody,
    InstanceMetrics,
    InstanceSpec,
    MemorySettings,
    Runtime,
    RuntimeRegistry,
    RuntimeSettings,
    problems_of,
)

from .helpers import Spoiled, listening
from .test_registry import Abacus, AbacusSettings


def broken(error: BaseException) -> Callable[[object], object]:
    def method(*_: object) -> object:
        raise error

    return method


def giving(value: object) -> Callable[[object], object]:
    return lambda *_: value


async def answer(*_: object) -> None:
    """A method that should not be async."""


def made(runtime: dict[str, object], settings: dict[str, object] | None = None) -> Runtime:
    """Return a runtime whose class and settings class have the given wrong attributes."""
    kind = attrs.frozen(kw_only=True)(type("MadeSettings", (AbacusSettings,), settings or {}))
    cls = type("Made", (Abacus,), {"settings_class": kind, **runtime})
    instance: Runtime = attrs.define(eq=False, kw_only=True, slots=False)(cls)()
    return instance


@pytest.mark.parametrize(
    ("method", "does", "fault"),
    [
        ("takes", broken(ValueError("no beads")), "its takes has raised ValueError: no beads"),
        ("takes", broken(SystemExit(3)), "its takes has raised SystemExit: 3"),
        ("takes", giving("sums.beads"), "its takes has returned 'sums.beads', not MadeSettings or"),
        ("takes", giving(False), "its takes has returned False, not MadeSettings or None"),
        ("takes", answer, "its takes is an async function"),
        ("validate", answer, "its validate is an async function"),
        ("validate", broken(KeyError("bead")), "its validate has raised KeyError: 'bead'"),
    ],
)
async def test_a_broken_method_of_a_runtime_names_the_runtime(
    method: str, does: object, fault: str
) -> None:
    runtime = made({method: does})
    async with open_spearlet(runtimes=[runtime]) as spearlet:
        with pytest.raises(ConfigurationError, match=f"'abacus' is broken: {fault}"):
            await spearlet.deploy(runtime.settings_class(beads="x"))  # type: ignore[call-arg]  # made


@pytest.mark.parametrize(
    ("method", "does", "fault"),
    [
        ("title", property(broken(ValueError("no title"))), "its title has raised ValueError"),
        ("title", 17, "its title is 17, not text"),
        ("problems", broken(OSError("no table")), "its problems has raised OSError: no table"),
        ("problems", giving(None), "its problems has raised TypeError"),
        ("problems", giving(["wet"]), "its problems has yielded 'wet', not a Configuration"),
        ("check_replicas", answer, "its check_replicas is an async function"),
        ("check_replicas", broken(IndexError()), "its check_replicas has raised IndexError"),
    ],
)
async def test_a_broken_method_of_settings_names_the_runtime(
    method: str, does: object, fault: str
) -> None:
    runtime = made({}, {method: does})
    async with open_spearlet(runtimes=[runtime]) as spearlet:
        with pytest.raises(ConfigurationError, match=f"'abacus' is broken: {fault}"):
            await spearlet.deploy(runtime.settings_class(beads="x"))  # type: ignore[call-arg]  # made


async def test_a_settings_class_that_cannot_be_copied_names_its_runtime() -> None:
    class Stubborn(AbacusSettings):
        def __init__(self) -> None:
            super().__init__(beads="x")

    runtime = made({"settings_class": Stubborn})
    async with open_spearlet(runtimes=[runtime]) as spearlet:
        with pytest.raises(ConfigurationError, match="its settings class has raised TypeError"):
            await spearlet.deploy(Stubborn())


def test_problems_before_a_bug_are_told() -> None:
    def problems(_: object) -> Iterator[ConfigurationError]:
        yield ConfigurationError("the table is wet")
        raise ZeroDivisionError

    kind = made({}, {"problems": problems}).settings_class
    wet, bug = problems_of("abacus", kind(beads="x"))  # type: ignore[call-arg]  # made
    assert wet.summary == "the table is wet"
    assert "'abacus' is broken: its problems has raised ZeroDivisionError" in bug.summary


def test_a_runtime_without_a_name_is_refused() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Anonymous(Runtime):
        settings_class: ClassVar[type[RuntimeSettings]] = AbacusSettings
        prepare = Abacus.prepare

    with pytest.raises(ConfigurationError, match="Anonymous has no name: set one in the class"):
        Anonymous()


@pytest.mark.parametrize("settings_class", [None, "AbacusSettings", int])
def test_a_runtime_without_a_settings_class_is_refused(settings_class: object) -> None:
    with pytest.raises(ConfigurationError, match="the runtime 'abacus' needs a settings_class"):
        made({"settings_class": settings_class})


class Careless(Abacus):
    def __init__(self) -> None:
        pass


def test_a_runtime_that_was_not_initialized_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = "'abacus' has not been initialized: decorate Careless with @attrs.define"
    with pytest.raises(ConfigurationError, match=fault):
        RuntimeRegistry([Careless()])
    monkeypatch.syspath_prepend(str(tmp_path))
    install = Install(tmp_path, monkeypatch, "spear.runtimes")
    install("abacus", "from runtimes.test_foreign import Careless as thing")
    with pytest.raises(UnsupportedRuntime, match=fault) as caught:
        RuntimeRegistry().find("abacus")
    assert caught.value.runtime == "abacus"


async def test_functions_that_a_runtime_would_have_to_await_are_refused() -> None:
    for name in "on_event", "on_line":
        with pytest.raises(ConfigurationError, match=f"{name} must be a plain function") as caught:
            InstanceSpec(instance_id=InstanceId("abacus", "x"), **{name: answer})  # type: ignore[arg-type]  # the mistake
        assert caught.value.key == name
    runtime = Abacus()
    async with open_communication_factory() as factory:
        with pytest.raises(ConfigurationError, match="on_line must be a plain function"):
            async with runtime.open_template(
                AbacusSettings(beads="x"),
                factory,
                on_line=answer,  # type: ignore[arg-type]  # the mistake
            ):
                pass


def test_a_runtime_with_the_name_of_one_of_spear_is_refused() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Mine(Abacus):
        name: ClassVar[str] = "memory"

    with pytest.raises(
        ConfigurationError, match="Mine has the name of Spear's own runtime 'memory'"
    ):
        RuntimeRegistry([Mine()])


@pytest.mark.parametrize(
    "others",
    [{"fuel": "much"}, {"fuel": math.nan}, {"fuel": True}, {1: 2}, [("fuel", 1)]],
    ids=repr,
)
def test_further_metrics_are_numbers_by_name(others: object) -> None:
    with pytest.raises(ConfigurationError, match="must map names to finite numbers") as info:
        InstanceMetrics(others=others)  # type: ignore[arg-type]  # the mistake
    assert info.value.key == "others"


async def test_metrics_that_fail_are_logged_once_and_the_instance_goes_on() -> None:
    agent = Agent("shop")

    @agent.function
    async def price() -> int:
        return 3

    async def fail() -> InstanceMetrics:
        raise OSError("no counter")

    async def junk() -> str:
        return "many"

    for metrics, fault in (fail, "has raised OSError: no counter"), (junk, "has returned 'many'"):

        def spoil(body: InstanceBody, metrics: object = metrics) -> None:
            body.metrics = metrics  # type: ignore[method-assign,assignment]  # the fault

        async with open_spearlet(runtimes=[Spoiled(spoil=spoil)]) as spearlet:
            with listening("spear.runtimes") as lines:
                shop = await spearlet.deploy(MemorySettings(agent=agent), name="shop")
                for _ in range(2):
                    assert await shop.replicas[0].metrics() is None
                assert await shop.price() == 3
            (line,) = [each for each in lines.texts if "metrics" in each]
            assert f"spoiled:shop-1#1: the runtime 'spoiled' is broken: its metrics {fault}" in line
