"""Runtimes by their names: what one can be told, and what a deployment of it can.

The keys of ``[runtimes.NAME]`` are the fields of the runtime's class, and ``transports``. A deployment
has, beside the keys that every deployment has, the fields of the runtime's settings class; its ``source``
is the field ``target``. The process runtime has its keys in the schema, because they have flags and a
table in the documentation.
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
"""Keys of each deployment, whatever runs it."""


def own_kinds(runtime: object) -> Mapping[str, object]:
    """The keys that deployments of a runtime have beside :data:`COMMON`, and the type of each.

    There are none for a name that no runtime has: what is wrong with that is told elsewhere.
    """
    if runtime == PROCESS or not isinstance(runtime, str):
        return {}
    try:
        kinds = fields(RuntimeRegistry().find(runtime).settings_class)
    except ConfigurationError:
        return {}
    return {name: kind for name, kind in kinds.items() if name not in ("target", "debug")}


TRANSPORTS: Final = "transports"
"""How instances of a runtime are reached: a key of each ``[runtimes.NAME]``, no field of its class."""


def runtime_kinds(name: str) -> Mapping[str, object]:
    """The keys of ``[runtimes.NAME]``, and the type of each; none for a name that no runtime has."""
    try:
        return _kinds_of(RuntimeRegistry().find(name))
    except ConfigurationError:
        return {}


def runtime_secrets(name: str) -> frozenset[str]:
    """The keys of ``[runtimes.NAME]`` whose values are not to be shown."""
    return secrets_of(type(RuntimeRegistry().find(name)))


def _kinds_of(runtime: Runtime) -> Mapping[str, object]:
    """See :func:`runtime_kinds`. Raises ConfigurationError if they cannot be told."""
    return {**fields(type(runtime)), TRANSPORTS: tuple[str, ...]}


# -- deployments --------------------------------------------------------------------------------


def read_settings(
    name: str, said: Mapping[str, object], common: Mapping[str, object], faults: Faults
) -> RuntimeSettings | None:
    """The settings of a deployment that is not one of processes; None if they cannot be made.

    Args:
        name: of the deployment.
        said: its table.
        common: those of its keys that every deployment has, read.
        faults: gets what is wrong.
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
                f"{cls.__name__} needs {each}, {of_no_type(own[each])}: its author has to give it a "
                "default",
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
        if each not in said:  # or that has been told
            faults.add(path, f"needs {each}, for the runtime {common['runtime']!r}")
    return None if missing else _make(cls, values, path, faults)


def _make(
    cls: type[RuntimeSettings], values: Mapping[str, object], path: KeyPath, faults: Faults
) -> RuntimeSettings | None:
    try:
        return cls(**values)  # type: ignore[arg-type]  # they have been read by their types
    except ConfigurationError as error:
        key = "source" if error.key == "target" else error.key
        faults.add((*path, key) if key else path, error.summary)
    except Exception as error:  # of another distribution
        faults.add(path, f"cannot be settings of its runtime: {summary_of(error)}")
    return None


# -- runtimes -----------------------------------------------------------------------------------


def read_runtimes(said: Mapping[str, object], faults: Faults) -> dict[str, Mapping[str, object]]:
    """What each of ``[runtimes.NAME]`` says, as far as it can be used."""
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
    """The runtimes that a configuration says something about, for :func:`open_spearlet`."""
    return [
        _configured(RuntimeRegistry().find(name), values)
        for name, values in configuration.runtimes.items()
    ]


def make_strategies(configuration: Configuration) -> dict[str, CommunicationStrategy]:
    """How a configuration wants the instances of runtimes to be reached, for :func:`open_spearlet`."""
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
                    fault = f"cannot have {each!r}: it cannot be reached from {place_of(reach)}"
                    faults.add((*path, TRANSPORTS), fault)


def _configured(runtime: Runtime, values: Mapping[str, object]) -> Runtime:
    own = {name: value for name, value in values.items() if name != TRANSPORTS}
    try:
        return attrs.evolve(runtime, **own)  # type: ignore[arg-type]  # read by their types
    except ConfigurationError:
        raise
    except Exception as error:  # of another distribution
        raise ConfigurationError(f"cannot be configured: {summary_of(error)}") from error
