"""Merge all sources into one configuration, or collect all faults.

Loading starts nothing and changes nothing on the machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import final

import attrs

from spear._paths import absolute

from ._build import build_configuration
from ._faults import Faults, KeyPath, Said
from ._schema import Configuration
from ._sources import (
    Flags,
    merge,
    places,
    read_environment,
    read_flags,
    resolve_paths,
    runtimes_of,
)
from ._toml import read_file


@final
@attrs.frozen(kw_only=True)
class Loaded:
    """A configuration, and where its values came from.

    Attributes:
        configuration: the merged configuration, with defaults in place of faulty values.
        origins: origin of each value by its path: a file's line, a variable or a flag.
        file: path of the file that was read, if any.
    """

    configuration: Configuration
    origins: Mapping[KeyPath, str]
    file: str | None


def load_configuration(
    file: str | None, environment: Mapping[str, str], flags: Flags
) -> tuple[Loaded, Faults]:
    """Merge file, environment and flags; return the configuration, and the faults found.

    Args:
        file: path of a TOML file, or None.
        environment: all environment variables; keys are set by names that begin with ``SPEAR_``.
        flags: flags of the command line.

    Raises:
        ConfigurationError: the file cannot be read, or is not TOML; or a path is relative to a working
            directory that has been removed.
    """
    faults = Faults(places())
    said = Said({}, {})
    if file is not None:
        file = absolute(file, flags.directory)
        said = read_file(file, flags.directory)
        said = attrs.evolve(said, tables=resolve_paths(said.tables, os.path.dirname(file)))
    runs = runtimes_of(_functions(said), environment, flags)
    by_flags = read_flags(flags, _functions(said), runs, faults)
    names = merge(_functions(said), _functions(by_flags))
    runtimes = said.tables.get("runtimes")
    known = runtimes if isinstance(runtimes, Mapping) else {}
    functions = {name: runs.get(name) for name in names}
    by_environment = read_environment(environment, functions, known, faults)
    tables = said.tables
    origins = dict(said.origins)
    for later in (by_environment, by_flags):
        tables = merge(tables, resolve_paths(later.tables, flags.directory))
        origins |= later.origins
    faults.origins.update(origins)
    configuration = build_configuration(tables, faults)
    return Loaded(configuration=configuration, origins=origins, file=file), faults


def _functions(said: Said) -> Mapping[str, object]:
    functions = said.tables.get("functions")
    return functions if isinstance(functions, Mapping) else {}
