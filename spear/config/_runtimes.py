"""Runtimes by name: the keys of their own tables, and of their deployments' tables.

The keys of ``[runtimes.NAME]`` are the fields of the runtime's class, and ``transports``. The table of a
deployment has the keys common to all deployments, and the fields of the runtime's settings class; its
``source`` is the field ``target``. The keys of the process runtime are in the schema, because they have
flags and a table in the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from spear._errors import ConfigurationError
from spear._util import summary_of
from spear.channels import CommunicationStrategy, default_strategy, place_of
from spear.runtimes import ProcessRuntime, Runtime, RuntimeRegistry, RuntimeSettings
from spear.spearlet import DeploymentSettings
from spear.transports import TransportRegistry

from ._faults import Faults, KeyPath
from ._schema import Configuration
from ._values import can_be_said, fields, of_no_type, read_values, secrets_of

PROCESS: Final = ProcessRuntime.name

COMMON: Final = (
    "source",
    "runtime",
    *(each.name for each in attrs.fields(DeploymentSettings)),
    "debug",
)
"""Keys of every deployment, whatever its runtime."""


def own_kinds(runtime: object) -> Mapping[str, object]:
    """Return the keys that deployments of a runtime have beside :data:`COMMON`, with their types.

    Returns none for an unknown runtime, whose fault :func:`read_settings` reports.
    """
    if runtime == PROCESS or not isinstance(runtime, str):
        return {}
    try:
        kinds = fields(RuntimeRegistry().find(runtime).settings_class)
    except ConfigurationError:
        return {}
    return {name: kind for name, kind in kinds.items() if name not in ("target", "debug")}


TRANSPORTS: Final = "transports"
"""Name of the key of each ``[runtimes.NAME]`` that lists its transports; no field of the class."""


def runtime_kinds(name: str) -> Mapping[str, object]:
    """Return the keys of ``[runtimes.NAME]``, with their types; none for an unknown runtime."""
    try:
        return _kinds_of(RuntimeRegistry().find(name))
    except ConfigurationError:
        return {}


def runtime_secrets(name: str) -> frozenset[str]:
    """Return the keys of ``[runtimes.NAME]`` whose values must not be shown."""
    return secrets_of(type(RuntimeRegistry().find(name)))


def _kinds_of(runtime: Runtime) -> Mapping[str, object]:
    """Return the keys of :func:`runtime_kinds`. Raises ConfigurationError if types are unknown."""
    return {**fields(type(runtime)), TRANSPORTS: tuple[str, ...]}


# -- deployments --------------------------------------------------------------------------------


def read_settings(
    name: str, said: Mapping[str, object], common: Mapping[str, object], faults: Faults
) -> RuntimeSettings | None:
    """Return the settings of a deployment of another runtime than "process"; None if invalid.

    Args:
        name: name of the deployment.
        said: the deployment's table.
        common: the values of the keys that every deployment has.
        faults: collects the faults.
    """
    path = ("functions", name)
    try:
        cls = RuntimeRegistry().find(str(common["runtime"])).settings_class
        kinds = fields(cls)
    except ConfigurationError as error:
        faults.add((*path, "runtime"), error.summary)
        return None
    own = {each: kind for each, kind in kinds.items() if each not in ("target", "debug")}
    required = [each.name for each in attrs.fields(cls) if each.default is attrs.NOTHING]
    for each in required:
        if each in own and not can_be_said(own[each]):
            faults.add(
                (*path, "runtime"),
                f"{cls.__name__} requires {each}, {of_no_type(own[each])}: the author of the class must "
                "add a default",
            )
            return None
    has_source = "target" in kinds
    known = [*(each for each in COMMON if has_source or each != "source"), *own]
    faults.expect_known(path, said, known)
    values = read_values(own, secrets_of(cls), said, path, faults)
    if has_source and common.get("source") is not None:
        values["target"] = common["source"]
    values["debug"] = common.get("debug", False)
    missing = [
        "source" if each.name == "target" else each.name
        for each in attrs.fields(cls)
        if each.init and each.default is attrs.NOTHING and each.name not in values
    ]
    for each in missing:
        if each not in said:  # otherwise a fault was added already
            faults.add(path, f"needs {each}, which the runtime {common['runtime']!r} requires")
    return None if missing else _make(cls, values, path, faults)


def _make(
    cls: type[RuntimeSettings], values: Mapping[str, object], path: KeyPath, faults: Faults
) -> RuntimeSettings | None:
    try:
        return cls(**values)  # type: ignore[arg-type]  # read_values has checked their types
    except ConfigurationError as error:
        key = "source" if error.key == "target" else error.key
        faults.add((*path, key) if key else path, error.summary)
    except Exception as error:  # the class may belong to another distribution
        faults.add(path, f"cannot be used as settings of its runtime: {summary_of(error)}")
    return None


# -- runtimes -----------------------------------------------------------------------------------


def read_runtimes(said: Mapping[str, object], faults: Faults) -> dict[str, Mapping[str, object]]:
    """Return the valid values of each table ``[runtimes.NAME]``, by name."""
    found: dict[str, Mapping[str, object]] = {}
    for name, table in said.items():
        path = ("runtimes", name)
        if not isinstance(table, Mapping):
            faults.add(path, f"must be a table: [runtimes.{name}]")
            continue
        try:
            runtime = RuntimeRegistry().find(name)
            kinds = _kinds_of(runtime)
        except ConfigurationError as error:
            faults.add(path, error.summary)
            continue
        faults.expect_known(path, table, kinds)
        values = read_values(kinds, secrets_of(type(runtime)), table, path, faults)
        _check_transports(runtime, values, path, faults)
        try:
            _configured(runtime, values)
        except ConfigurationError as error:
            faults.add((*path, error.key) if error.key else path, error.summary)
        else:
            found[name] = values
    return found


def make_runtimes(configuration: Configuration) -> list[Runtime]:
    """Return the runtimes with a table in the configuration, for :func:`open_spearlet`."""
    return [
        _configured(RuntimeRegistry().find(name), values)
        for name, values in configuration.runtimes.items()
    ]


def make_strategies(configuration: Configuration) -> dict[str, CommunicationStrategy]:
    """Return the configured strategies for reaching instances, by runtime, for :func:`open_spearlet`."""
    strategies: dict[str, CommunicationStrategy] = {}
    for name, values in configuration.runtimes.items():
        transports = values.get(TRANSPORTS)
        if isinstance(transports, tuple):
            usual = _usual_strategy(RuntimeRegistry().find(name))
            strategies[name] = attrs.evolve(usual, transports=transports, most=None)
    return strategies


def _usual_strategy(runtime: Runtime) -> CommunicationStrategy:
    return runtime.strategy or default_strategy(runtime.name)


def _check_transports(
    runtime: Runtime, values: Mapping[str, object], path: KeyPath, faults: Faults
) -> None:
    names = values.get(TRANSPORTS)
    if names == ():
        faults.add((*path, TRANSPORTS), "must name at least one transport")
    if isinstance(names, tuple):
        registry, reach = TransportRegistry(), _usual_strategy(runtime).reach
        for each in names:
            try:
                farthest = registry.find(each).farthest
            except ConfigurationError as error:
                faults.add((*path, TRANSPORTS), error.summary)
            else:
                if farthest < reach:
                    fault = (
                        f"must not contain {each!r}, which cannot be reached from {place_of(reach)}"
                    )
                    faults.add((*path, TRANSPORTS), fault)


def _configured(runtime: Runtime, values: Mapping[str, object]) -> Runtime:
    own = {name: value for name, value in values.items() if name != TRANSPORTS}
    try:
        return attrs.evolve(runtime, **own)  # type: ignore[arg-type]  # types are checked
    except ConfigurationError:
        raise
    except Exception as error:  # the class may belong to another distribution
        raise ConfigurationError(f"cannot be configured: {summary_of(error)}") from error
