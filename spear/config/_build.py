"""Build a :class:`Configuration` from merged tables, and from it the settings of the spearlet.

The spearlet's classes check their own values. This module attributes each of their errors to the key that
has the value, and continues, so that all faults are found at once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from spear._errors import ConfigurationError
from spear._host_limits import HostLimits
from spear._targets import is_file, split_target
from spear.gateway import GatewaySettings
from spear.runtimes import ProcessSettings, ResourceLimits, RuntimeSettings
from spear.spearlet import DeploymentSettings

from ._faults import Faults
from ._runtimes import COMMON, PROCESS, read_runtimes, read_settings
from ._schema import (
    GATEWAY_ELSEWHERE,
    Configuration,
    FunctionConfiguration,
    HostConfiguration,
)
from ._values import build, fields, read_keys, read_table, read_values, secrets_of

_DEPLOYMENT_KEYS: Final = tuple(each.name for each in attrs.fields(DeploymentSettings))
_RESOURCE_KEYS: Final = tuple(each.name for each in attrs.fields(ResourceLimits))
_PROCESS_KEYS: Final = (
    "command", "python", "python_path", "environment", "pass_environment", "working_directory",
    "private_directory", "low_latency", "environment_handover", "start", "debug",
)  # fmt: skip


def build_configuration(said: Mapping[str, object], faults: Faults) -> Configuration:
    """Build the configuration; each unusable value is added to ``faults`` and left at its default."""
    faults.expect_known((), said, fields(Configuration))
    spearlet = read_table(
        HostConfiguration, _table(said, "spearlet", faults), ("spearlet",), faults
    )
    gateway = _read_gateway(_table(said, "gateway", faults), faults)
    limits = read_table(HostLimits, _table(said, "limits", faults), ("limits",), faults)
    runtimes = read_runtimes(_table(said, "runtimes", faults), faults)
    functions: dict[str, FunctionConfiguration] = {}
    for name, table in _table(said, "functions", faults).items():
        path = ("functions", name)
        if not isinstance(table, Mapping):
            faults.add(path, f"must be a table: [functions.{name}]")
            continue
        functions[name] = read_function(name, _inherit(table, limits), faults)
    return Configuration(
        spearlet=spearlet, gateway=gateway, limits=limits, runtimes=runtimes, functions=functions
    )


def _inherit(table: Mapping[str, object], limits: HostLimits) -> Mapping[str, object]:
    """Complete the timeouts in a deployment's table with the timeouts of the host."""
    timeouts = table.get("timeouts")
    if not isinstance(timeouts, Mapping):
        return table
    return {**table, "timeouts": {**attrs.asdict(limits.timeouts), **timeouts}}


def _table(said: Mapping[str, object], name: str, faults: Faults) -> Mapping[str, object]:
    table = said.get(name, {})
    if isinstance(table, Mapping):
        return table
    faults.add((name,), f"must be a table: [{name}]")
    return {}


def _read_gateway(said: Mapping[str, object], faults: Faults) -> GatewaySettings:
    here = dict(said)
    for name in said.keys() & GATEWAY_ELSEWHERE:
        faults.add(("gateway", name), f"must be set in [spearlet], as {GATEWAY_ELSEWHERE[name]}")
        del here[name]
    path, kinds = ("gateway",), fields(GatewaySettings)
    known = {name: kinds[name] for name in kinds if name not in GATEWAY_ELSEWHERE}
    faults.expect_known(path, here, known)
    values = read_values(known, secrets_of(GatewaySettings), here, path, faults)
    return build(GatewaySettings, values, path, faults)


