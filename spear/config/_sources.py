"""The sources of a configuration: file, environment and flags. Each gives nested tables and origins.

A later source overrides an earlier one, key by key, in the order file, environment, flags. Relative paths
in a file are relative to its directory; all others are relative to the working directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Final, TypeAlias, final

import attrs

from spear._host_limits import HostLimits
from spear._paths import absolute, working_directory
from spear._targets import is_file, split_target
from spear.gateway import GatewaySettings

from ._faults import Faults, KeyPath, Said
from ._runtimes import PROCESS, own_kinds, runtime_kinds
from ._schema import GATEWAY_ELSEWHERE, FunctionConfiguration, HostConfiguration
from ._values import fields, is_texts, parse_text, table_in

PREFIX: Final = "SPEAR_"

OTHERS: Final = frozenset(
    {"SPEAR_BREAKPOINTS", "SPEAR_CONFIG", "SPEAR_HOST", "SPEAR_INSTANCE", "SPEAR_TOKEN"}
)
"""Variables that begin with the prefix but set no key: other parts of Spear use them."""

MEANT: Final = ("SPEAR_GATEWAY_", "SPEAR_LIMITS_", "SPEAR_FUNCTIONS_", "SPEAR_RUNTIMES_")
"""Prefixes of variables that are certainly meant as keys, so that an unknown one is a fault."""

SECTIONS: Final[dict[str, type]] = {
    "spearlet": HostConfiguration,
    "gateway": GatewaySettings,
    "limits": HostLimits,
}

Tables: TypeAlias = dict[str, object]


@final
@attrs.frozen(kw_only=True)
class Flags:
    """The parsed command line.

    Attributes:
        sources: (name, source) of functions.
        host: keys of ``[spearlet]``.
        functions: keys that apply to every function.
        environment: environment variables for every function.
        settings: (path of keys, value) of each ``--set``.
        directory: working directory of the command, which relative paths are relative to; None if it has
            been removed.
    """

    sources: tuple[tuple[str, str], ...] = ()
    host: Mapping[str, str | bool] = attrs.field(factory=dict)
    functions: Mapping[str, str | bool] = attrs.field(factory=dict)
    environment: Mapping[str, str] = attrs.field(factory=dict)
    settings: tuple[tuple[str, str], ...] = ()
    directory: str | None = attrs.field(factory=working_directory)


# -- paths of keys ------------------------------------------------------------------------------


def kind_at(path: KeyPath, runtimes: Mapping[str, object]) -> object:
    """Return the type of the key at a path; None if there is no such key.

    ``runtimes`` maps each function to its runtime, which can add keys to the function's table.
    """
    match path:
        case ("runtimes", name, key, *rest):
            kind = runtime_kinds(name).get(key)
        case ("functions", name, key, *rest):
            own = own_kinds(runtimes.get(name, PROCESS))
            kind = {**fields(FunctionConfiguration), **own}.get(key)
        case (section, key, *rest) if section in SECTIONS:
            kind = fields(SECTIONS[section]).get(key)
        case _:
            return None
    for inner in rest:
        table = table_in(kind)
        if table is None:
            return str if is_texts(kind) else None
        kind = fields(table).get(inner)
    return kind


def runtimes_of(
    functions: Mapping[str, object], environment: Mapping[str, str], flags: Flags
) -> dict[str, object]:
    """Return the runtime, from the last source that sets one, of each function in file or flags."""
    settings = dict(flags.settings)
    paths = [text.split(".") for text in settings]
    named = [path[1] for path in paths if path[0] == "functions" and len(path) > 2]
    found: dict[str, object] = {}
    for name in (*functions, *dict(flags.sources), *named):
        path = ("functions", name, "runtime")
        table = functions.get(name)
        by_file = table.get("runtime", PROCESS) if isinstance(table, Mapping) else PROCESS
        by_environment = environment.get(variable_of(path), by_file)
        found[name] = settings.get(".".join(path), by_environment)
    return found


def put(tables: Tables, path: KeyPath, value: object) -> None:
    """Set the value at a path, creating the tables above it."""
    *above, name = path
    for each in above:
        inner = tables.get(each)
        if not isinstance(inner, dict):
            inner = tables[each] = {}
        tables = inner
    tables[name] = value


def merge(earlier: Mapping[str, object], later: Mapping[str, object]) -> Tables:
    """Merge two nested tables; values of ``later`` take precedence."""
    merged = dict(earlier)
    for name, value in later.items():
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[name] = merge(before, value)
        else:
            merged[name] = value
    return merged


# -- the environment ------------------------------------------------------------------------------


def variables(
    functions: Mapping[str, object], runtimes: Iterable[str] = ()
) -> dict[str, list[KeyPath]]:
    """Return the paths of keys that each environment variable can set, by variable.

    Args:
        functions: runtime of each function, by the function's name.
        runtimes: names of the runtimes that have tables.
    """
    found: dict[str, list[KeyPath]] = {}
    for path in (
        *(("spearlet", each) for each in fields(HostConfiguration)),
        *(("gateway", each) for each in fields(GatewaySettings) if each not in GATEWAY_ELSEWHERE),
        *_paths_in(HostLimits, ("limits",)),
        *(each for name in functions for each in _paths_in(FunctionConfiguration, ("functions", name))),
        *(("functions", name, each) for name in functions for each in own_kinds(functions[name])),
        *(("runtimes", name, each) for name in runtimes for each in runtime_kinds(name)),
    ):  # fmt: skip
        known = found.setdefault(variable_of(path), [])
        if path not in known:
            known.append(path)
    return found


def places() -> dict[str, tuple[KeyPath, ...]]:
    """Return the paths of each key of the schema, by the key's name; functions are named NAME."""
    tables: dict[KeyPath, type] = {(name,): table for name, table in SECTIONS.items()}
    tables["functions", "NAME"] = FunctionConfiguration
    found: dict[str, tuple[KeyPath, ...]] = {}
    for above, table in tables.items():
        for path in _paths_in(table, above):
            if path[0] != "gateway" or path[1] not in GATEWAY_ELSEWHERE:
                found[path[-1]] = (*found.get(path[-1], ()), path)
    return found


