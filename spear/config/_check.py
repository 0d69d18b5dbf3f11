"""Check whether a configuration can be used on this machine: files exist, and programs are executable.

Nothing is started. So errors that appear only at start-up, such as a module that raises when it is
imported, are not found here.
"""

from __future__ import annotations

import ast
import os
import re
import ssl
from pathlib import Path
from typing import Final

from spear._errors import ConfigurationError
from spear._ids import problem_of_deployment_name
from spear._targets import ARTIFACT_FILE
from spear.runtimes import problems_of

from ._build import process_settings, source_file
from ._faults import Faults
from ._programs import program_problems
from ._runtimes import PROCESS
from ._schema import NOT_LISTENING, Configuration, FunctionConfiguration, HostConfiguration

MAX_PORT: Final = 65535
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")


def split_listen(listen: str) -> tuple[str, int] | None:
    """Split an address into (host, port); return None for "off".

    Raises:
        ConfigurationError: ``listen`` is neither an address nor "off".
    """
    if listen == NOT_LISTENING:
        return None
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    is_number = port.isascii() and port.isdigit()
    is_too_large = is_number and (len(port) > 5 or int(port) > MAX_PORT)
    if not colon or not host or not is_number or is_too_large:
        why = f": a port is at most {MAX_PORT}" if is_too_large else ""
        raise ConfigurationError(
            f"must be HOST:PORT or {NOT_LISTENING!r}, not {listen!r}{why}", key="listen"
        )
    return host, int(port)


def read_token(path: str) -> str:
    """Read the token in a file.

    Raises:
        ConfigurationError: the file cannot be read, or has no valid token.
    """
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(
            f"{path} contains no valid token: a token must be ASCII"
        ) from error
    if not token or not token.isprintable() or " " in token:
        raise ConfigurationError(f"{path} contains no valid token: write one line without spaces")
    return token


def check_configuration(configuration: Configuration, faults: Faults) -> None:
    """Add to ``faults`` every value that cannot be used on this machine."""
    _check_host(configuration.spearlet, faults)
    if not configuration.functions:
        faults.add_line("there are no functions to serve: name a file, or write [functions.NAME]")
    for name, function in configuration.functions.items():
        if problem := problem_of_deployment_name(name):
            faults.add(("functions", name), problem)
        if function.settings is not None:
            for each in problems_of(function.runtime, function.settings):
                key = "source" if each.key == "target" else each.key
                path = ("functions", name, key) if key else ("functions", name)
                faults.add(path, each.summary)
        elif function.runtime == PROCESS and (function.source or function.command):
            _check_function(name, function, faults)


def _check_host(host: HostConfiguration, faults: Faults) -> None:
    if not _HOST_NAME.fullmatch(host.name):
        faults.add(
            ("spearlet", "name"),
            "must be 1 to 32 characters of A-Z a-z 0-9 _ . -, and begin with a letter or digit",
        )
    try:
        split_listen(host.listen)
    except ConfigurationError as error:
        faults.add(("spearlet", "listen"), error.summary)
    if host.token_file is not None:
        try:
            read_token(host.token_file)
        except ConfigurationError as error:
            faults.add(("spearlet", "token_file"), error.summary)
    for key, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if getattr(host, key) is not None and getattr(host, other) is None:
            faults.add(("spearlet", key), f"needs {other}, too")
    if host.tls_cert is not None and host.tls_key is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                host.tls_cert, host.tls_key
            )
        except (OSError, ssl.SSLError) as error:
            why = error.strerror or str(error)
            faults.add(("spearlet", "tls_cert"), f"cannot be used with its key: {why}")


def _check_function(name: str, function: FunctionConfiguration, faults: Faults) -> None:
    path = ("functions", name)
    for each in function.python_path:
        if not os.path.isdir(each):
            faults.add((*path, "python_path"), f"{each} is not a directory")
    file = source_file(function)
    try:
        settings = process_settings(function)
    except ConfigurationError:  # its faults were added already
        return
    problems = {each.key: each.summary for each in settings.problems()}
    if file is not None and os.path.isdir(file):
        file = file / ARTIFACT_FILE
        if not os.path.isfile(file):
            where = f"{file.parent} has no {ARTIFACT_FILE}, which must define the functions"
            problems["target"] = where
    elif file is not None and file.suffix == ".toml":
        what = f"{file.name} is a configuration, not a program"
        problems["target"] = f"{what}: use spear serve --config {file.name}"
    if "" in problems:
        faults.add_line(problems.pop(""))  # a problem of all functions, so it names no key
    if not problems.keys() & {"command", "python"}:
        for problem in program_problems(settings):
            faults.add((*path, "command" if settings.command else "python"), problem)
    for key, problem in problems.items():
        faults.add((*path, "source" if key == "target" else key), problem)
    if file is not None and function.python is None and "target" not in problems:
        _check_syntax(file, faults)


def _check_syntax(file: Path, faults: Faults) -> None:
    try:
        ast.parse(file.read_bytes(), file.name)
    except (SyntaxError, ValueError) as error:  # some releases of Python raise ValueError for a NUL
        line = getattr(error, "lineno", None)
        what = getattr(error, "msg", None) or str(error)
        faults.add_line(what, f"{file}:{line}" if line else str(file))
