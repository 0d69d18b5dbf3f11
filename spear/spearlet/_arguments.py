"""Keyword arguments as types, for ``spear.blocking`` and ``spear.asyncio``, which pass them on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import random

    from spear._host_limits import HostLimits
    from spear._retry_policy import RetryPolicy
    from spear.calls import Result
    from spear.channels import CommunicationStrategy, Metadata
    from spear.runtimes import Runtime
    from spear.telemetry import CallRecord, InstanceEvent, Instrument
    from spear.transports import Transport

    from ._settings import DeploymentSettings, Scale


class SpearletArguments(TypedDict, total=False):
    """The keyword arguments of :func:`spear.open_spearlet`."""

    limits: HostLimits
    on_call: Callable[[CallRecord], None] | None
    rng: random.Random | None
    runtimes: Iterable[Runtime]
    transports: Iterable[Transport]
    strategies: Mapping[str, CommunicationStrategy] | None
    instruments: Iterable[Instrument]


class DeployArguments(TypedDict, total=False):
    """The keyword arguments of :meth:`spear.Spearlet.deploy`."""

    name: str | None
    replicas: int | Scale | None
    settings: DeploymentSettings | None
    debug: bool
    on_event: Callable[[InstanceEvent], None] | None


class OptionArguments(TypedDict, total=False):
    """The keyword arguments of :meth:`spear.Function.options`, but for ``returns``."""

    timeout: float | None
    queue_timeout: float | None
    retry: RetryPolicy | None
    metadata: Metadata | None
    key: str | None
    key_seconds: float | None
    key_restarts: bool | None
    session: str | None
    on_progress: Callable[[Result], None] | None
    keywords: Mapping[str, object] | None
