"""Instruments: which hooks are called, by whom, and the effect of a hook's fault."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

import spear
from spear import Agent, ConfigurationError, Instrument, open_spearlet
from spear.channels import notify_all
from spear.telemetry import InstanceEvent, InstanceState, Instruments
from spear.telemetry._instruments import HOOKS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from spear import InstanceId
    from spear.telemetry import CallRecord, ConnectionEvent, DeploymentEvent, LogLine

logger = logging.getLogger("tests.telemetry")


class Lines(Instrument):
    """An instrument that overrides only ``line_written``."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def line_written(self, instance: InstanceId, line: LogLine) -> None:
        self.texts.append(line.text)


class Everything(Instrument):
    """An instrument with all hooks about instances."""

    def __init__(self) -> None:
        self.states: list[InstanceState] = []
        self.texts: list[str] = []
        self.kinds: list[str] = []

    def instance_changed(self, event: InstanceEvent) -> None:
        self.states.append(event.state)

    def line_written(self, instance: InstanceId, line: LogLine) -> None:
        self.texts.append(line.text)

    def connection_changed(self, event: ConnectionEvent) -> None:
        self.kinds.append(event.kind)


def test_what_nobody_watches_has_an_empty_table() -> None:
    instruments = Instruments([Instrument()])
    assert HOOKS
    assert all(getattr(instruments, name) == () for name in HOOKS)


def test_a_hook_is_called_only_if_it_is_overridden() -> None:
    first, second = Lines(), Lines()
    instruments = Instruments([first, Instrument(), second])
    assert list(instruments.line_written) == [first.line_written, second.line_written]
    assert instruments.instance_changed == ()
    instruments.remove(first)
    assert list(instruments.line_written) == [second.line_written]
    instruments.remove(first)  # changes nothing
    assert list(instruments.line_written) == [second.line_written]


def test_one_that_is_none_or_there_already_is_refused() -> None:
    lines = Lines()
    instruments = Instruments([lines])
    with pytest.raises(ConfigurationError, match=r"must be a spear\.Instrument, not 7"):
        instruments.add(7)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ConfigurationError, match="was already added to this host"):
        instruments.add(lines)
    assert instruments.line_written == (lines.line_written,)


def test_hooks_that_would_have_to_be_awaited_are_refused() -> None:
    class Patient(Instrument):
        async def line_written(self, instance: InstanceId, line: LogLine) -> None:  # type: ignore[override]  # the mistake
            """Is never run."""

    class Empty(Instrument):
        call_ended = None  # type: ignore[assignment]  # the mistake

    for each, hook in (Patient(), "Patient.line_written"), (Empty(), "Empty.call_ended"):
        with pytest.raises(ConfigurationError, match=f"{hook} must be a plain function"):
            Instruments([each])


def test_one_that_raises_is_logged_and_keeps_nothing_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Instrument):
        def instance_changed(self, event: InstanceEvent) -> None:
            raise SystemExit(3)

    seen = Everything()
    instruments = Instruments([Broken(), seen])
    event = InstanceEvent(spear.InstanceId("process", "shop-1", 1), InstanceState.READY, 0.0)
    notify_all(logger, instruments.instance_changed, event)
    assert seen.states == [InstanceState.READY]
    assert "Broken.instance_changed raised" in caplog.text


async def test_an_instrument_of_a_spearlet_hears_of_a_whole_life(tmp_path: Path) -> None:
    program = tmp_path / "shop.py"
    program.write_text(
        "import spear\nagent = spear.Agent()\n\n@agent.function\ndef hello() -> None:\n"
        "    print('hello', flush=True)\n"
    )
    seen = Everything()
    async with open_spearlet(instruments=[seen]) as spearlet:
        async with await spearlet.deploy(program) as deployment:
            await deployment.hello()
        late = Lines()
        spearlet.instruments.add(late)
    assert [state.value for state in seen.states] == [
        "created", "starting", "ready", "draining", "exited", "deleted",
    ]  # fmt: skip
    assert seen.texts == ["hello"]
    assert seen.kinds == ["connected", "authenticated", "disconnected"]
    assert late.texts == []


async def test_what_is_written_while_a_program_is_loaded_is_heard_too(tmp_path: Path) -> None:
    program = tmp_path / "loud.py"
    program.write_text("import spear\nagent = spear.Agent()\nprint('loading', flush=True)\n")
    lines = Lines()
    settings = spear.ProcessSettings(target=str(program), start="zygote")
    async with open_spearlet(instruments=[lines]) as spearlet, await spearlet.deploy(settings):
        pass
    assert lines.texts == ["loading"]


# -- calls and deployments ------------------------------------------------------------------------


class Calls(Instrument):
    """An instrument that records starts and ends of calls, and passes a trace on."""

    def __init__(self, carrier: dict[str, str] | None = None) -> None:
        self.carrier = carrier or {}
        self.started: list[CallRecord] = []
        self.ended: list[CallRecord] = []

    def call_started(self, call: CallRecord) -> None:
        assert (call.instance, call.seconds, call.failure) == (None, 0.0, None)
        call.carrier.update(self.carrier)
        self.started.append(call)

    def call_ended(self, call: CallRecord) -> None:
        self.ended.append(call)


