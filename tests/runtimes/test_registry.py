"""Finding runtimes, and the errors for runtimes that cannot be used."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import attrs
import pytest
from entry_points import Install

from spear import (
    BrokenEntryPoint,
    ConfigurationError,
    InstanceId,
    SpawnFailed,
    SpearError,
    UnsupportedRuntime,
    open_spearlet,
)
from spear.channels import CommunicationStrategy, open_communication_factory
from spear.runtimes import (
    InstanceSpec,
    InstanceTemplate,
    ProcessRuntime,
    ProcessSettings,
    Runtime,
    RuntimeRegistry,
    RuntimeSettings,
    TemplateSpec,
)

from .helpers import listening, worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear import InstanceTimeouts
    from spear.channels import Endpoint
    from spear.runtimes import InstanceBody, LogBook


@attrs.frozen(kw_only=True)
class AbacusSettings(RuntimeSettings):
    beads: str


@attrs.define(eq=False, kw_only=True)
class Abacus(Runtime):
    """A runtime that takes names ending in .beads, and starts nothing."""

    name: ClassVar[str] = "abacus"
    settings_class: ClassVar[type[RuntimeSettings]] = AbacusSettings

    def takes(self, target: object) -> RuntimeSettings | None:
        if isinstance(target, str | Path) and str(target).endswith(".beads"):
            return AbacusSettings(beads=str(target))
        return super().takes(target)

    @asynccontextmanager
    async def prepare(self, spec: TemplateSpec) -> AsyncIterator[InstanceTemplate]:
        raise OSError("it counts nothing")
        yield


@attrs.define(eq=False, kw_only=True)
class Nameless(Abacus):
    name: ClassVar[str] = "No Name"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that installs distributions, each with one module and one entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))
    install = Install(tmp_path, monkeypatch, "spear.runtimes")
    install("stranger", "")  # unrelated distributions change nothing
    return install


ABACUS = "from runtimes.test_registry import Abacus as thing"


def test_processes_are_found_without_a_look_at_what_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", None)
    registry = RuntimeRegistry()
    assert isinstance(registry.find("process"), ProcessRuntime)
    assert registry.find("process") is registry.find("process")
    runtime, settings = registry.resolve("json.tool")
    assert runtime.name == "process"
    assert isinstance(settings, ProcessSettings)
    assert settings.target == "json.tool"


@attrs.define(eq=False, kw_only=True)
class Greedy(Abacus):
    """A runtime that takes every text."""

    def takes(self, target: object) -> RuntimeSettings | None:
        return AbacusSettings(beads=target) if isinstance(target, str) else None


def test_only_a_module_that_is_found_is_certainly_python(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("abacus", "from runtimes.test_registry import Greedy as thing")
    package = tmp_path / "company"
    package.mkdir()
    (package / "__init__.py").write_text("raise ZeroDivisionError('imported')")
    (package / "shop.py").write_text("")
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "shop.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = RuntimeRegistry()

    def runs(target: str) -> str:
        return registry.resolve(target)[0].name

    for target in "company", "company.shop", "company.shop:app", "space.shop":
        assert runs(target) == "process", target
    for target in "nosuch.wasm", "img:tag", "company.bar", "company.shop.app", "space.bar", "a-b":
        assert runs(target) == "abacus", target


def test_an_entry_point_is_found_by_its_name(install: Install) -> None:
    install("abacus", ABACUS)
    registry = RuntimeRegistry()
    assert {"abacus", "memory", "process", "stranger"} <= set(registry.names)
    assert list(registry.names) == sorted(registry.names)
    assert registry.find("abacus").name == "abacus"
    assert registry.find("abacus") is registry.find("abacus")


def test_an_entry_point_may_be_an_object(install: Install) -> None:
    install("abacus", f"{ABACUS}\nmade = thing(max_instances=3)", "made")
    assert RuntimeRegistry().find("abacus").max_instances == 3


def test_those_that_a_host_is_given_go_before_all_others(install: Install) -> None:
    install("abacus", ABACUS)
    mine, processes = Abacus(max_instances=7), ProcessRuntime(max_instances=2)
    registry = RuntimeRegistry([mine, processes])
    assert registry.find("abacus") is mine
    assert registry.find("process") is processes


def test_a_target_goes_to_the_runtime_that_takes_it(install: Install, tmp_path: Path) -> None:
    install("abacus", ABACUS)
    registry = RuntimeRegistry()
    target = tmp_path / "sums.beads"
    target.write_text("")
    assert registry.resolve(target) == (
        registry.find("abacus"),
        AbacusSettings(beads=str(target)),
    )
    assert registry.resolve("sums.beads")[0].name == "abacus"  # there is no such module here
    settings = AbacusSettings(beads="x")
    assert registry.resolve(settings) == (registry.find("abacus"), settings)


@pytest.mark.parametrize("name", ["shop", "shop.py", "shop.txt", "./no/such.py"])
def test_a_file_that_no_other_runtime_takes_is_a_process(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "/" not in name:
        (tmp_path / name).write_text("")
    runtime, settings = RuntimeRegistry().resolve(name)
    assert isinstance(settings, ProcessSettings)
    assert runtime.name == "process"
    assert settings.target == str(tmp_path / name)


def test_an_unknown_name_is_refused_with_a_hint(install: Install) -> None:
    install("abacus", ABACUS)
    with pytest.raises(UnsupportedRuntime, match="did you mean 'abacus'") as caught:
        RuntimeRegistry().find("abakus")
    assert (caught.value.runtime, caught.value.key) == ("abakus", "runtime")
    with pytest.raises(
        UnsupportedRuntime, match=r"known runtimes are .*abacus, .*memory, .*process"
    ):
        RuntimeRegistry().find("quantum")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("import no_such_module_at_all", "cannot be loaded: ModuleNotFoundError"),
        ("other = 1", "cannot be loaded: AttributeError"),
        ("def thing(): raise ValueError('no beads')", "cannot be loaded: ValueError: no beads"),
        ("def thing(): return 17", "must be an instance of Runtime, not of int"),
        ("from runtimes.test_registry import Nameless as thing", "is not a valid name"),
    ],
)
def test_an_entry_point_that_cannot_be_used_names_its_distribution(
    source: str, reason: str, install: Install
) -> None:
    install("abacus", source)
    registry = RuntimeRegistry()
    with pytest.raises(BrokenEntryPoint, match=reason) as caught:
        registry.find("abacus")
    assert caught.value.distribution == "spear-abacus"
    assert (caught.value.group, caught.value.name) == ("spear.runtimes", "abacus")
    # A faulty distribution does not hide the others.
    assert registry.resolve("shop.py")[0].name == "process"


def test_an_entry_point_has_the_name_of_its_runtime(install: Install) -> None:
    install("counter", ABACUS)
    with pytest.raises(UnsupportedRuntime, match="names the runtime 'abacus'"):
        RuntimeRegistry().find("counter")


def test_a_runtime_that_cannot_be_used_is_left_out_with_one_warning(install: Install) -> None:
    install("counter", ABACUS)
    install("memory", ABACUS)
    registry = RuntimeRegistry()
    with listening("spear.runtimes") as lines:
        for target in 3, None, b"shop.py", AbacusSettings(beads="x"):
            with pytest.raises(
                ConfigurationError, match="cannot be deployed: no runtime takes it"
            ) as caught:
                registry.resolve(target)
            assert "no runtime takes it (memory, " in str(caught.value)
            assert "counter" not in str(caught.value)
    assert (
        sum("ignored the entry point 'counter' (spear.runtimes)" in each for each in lines.texts)
        == 1
    )
    assert (
        sum("ignored the entry point 'memory' (spear.runtimes)" in each for each in lines.texts)
        == 1
    )
    with pytest.raises(UnsupportedRuntime, match="known runtimes are ") as unknown:
        registry.find("quantum")
    assert "stranger" not in str(unknown.value)


def test_what_is_no_runtime_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="each of runtimes must be a spear"):
        RuntimeRegistry([17])  # type: ignore[list-item]  # as from an untyped caller
    with pytest.raises(ConfigurationError, match="two runtimes have the name 'abacus'"):
        RuntimeRegistry([Abacus(), Abacus()])
    with pytest.raises(ConfigurationError, match="'No Name' is not a valid name"):
        Nameless()
    with pytest.raises(ConfigurationError, match="max_instances"):
        Abacus(max_instances=0)


async def test_a_target_that_no_runtime_takes_is_refused() -> None:
    async with open_spearlet() as spearlet:
        for target in (17, RuntimeSettings()):
            with pytest.raises(ConfigurationError, match=r"takes it .*memory, process"):
                await spearlet.deploy(target)  # type: ignore[arg-type]  # as from an untyped caller
    async with open_spearlet(runtimes=[Abacus()]) as spearlet:
        with pytest.raises(SpawnFailed, match="'abacus' failed: OSError: it counts nothing"):
            await spearlet.deploy(AbacusSettings(beads="x"))


async def test_an_instance_is_of_the_runtime_that_starts_it() -> None:
    runtime = ProcessRuntime()
    spec = InstanceSpec(instance_id=InstanceId("abacus", "first"))
    async with (
        open_communication_factory() as factory,
        runtime.open_template(worker(), factory) as template,
    ):
        with pytest.raises(ConfigurationError, match="abacus:first#1 does not name the runtime"):
            async with template.open_instance(spec):
                pass
        with pytest.raises(ConfigurationError, match="needs ProcessSettings, not AbacusSettings"):
            async with runtime.open_template(AbacusSettings(beads="x"), factory):
                pass


class Clumsy(InstanceTemplate):
    """A template that raises at every request of a host."""

    def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AbstractAsyncContextManager[InstanceBody]:
        raise ZeroDivisionError("no beads")


@attrs.define(eq=False, kw_only=True)
class Slipping(Abacus):
    """A runtime that raises at the end of its blocks."""

    strategy: ClassVar[CommunicationStrategy | None] = CommunicationStrategy(("tcp",))

    @asynccontextmanager
    async def prepare(self, spec: TemplateSpec) -> AsyncIterator[InstanceTemplate]:
        try:
            yield Clumsy(self, spec)
        finally:
            raise OSError("the beads fell down")


async def test_bugs_of_a_runtime_fail_what_was_asked_of_it_and_not_the_host() -> None:
    settings = AbacusSettings(beads="x")
    spec = InstanceSpec(instance_id=InstanceId("abacus", "first"))
    runtime = Slipping()
    async with open_communication_factory() as factory:
        opening = runtime.open_template(settings, factory)
        template = await opening.__aenter__()
        with pytest.raises(SpawnFailed, match="'abacus' failed: ZeroDivisionError"):
            async with template.open_instance(spec):
                pass
        with pytest.raises(SpearError, match="'abacus' failed: OSError: the beads fell down"):
            await opening.__aexit__(None, None, None)
        with listening("spear.channels") as lines, pytest.raises(KeyError, match="tea"):
            async with runtime.open_template(settings, factory):
                raise KeyError("tea")
        assert any("failed at the end of a block" in text for text in lines.texts)


async def test_a_runtime_says_how_it_is_reached_unless_its_host_does() -> None:
    settings, mine = AbacusSettings(beads="x"), CommunicationStrategy(("unix",))
    for given in {}, {"abacus": mine}:
        async with open_communication_factory(strategies=given) as factory:
            with pytest.raises(SpearError, match="fell down"):
                async with Slipping().open_template(settings, factory):
                    pass
            assert factory.strategy("abacus") == given.get("abacus", Slipping.strategy)


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        (("Process", "shop", 1), "runtime"),
        (("", "shop", 1), "runtime"),
        (("x" * 33, "shop", 1), "runtime"),
        ((17, "shop", 1), "runtime"),
        (("process", "sh..op", 1), "name"),
        (("process", 17, 1), "name"),
        (("process", "shop", 0), "incarnation"),
        (("process", "shop", "1"), "incarnation"),
    ],
)
def test_an_id_that_cannot_be_is_refused(parts: tuple[str, str, int], key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        InstanceId(*parts)
    assert caught.value.key == key
    assert str(InstanceId("x" * 32, "a", 2**64 - 1)).startswith("xxx")