def _paths_in(table: type, path: KeyPath) -> Iterator[KeyPath]:
    for name, kind in fields(table).items():
        yield (*path, name)
        inner = table_in(kind)
        if inner is not None:
            yield from _paths_in(inner, (*path, name))


def variable_of(path: KeyPath) -> str:
    """Return the variable for a key: ``SPEAR_LISTEN``, ``SPEAR_LIMITS_WIRE_MAX_CALLS``."""
    parts = path[1:] if path[0] == "spearlet" else path
    return PREFIX + re.sub(r"[^A-Z0-9]", "_", "_".join(parts).upper())


def read_environment(
    environment: Mapping[str, str],
    functions: Mapping[str, object],
    runtimes: Iterable[str],
    faults: Faults,
) -> Said:
    """Read the values that environment variables set.

    Args:
        environment: all environment variables.
        functions: runtime of each function, by the function's name.
        runtimes: names of the runtimes that have tables.
        faults: collects unknown variables, but only those clearly meant as keys: a cluster may set
            variables with our prefix, such as ``SPEAR_PORT`` for a service named ``spear``.
    """
    known = variables(functions, runtimes)
    tables: Tables = {}
    origins: dict[KeyPath, str] = {}
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in OTHERS:
            continue
        paths = known.get(name, [])
        if len(paths) == 1:
            put(tables, paths[0], parse_text(kind_at(paths[0], functions), environment[name]))
            origins[paths[0]] = name
        elif paths:
            both = " and ".join(".".join(each) for each in paths)
            faults.add_line(f"{name} may mean {both}: set the key in the file")
        elif close := get_close_matches(name, known, 1, 0.85):
            faults.add_line(f"there is no such variable; did you mean {close[0]}?", name)
        elif name.startswith(MEANT):
            faults.add_line(
                "there is no such variable; only functions and runtimes in the file have variables",
                name,
            )
    return Said(tables, origins)


# -- flags ----------------------------------------------------------------------------------------


