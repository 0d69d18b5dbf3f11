"""Instruments that call one function each: ``on_call`` of a spearlet, ``on_event`` of a deployment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, final

from spear._hooks import expect_plain_function
from spear.telemetry import CallRecord, InstanceEvent, Instrument

if TYPE_CHECKING:
    from spear._ids import InstanceId

OnCall: TypeAlias = Callable[[CallRecord], None]
"""Receives the record of each call that has ended. Must not block; its exceptions are logged."""


@final
class CallObserver(Instrument):
    """An instrument that passes on the record of each call that has ended."""

    def __init__(self, on_call: OnCall) -> None:
        self._on_call = expect_plain_function("on_call", on_call)

    def call_ended(self, call: CallRecord) -> None:
        self._on_call(call)

    call_ended.__qualname__ = "on_call"  # the user's name for it, in log lines


@final
class EventObserver(Instrument):
    """An instrument that passes on each change of state of one deployment's instances."""

    def __init__(self, deployment: str, on_event: Callable[[InstanceEvent], None]) -> None:
        self._deployment = deployment
        self._on_event = expect_plain_function("on_event", on_event)

    def instance_changed(self, event: InstanceEvent) -> None:
        if deployment_of(event.instance_id) == self._deployment:
            self._on_event(event)

    instance_changed.__qualname__ = "on_event"


def deployment_of(instance: InstanceId) -> str:
    """Return the name of the deployment that an instance is a replica of."""
    return instance.name.rpartition("-")[0]  # a supervisor has appended the number
