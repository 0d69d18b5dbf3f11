"""``spear serve``: its command line, and the choice of checking, showing or running."""

from __future__ import annotations

import argparse
import json
import os
import re
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Literal, get_args, get_origin

import attrs

from spear._errors import ConfigurationError
from spear._ids import problem_of_deployment_name
from spear._paths import absolute
from spear._targets import is_file, name_of, split_target, stem_of
from spear.config import (
    Faults,
    Flags,
    FunctionConfiguration,
    HostConfiguration,
    Loaded,
    check_configuration,
    check_instruments,
    fields,
    flag_of,
    load_configuration,
    show_as_json,
    show_as_toml,
)

from ._claim import check_place
from ._command import add_env, read_variable
from ._say import complain, say
from ._status import exit_status
from ._text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._host import LoadConfiguration
    from ._parser import CommandParser, OptionGroup

CONFIG_FILE: Final = "spear.toml"
"""The configuration file that is read if the command line names nothing to serve."""

USAGE: Final = "spear serve [options] [[NAME=]FILE.py ...]"

DESCRIPTION: Final = """\
Host functions until a signal or an operator stops the host. The functions are in files, in directories
with a main.py, or in modules; or a configuration file lists them. The deployments and addresses are
printed; the output of functions is written to standard error."""

EPILOG: Final = """\
Flags take precedence over environment variables (SPEAR_LISTEN, SPEAR_LIMITS_MAX_CALLS, ...), and those
over the configuration file; docs/configuration.md lists all keys.

signals:
  SIGTERM, SIGINT    refuse new calls, finish the running ones, and stop; a second signal stops at once
  SIGHUP             read the configuration again, and apply the changes

examples:
  spear serve shop.py --replicas 2
  spear serve --config spear.toml --check
  spear serve till=shop.py ./reports/ --listen 127.0.0.1:0 --name evening
"""


