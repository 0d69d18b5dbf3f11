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
from spear._retry_policy import RetryPolicy
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

    name: str = _key("default", "name of this host, unique among the hosts of the user")
    listen: str = _key(
        DEFAULT_LISTEN,
        f'HOST:PORT of the HTTP gateway, with port 0 for any free one; "{NOT_LISTENING}" for none',
    )
    token_file: str | None = _key(
        None, "file with the token that clients over TCP must send", path=True
    )
    tls_cert: str | None = _key(None, "file with the certificate chain, as PEM", path=True)
    tls_key: str | None = _key(
        None, "file with the private key of the certificate, as PEM", path=True
    )
    allow_plaintext: bool = _key(
        False,
        "listen without TLS behind a proxy that terminates TLS",
    )
    allow_control: bool = _key(
        False, "accept operators' requests on a loopback address without a token"
    )
    control_socket: str | None = _key(
        None,
        "path of the socket for commands to this host, instead of the default",
        path=True,
    )
    instruments: tuple[str, ...] = _key(
        (),
        "objects that receive the events of the host, by entry points or as `package.module:Class`",
    )
    log_level: LogLevel = _key("warning", "lowest level of Spear's own log lines to show")
    log_instances: bool = _key(True, "show the output of instances on standard error")


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
        "a program and its arguments, instead of `source`; `{bootstrap_fd}` stands for the file "
        "descriptor from which the program reads the host's address and the secret",
    )
    runtime: str = _key("process", "name of the [runtime](#runtimes)")
    replicas: Scale = _key(
        Scale(),
        'number of instances: a number, a range such as `"1-8"` that follows the load, or a table',
        flag=True,
    )
    concurrency: int | None = _key(
        None,
        "maximum calls in flight of an instance; by default `limits.wire.max_calls`",
        flag=True,
    )
    queue: int = _key(
        1000, "maximum calls that wait for an instance; further calls are refused", flag=True
    )
    timeout: float | None = _key(
        None,
        "seconds for a call without a timeout of its own; by default `limits.wire.call_seconds`",
        flag=True,
    )
    queue_timeout: float | None = _key(
        None, "seconds that a call may wait for an instance, apart from its `timeout`", flag=True
    )
    retry: RetryPolicy | None = _key(
        None, "retries of failed calls: a table; by default failed calls are not tried again"
    )
    policy: SchedulingPolicy = _key(
        "round-robin", "policy that chooses the instance for a call", flag=True
    )
    dedup_seconds: float = _key(600.0, "seconds for which the outcome of a call with a key is kept")
    abandoned_seconds: float | None = _key(
        None,
        "seconds for which a call may go on after its caller has given up, before its instance is "
        "replaced; by default no instance is",
    )
    restart: RestartPolicy = _key(
        RestartPolicy(), "replacement of instances that end unexpectedly: a table"
    )
    health: HealthPolicy = _key(HealthPolicy(), "health checks of instances: a table")
    timeouts: InstanceTimeouts | None = _key(
        None, "time limits for starts and stops of instances: a table; by default `limits.timeouts`"
    )
    python: str | None = _key(
        None, "the Python interpreter; by default that of the host", path=True
    )
    python_path: tuple[str, ...] = _key(
        (), "directories that are searched for modules first", path=True
    )
    environment: Mapping[str, str] = _key(
        {}, "environment variables of instances: a table", secret=True
    )
    pass_environment: tuple[str, ...] = _key(
        (), "names of environment variables that are copied from the host"
    )
    working_directory: str | None = _key(
        None,
        "an existing directory; by default the one in which the host runs",
        path=True,
    )
    private_directory: bool = _key(
        False, "give each instance a new, empty, private directory, removed with the instance"
    )
    memory_bytes: int | None = _key(None, "maximum address space of an instance")
    open_files: int | None = _key(None, "maximum open file descriptors of an instance")
    cpu_seconds: int | None = _key(None, "CPU time after which an instance is killed")
    core_bytes: int | None = _key(0, "maximum size of a core dump")
    low_latency: bool = _key(False, "poll for input before sleeping: less latency, more CPU time")
    environment_handover: bool = _key(
        False, "pass the address and the secret to a `command` in its environment"
    )
    start: StartMethod = _key("auto", "start method: fork if possible, always fork, or never fork")
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