def flag_of(name: str) -> str:
    """Return the flag for a key."""
    return f"--{name.replace('_', '-')}"


def read_flags(
    flags: Flags, functions: Mapping[str, object], runtimes: Mapping[str, object], faults: Faults
) -> Said:
    """Read the values that the command line sets.

    Args:
        flags: flags of the command line.
        functions: the functions that are known already, by name.
        runtimes: runtime of each function that is known or named by a flag.
        faults: collects the faults.
    """
    tables: Tables = {}
    origins: dict[KeyPath, str] = {}

    def say(path: KeyPath, value: str | bool, origin: str) -> None:
        origins[path] = origin
        if isinstance(value, str):
            put(tables, path, parse_text(kind_at(path, runtimes), value))
        else:
            put(tables, path, value)

    for name, source in flags.sources:
        path: KeyPath = ("functions", name, "source")
        if path in origins:
            faults.add_line(
                f"{source} and {origins[path]} would both be named {name}: choose another name, as in "
                f"NAME={source}"
            )
        say(path, source, source)
    for key, value in flags.host.items():
        say(("spearlet", key), value, flag_of(key))
    for name in {**functions, **dict(flags.sources)}:
        for key, value in flags.functions.items():
            say(("functions", name, key), value, flag_of(key))
        for variable, value in flags.environment.items():
            say(("functions", name, "environment", variable), value, "--env")
    for text, value in flags.settings:
        path = tuple(text.split("."))
        if len(path) < 2 and text not in SECTIONS:
            faults.add_line(
                "KEY must be a key in a table, as in --set limits.wire.max_calls=200",
                f"--set {text}={value}",
            )
        else:
            say(path, value, f"--set {text}")
    return Said(tables, origins)


# -- paths of files ---------------------------------------------------------------------------------


def resolve_paths(tables: Mapping[str, object], base: str | None) -> Tables:
    """Return the tables with relative paths joined to ``base``.

    Raises:
        ConfigurationError: a path is relative, and ``base`` is None.
    """
    resolved = dict(tables)
    for section in ("spearlet", "functions"):
        table = tables.get(section)
        if not isinstance(table, Mapping):
            continue
        if section == "spearlet":
            resolved[section] = _resolve(HostConfiguration, table, base)
        else:
            resolved[section] = {
                name: _resolve_function(each, base) if isinstance(each, Mapping) else each
                for name, each in table.items()
            }
    return resolved


def _resolve(kind: type, table: Mapping[str, object], base: str | None) -> Tables:
    assert attrs.has(kind)
    resolved = dict(table)
    for each in attrs.fields(kind):
        value = table.get(each.name)
        if not each.metadata.get("path"):
            continue
        is_list = isinstance(each.default, tuple)
        if isinstance(value, str) and not is_list:
            resolved[each.name] = _absolute(value, base, is_program=each.name == "python")
        elif isinstance(value, list) and is_list:
            resolved[each.name] = [
                _absolute(one, base) if isinstance(one, str) else one for one in value
            ]
    return resolved


def _resolve_function(table: Mapping[str, object], base: str | None) -> Tables:
    resolved = _resolve(FunctionConfiguration, table, base)
    source, command = table.get("source"), table.get("command")
    if isinstance(source, str) and source:
        program, agent = split_target(source)
        if is_file(program) or (base and os.path.isfile(os.path.join(base, program))):
            program = _absolute(program, base)
            resolved["source"] = f"{program}:{agent}" if agent else program
        elif (
            base and table.get("runtime", PROCESS) == PROCESS
        ):  # a module: look for it in ``base``, as `python -m` does
            resolved.setdefault("python_path", [base])
    if isinstance(command, list) and command and isinstance(command[0], str):
        resolved["command"] = [_absolute(command[0], base, is_program=True), *command[1:]]
    return resolved


def _absolute(path: str, base: str | None, *, is_program: bool = False) -> str:
    if not path or (is_program and os.sep not in path):  # a program's name is looked up in PATH
        return path
    return os.path.normpath(absolute(os.path.expanduser(path), base))