def define_serve(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    parser.describe(usage=USAGE, description=DESCRIPTION, epilog=EPILOG)
    parser.add(
        "--check", action="store_true", help="list faults of the configuration, and do not start"
    )
    parser.add(
        "--show-config", nargs="?", const="toml", choices=("toml", "json"),
        help="print the effective configuration, without secrets, and do not start",
    )  # fmt: skip
    define_host_options(parser)
    parser.set_run(run_serve)


def define_host_options(parser: CommandParser) -> None:
    """Define the sources, and the options that all kinds of hosts have."""
    parser.add(
        "sources",
        nargs="*",
        metavar="[NAME=]FILE.py",
        help="files, directories or modules to serve",
    )
    parser.add(
        "--config", metavar="FILE",
        help=f"the configuration file (or SPEAR_CONFIG; default: {CONFIG_FILE} without sources)",
    )  # fmt: skip
    parser.add(
        "--json",
        action="store_true",
        help="print deployments and addresses as a line of JSON; with --check, the faults",
    )
    _define_keys(parser.group("settings of the host"), HostConfiguration, is_function=False)
    functions = parser.group("settings of every function")
    _define_keys(functions, FunctionConfiguration, is_function=True)
    add_env(functions, "all functions")
    parser.add(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="set any other key, as in --set limits.wire.max_calls=200",
    )  # fmt: skip


def _define_keys(group: OptionGroup, table: type, *, is_function: bool) -> None:
    """Define a flag for each key of a table; for functions, only for keys that have one."""
    kinds = fields(table)
    for each in _keys_with_flags(table, is_function=is_function):
        says = each.metadata["says"].replace("`", "").replace("%", "%%")
        if isinstance(each.default, bool):
            group.add(
                flag_of(each.name), action=argparse.BooleanOptionalAction, default=None, help=says
            )
        else:
            choices = (
                get_args(kinds[each.name]) if get_origin(kinds[each.name]) is Literal else None
            )
            name = None if choices else each.name.upper()
            group.add(flag_of(each.name), metavar=name, choices=choices, help=says)


def run_serve(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    load = read_host_options(options, USAGE)
    loaded, faults = load()
    if options.check and options.json:
        return _check_for_scripts(loaded, faults)
    if options.check:
        faults.raise_if_any()
        _warn(loaded)
        count = len(loaded.configuration.functions)
        say(f"no faults found: {count} deployment{'' if count == 1 else 's'}")
        return 0
    if options.show_config:
        show = show_as_json if options.show_config == "json" else show_as_toml
        say(show(loaded.configuration).removesuffix("\n"))
        for line in faults.lines:
            complain(line)
        return 0
    faults.raise_if_any()
    _warn(loaded)
    from ._host import run_host

    options.shows_lines = loaded.configuration.spearlet.log_instances
    return run_host(loaded, load, as_json=options.json)


def read_host_options(options: argparse.Namespace, usage: str) -> LoadConfiguration:
    """Return the function that loads the configuration of a command line."""
    return partial(load_checked, _config_file(options, usage), _flags(options, usage))


def _check_for_scripts(loaded: Loaded, faults: Faults) -> int:
    """Print the faults and warnings as JSON; return the exit status."""
    told = {
        "faults": [attrs.asdict(each) for each in faults.each],
        "warnings": _warnings(loaded),
        "deployments": list(loaded.configuration.functions),
    }
    say(json.dumps(told, indent=2))
    return exit_status(ConfigurationError("")) if faults else 0


def _warn(loaded: Loaded) -> None:
    """Print the warnings: settings that work but are not secure."""
    for each in _warnings(loaded):
        complain(f"spear: {printable(each)}")


def _warnings(loaded: Loaded) -> list[str]:
    file = loaded.configuration.spearlet.token_file
    with suppress(OSError):
        if file is not None and os.stat(file).st_mode & stat.S_IROTH:
            return [f"{file} can be read by every user of this machine: chmod o-r {file}"]
    return []


def load_checked(file: str | None, flags: Flags) -> tuple[Loaded, Faults]:
    """Load the configuration, and find all faults that it has on this machine."""
    loaded, faults = load_configuration(file, os.environ, flags)
    check_configuration(loaded.configuration, faults)
    check_instruments(loaded, faults)
    if not faults:
        from ._gateway import control_socket, gateway_settings

        try:
            check_place(control_socket(loaded.configuration.spearlet))
        except ConfigurationError as error:
            faults.add(("spearlet", "control_socket"), error.summary)
        try:
            gateway_settings(loaded.configuration)
        except ConfigurationError as error:
            key = "token_file" if error.key == "token" else "listen"
            faults.add(("spearlet", key), str(error))
    return loaded, faults


def _config_file(options: argparse.Namespace, usage: str) -> str | None:
    file: str | None = options.config or os.environ.get("SPEAR_CONFIG") or None
    if file is None and not options.sources:
        if not os.path.exists(CONFIG_FILE):
            raise ConfigurationError(
                f"no source was given: use spear {options.command} FILE.py, or create a {CONFIG_FILE}\n"
                f"usage: {usage}"
            )
        file = CONFIG_FILE
    return file


def _flags(options: argparse.Namespace, usage: str) -> Flags:
    return Flags(
        sources=tuple(_source(each) for each in options.sources),
        host=_said(options, HostConfiguration, is_function=False),
        functions=_said(options, FunctionConfiguration, is_function=True),
        environment=dict(read_variable(each, usage) for each in options.env),
        settings=tuple(_setting(each) for each in options.set),
    )


def _said(options: argparse.Namespace, table: type, *, is_function: bool) -> dict[str, str | bool]:
    keys = _keys_with_flags(table, is_function=is_function)
    said = {each.name: getattr(options, each.name) for each in keys}
    return {name: value for name, value in said.items() if isinstance(value, str | bool)}


def _keys_with_flags(table: type, *, is_function: bool) -> list[attrs.Attribute[object]]:
    assert attrs.has(table)
    return [each for each in attrs.fields(table) if each.metadata["flag"] or not is_function]


def _source(text: str) -> tuple[str, str]:
    """Return (name, source) for a word of the command line."""
    name, equals, source = text.partition("=")
    if not equals or not re.fullmatch(r"[\w-]+", name):
        is_path = os.sep in name or os.path.exists(split_target(text)[0])
        if equals and not is_path and is_file(split_target(source)[0]):
            raise ConfigurationError(f"{name!r} {problem_of_deployment_name(name)}")
        name, source = "", text
    if source.endswith(".toml"):
        raise ConfigurationError(
            f"{source} is a configuration, not a program: use spear serve --config {source}"
        )
    return name or deployment_name(source), source


def deployment_name(source: str) -> str:
    """Return the default name of a deployment: that of its file, directory or module.

    Raises:
        ConfigurationError: the source gives no name, or one with letters that a deployment's name
            must not have.
    """
    name = stem_of(source)
    if not name:  # . and ..
        name = Path(absolute(split_target(source)[0])).resolve().name
    cleaned = name_of(name)
    if not cleaned or not name.isascii():
        raise ConfigurationError(
            f"the name of a deployment cannot be derived from {source!r}: choose one, as in NAME={source}"
        )
    return cleaned


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigurationError(
            f"--set needs KEY=VALUE, as in --set limits.wire.max_calls=200, not {text!r}"
        )
    return key, value
