"""The schema of the configuration: the keys, with their types, defaults and purposes.

Everything else is derived from these classes: the keys of a file, the names of environment variables, the
flags of the command line, the output of ``--show-config``, and the tables of ``docs/configuration.md``,
which a test compares with them. This module reads no configuration and imports no module that does.

If the spearlet has a class for a key's value, that class checks the value; see ``_build``.
"""

# ruff: noqa: RUF009  # the functions called in these classes make attrs fields

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, TypeVar, final

import attrs

from spear._host_limits import HostLimits, InstanceTimeouts
from spear.calls import SchedulingPolicy
from spear.gateway import GatewaySettings
from spear.runtimes import RuntimeSettings, StartMethod
from spear.spearlet import HealthPolicy, RestartPolicy, Scale

T = TypeVar("T")

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

DEFAULT_LISTEN: Final = "127.0.0.1:8080"
NOT_LISTENING: Final = "off"


def _key(
    default: T, says: str, *, path: bool = False, flag: bool = False, secret: bool = False
) -> T:
    """Return a field for a key of a table.

    Args:
        default: value if the key is not set.
        says: purpose of the key, for people.
        path: whether the value is a path, relative to the source that sets it.
        flag: whether a function's key has a flag, which then applies to all functions.
        secret: whether values must not be shown.
    """
    # Every default is immutable, except an empty map, of which each table gets its own copy.
    metadata = {"says": says, "path": path, "flag": flag, "secret": secret}
    if isinstance(default, dict):
        empty: T = attrs.field(factory=type(default), metadata=metadata)
        return empty
    made: T = attrs.field(default=default, metadata=metadata)
    return made


@final
@attrs.frozen(kw_only=True)
class HostConfiguration:
    """The table ``[spearlet]``: the host itself. Each key has a flag."""

    name: str = _key("default", "tells this host from others of the same user: its socket bears it")
    listen: str = _key(
        DEFAULT_LISTEN, f'HOST:PORT of the HTTP gateway, port 0 for any; "{NOT_LISTENING}" for none'
    )
    token_file: str | None = _key(
        None, "a file with the token that clients over TCP must have", path=True
    )
    tls_cert: str | None = _key(None, "the certificate chain, as PEM", path=True)
    tls_key: str | None = _key(None, "its private key, as PEM", path=True)
    allow_plaintext: bool = _key(
        False, "listen without TLS where other machines connect: behind a proxy that ends TLS"
    )
    allow_control: bool = _key(
        False, "let everybody who reaches a loopback address without a token operate this host"
    )
    control_socket: str | None = _key(
        None, "where the command line finds this host, instead of the usual place", path=True
    )
    log_level: LogLevel = _key("warning", "what of Spear's own log is shown")
    log_instances: bool = _key(True, "show what instances write, on standard error")


@final
@attrs.frozen(kw_only=True)
class FunctionConfiguration:
    """A table ``[functions.NAME]``: a deployment. NAME names the deployment and its instances."""

    source: str | None = _key(
        None,
        "a file (`shop.py`), a directory with a `main.py` (`./shop/`), or a module (`company.shop`); "
        "with the agent's name if there are several (`shop.py:app`)",
    )
    command: tuple[str, ...] = _key(
        (),
        "a program and its arguments, instead of `source`; `{bootstrap_fd}` stands for the descriptor "
        "with its address and secret",
    )
    runtime: str = _key("process", "the name of [what runs it](#runtimes)")
    replicas: Scale = _key(
        Scale(),
        'how many: a number, `"1-8"` for as many as the load needs, or a table',
        flag=True,
    )
    concurrency: int | None = _key(
        None,
        "calls that an instance gets at a time; `limits.wire.max_calls` if not given",
        flag=True,
    )
    queue: int = _key(1000, "calls that may wait for an instance; more are refused", flag=True)
    timeout: float | None = _key(
        None,
        "seconds for a call that names none; `limits.wire.call_seconds` if not given",
        flag=True,
    )
    policy: SchedulingPolicy = _key("round-robin", "which instance gets a call", flag=True)
    dedup_seconds: float = _key(600.0, "how long the outcome of a call with a key is remembered")
    restart: RestartPolicy = _key(
        RestartPolicy(), "how instances that end by themselves are replaced: a table"
    )
    health: HealthPolicy = _key(
        HealthPolicy(), "how instances are asked whether they are well: a table"
    )
    timeouts: InstanceTimeouts | None = _key(
        None, "of its instances' lives: a table; `limits.timeouts` where not given"
    )
    python: str | None = _key(None, "the interpreter; that of the host if not given", path=True)
    python_path: tuple[str, ...] = _key((), "directories to look for modules in, first", path=True)
    environment: Mapping[str, str] = _key({}, "variables that it gets: a table", secret=True)
    pass_environment: tuple[str, ...] = _key(
        (), "names of the host's variables that it gets as well"
    )
    working_directory: str | None = _key(
        None, "an existing one; a private, empty one for each instance if not given", path=True
    )
    memory_bytes: int | None = _key(None, "of address space, which an instance may have")
    open_files: int | None = _key(None, "descriptors that it may have")
    cpu_seconds: int | None = _key(None, "of CPU time, after which it is killed")
    core_bytes: int | None = _key(0, "of a core dump")
    low_latency: bool = _key(False, "look for input before going to sleep: costs CPU")
    environment_handover: bool = _key(
        False, "tell a `command` address and secret in its environment"
    )
    start: StartMethod = _key("auto", "fork what can be forked, only fork, or never fork")
    debug: bool = _key(False, "send tracebacks with errors", flag=True)
    settings: RuntimeSettings | None = attrs.field(
        default=None, metadata={"says": "", "path": False, "flag": False, "key": False}
    )
    """Settings of the deployment's runtime, unless it is the process runtime."""


GATEWAY_ELSEWHERE: Final = {
    "name": "name",
    "host": "listen",
    "port": "listen",
    "token": "token_file",
    "tls_cert": "tls_cert",
    "tls_key": "tls_key",
    "control_socket": "control_socket",
    "allow_plaintext": "allow_plaintext",
    "allow_control": "allow_control",
}
"""Gateway settings that are not keys of ``[gateway]``, and the keys of ``[spearlet]`` that set them."""


@final
@attrs.frozen(kw_only=True)
class Configuration:
    """All tables: ``[spearlet]``, ``[gateway]``, ``[limits]``, ``[runtimes.*]``, ``[functions.*]``."""

    spearlet: HostConfiguration = attrs.field(factory=HostConfiguration)
    gateway: GatewaySettings = attrs.field(factory=GatewaySettings)
    limits: HostLimits = attrs.field(factory=HostLimits)
    runtimes: Mapping[str, Mapping[str, object]] = attrs.field(factory=dict)
    functions: Mapping[str, FunctionConfiguration] = attrs.field(factory=dict)