def read_function(name: str, said: Mapping[str, object], faults: Faults) -> FunctionConfiguration:
    """Read the table of one deployment."""
    path = ("functions", name)
    if said.get("runtime", PROCESS) != PROCESS:
        return _read_other(name, said, faults)
    values = read_keys(FunctionConfiguration, said, path, faults)
    function = FunctionConfiguration(**values)  # type: ignore[arg-type]  # read_keys has checked them
    if bool(function.source) == bool(function.command):
        both = ", not both" if function.source else ""
        faults.add(path, f'needs either a source, such as "shop.py", or a command{both}')
    # Build the settings once here, and discard them, so that all their faults are found together.
    build(DeploymentSettings, _only(values, _DEPLOYMENT_KEYS), path, faults)
    build(ResourceLimits, _only(values, _RESOURCE_KEYS), path, faults)
    process = _only(values, _PROCESS_KEYS)
    if not function.command:
        process["source"] = function.source
    build(_CheckedProcess, process, path, faults)
    return function


def _read_other(name: str, said: Mapping[str, object], faults: Faults) -> FunctionConfiguration:
    """Read the table of a deployment whose runtime is not the process runtime."""
    path = ("functions", name)
    common = {key: value for key, value in said.items() if key in COMMON}
    values = read_keys(FunctionConfiguration, common, path, faults)
    build(DeploymentSettings, _only(values, _DEPLOYMENT_KEYS), path, faults)
    if "runtime" in values:  # otherwise a fault was added already
        values["settings"] = read_settings(name, said, values, faults)
    return FunctionConfiguration(**values)  # type: ignore[arg-type]  # read_keys has checked them


class _CheckedProcess:
    """A check of process settings given by their names in the schema; raises if they are invalid."""

    def __init__(self, **values: object) -> None:
        values = {name: value for name, value in values.items() if value is not None}
        if "source" in values:
            values["target"] = values.pop("source")
        if values.keys() & {"target", "command"}:  # otherwise a fault was added already
            try:
                ProcessSettings(**values)  # type: ignore[arg-type]  # read_keys has checked them
            except ConfigurationError as error:
                if error.key != "target":
                    raise
                raise ConfigurationError.about("source", error.summary) from error


def _only(values: Mapping[str, object], names: tuple[str, ...]) -> dict[str, object]:
    return {name: values[name] for name in names if name in values}


def deployment_settings(function: FunctionConfiguration) -> DeploymentSettings:
    """Return the settings of a function's deployment in the spearlet."""
    return DeploymentSettings(
        replicas=function.replicas,
        concurrency=function.concurrency,
        queue=function.queue,
        policy=function.policy,
        restart=function.restart,
        health=function.health,
        timeout=function.timeout,
        queue_timeout=function.queue_timeout,
        retry=function.retry,
        dedup_seconds=function.dedup_seconds,
        abandoned_seconds=function.abandoned_seconds,
        timeouts=function.timeouts,
    )


def process_settings(function: FunctionConfiguration) -> ProcessSettings:
    """Return the settings for starting a function's processes."""
    return ProcessSettings(
        target=function.source,
        command=function.command,
        python=function.python or sys.executable,
        python_path=function.python_path,
        environment=function.environment,
        pass_environment=function.pass_environment,
        working_directory=function.working_directory,
        private_directory=function.private_directory,
        limits=ResourceLimits(
            memory_bytes=function.memory_bytes,
            open_files=function.open_files,
            cpu_seconds=function.cpu_seconds,
            core_bytes=function.core_bytes,
        ),
        debug=function.debug,
        low_latency=function.low_latency,
        environment_handover=function.environment_handover,
        start=function.start,
    )


def target_settings(function: FunctionConfiguration) -> RuntimeSettings:
    """Return the runtime settings of a function. Raises ConfigurationError if they had faults."""
    if function.runtime == PROCESS:
        return process_settings(function)
    if function.settings is None:
        raise ConfigurationError("the settings of its runtime are invalid")
    return function.settings


def source_file(function: FunctionConfiguration) -> Path | None:
    """Return the file that a function's source names; None for a module or a command."""
    program, _ = split_target(function.source or "")
    return Path(program) if program and is_file(program) else None