def traced() -> Agent:
    agent = Agent("shop")

    @agent.function
    async def trace(fails: bool = False) -> object:
        if fails:
            raise ValueError("as asked")
        return dict(spear.context().metadata)

    @agent.function
    async def traces() -> AsyncIterator[object]:
        yield dict(spear.context().metadata)

    return agent


async def test_a_call_carries_what_an_instrument_adds() -> None:
    calls = Calls({"traceparent": "00-1-2-01"})
    async with (
        open_spearlet(instruments=[calls]) as spearlet,
        await spearlet.deploy(traced()) as shop,
    ):
        trace = shop.trace.options(metadata={"user": "ada"}, session="s")
        assert await trace() == {"user": "ada", "traceparent": "00-1-2-01"}
        (call,) = calls.ended
        assert calls.started == [call]
        assert (call.deployment, call.function, call.session) == ("shop", "trace", "s")
        assert call.metadata == {"user": "ada"}
        assert call.instance == shop.instances[0].id
        assert call.seconds > 0
        assert call.failure is None
        assert repr(call) == "<CallRecord shop.trace>"


async def test_failures_streams_and_calls_with_keys_are_watched_too() -> None:
    calls = Calls({"traceparent": "x"})
    async with (
        open_spearlet(instruments=[calls]) as spearlet,
        await spearlet.deploy(traced()) as shop,
    ):
        with pytest.raises(spear.FunctionRaised) as raised:
            await shop.trace(fails=True)
        assert calls.ended.pop().failure is raised.value
        async with shop.traces.stream() as stream:
            assert [item async for item in stream] == [{"traceparent": "x"}]
        streamed = calls.ended.pop()
        assert (streamed.is_stream, streamed.instance) == (True, shop.instances[0].id)
        once = shop.trace.options(key="k")
        assert await once() == await once() == {"traceparent": "x"}
        first, second = calls.ended
        assert (first.key, first.instance) == ("k", shop.instances[0].id)
        assert (second.key, second.instance) == (
            "k",
            None,
        )  # it got the outcome of the first
        assert len(calls.started) == 4


async def test_what_spear_calls_for_itself_is_not_watched() -> None:
    calls = Calls()
    async with (
        open_spearlet(instruments=[calls]) as spearlet,
        await spearlet.deploy(traced()) as shop,
    ):
        assert await shop.trace.signature()
    assert calls.started == []


async def test_a_carrier_that_cannot_travel_harms_no_call(caplog: pytest.LogCaptureFixture) -> None:
    carrier: dict[str, str] = {"good": "yes", "large": "x" * 70_000, "cut": "\ud800"}
    carrier["bad"] = object()  # type: ignore[assignment]  # the mistake
    calls = Calls({**carrier, **{f"key {number}": "x" for number in range(2000)}})
    async with (
        open_spearlet(instruments=[calls]) as spearlet,
        await spearlet.deploy(traced()) as shop,
    ):
        metadata = await shop.trace()
        assert isinstance(metadata, dict)
        assert metadata.keys() >= {"good"}
        assert metadata.keys().isdisjoint({"large", "cut", "bad"})
        assert len(metadata) <= 16
    assert "carrier may hold 16 texts of 2048 bytes" in caplog.text


@pytest.mark.parametrize(
    ("carrier", "said"),
    [
        ({1: "x"}, "carrier must map text to text, not 1 to 'x'"),
        ({"a": 3}, "carrier must map text to text, not 'a' to 3"),
        (None, "carrier must be a dict, not None"),
    ],
    ids=["key", "value", "none"],
)
async def test_a_carrier_of_another_type_is_said_to_be(
    carrier: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Careless(Instrument):
        def call_started(self, call: CallRecord) -> None:
            call.carrier = carrier  # type: ignore[assignment]  # the mistake

    async with (
        open_spearlet(instruments=[Careless()]) as spearlet,
        await spearlet.deploy(traced()) as shop,
    ):
        assert not await shop.trace()
    assert said in caplog.text
    assert "of 2048 bytes" not in caplog.text


async def test_the_life_of_a_deployment_is_told() -> None:
    class Deployments(Instrument):
        def __init__(self) -> None:
            self.told: list[tuple[str, str, int]] = []

        def deployment_changed(self, event: DeploymentEvent) -> None:
            self.told.append((event.deployment, event.kind, event.replicas))

    told = Deployments()
    async with (
        open_spearlet(instruments=[told]) as spearlet,
        await spearlet.deploy(traced()) as shop,
    ):
        await shop.restart()
    assert told.told == [
        ("shop", "starting", 1), ("shop", "ready", 1), ("shop", "restarted", 1),
        ("shop", "stopping", 1), ("shop", "stopped", 1),
    ]  # fmt: skip


async def test_a_deployment_that_does_not_start_says_why(tmp_path: Path) -> None:
    class Failures(Instrument):
        def __init__(self) -> None:
            self.reasons: list[str] = []

        def deployment_changed(self, event: DeploymentEvent) -> None:
            if event.kind == "failed":
                self.reasons.append(event.reason)

    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit(3)\n")
    failures = Failures()
    async with open_spearlet(instruments=[failures]) as spearlet:
        with pytest.raises(spear.SpawnFailed):
            await spearlet.deploy(program)
    (reason,) = failures.reasons
    assert "broken-1#1 did not start: it exited" in reason
