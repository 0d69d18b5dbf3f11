"""What an agent has to know before it can reach its host, and the two ways in which it is told.

A host of ours hands over a record on the lifeline pipe: a 4-byte little-endian length and a CBOR map
with ``address`` (text), ``secret`` (32 bytes), ``runtime``, ``instance`` and ``incarnation``, and, if
wanted, ``limits`` (a map from the fields of ``WireLimits`` to numbers), ``drain_seconds`` (how long calls
may go on that run when a signal ends the agent), ``debug`` and ``low_latency``.

An agent that something else starts reads its environment: ``SERVICE_ADDR`` (an address as text),
``SECRET`` (64 hexadecimal digits) and ``SPEAR_INSTANCE`` (``process:name#incarnation``). A secret in
the environment can be read by whoever may read ``/proc/<pid>/environ``: prefer the pipe. The variables
are removed as soon as they are read, so that child processes do not inherit them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from spear._errors import ConfigurationError
from spear._ids import InstanceId, Secret
from spear._limits import DEFAULT_WIRE_LIMITS, DRAIN_SECONDS, WireLimits, is_number
from spear.transports import Address, parse_address
from spear.wire import HeadValue, decode_head_untrusted

if TYPE_CHECKING:
    from collections.abc import MutableMapping

ADDRESS, SECRET, INSTANCE = VARIABLES = ("SERVICE_ADDR", "SECRET", "SPEAR_INSTANCE")


@final
class Bootstrap:
    """Where the host is, who we are, and how to prove it."""

    __slots__ = (
        "address",
        "debug",
        "drain_seconds",
        "instance_id",
        "limits",
        "low_latency",
        "secret",
    )

    def __init__(
        self,
        address: Address,
        secret: Secret,
        instance_id: InstanceId,
        *,
        limits: WireLimits = DEFAULT_WIRE_LIMITS,
        drain_seconds: float = DRAIN_SECONDS,
        debug: bool = False,
        low_latency: bool = False,
    ) -> None:
        self.address = address
        self.secret = secret
        self.instance_id = instance_id
        self.limits = limits
        self.drain_seconds = drain_seconds
        self.debug = debug
        self.low_latency = low_latency

    def __repr__(self) -> str:
        return f"<Bootstrap {self.instance_id} at {self.address}>"


def parse_record(record: bytes) -> Bootstrap:
    """What a bootstrap record says.

    Raises:
        ConfigurationError: it is not one; the message names the field, never the secret.
    """
    try:
        fields = decode_head_untrusted(record)
        runtime, name = _text(fields, "runtime"), _text(fields, "instance")
        secret, incarnation = fields.get("secret"), fields.get("incarnation")
        if not isinstance(secret, bytes):
            raise ValueError("secret must be bytes")
        if type(incarnation) is not int:
            raise ValueError("incarnation must be a number")
        return Bootstrap(
            parse_address(_text(fields, "address")),
            Secret(secret),
            InstanceId(runtime, name, incarnation),
            limits=_limits(fields.get("limits")),
            drain_seconds=_seconds(fields, "drain_seconds", DRAIN_SECONDS),
            debug=fields.get("debug") is True,
            low_latency=fields.get("low_latency") is True,
        )
    except (ValueError, ConfigurationError) as error:
        raise ConfigurationError(f"the bootstrap record cannot be used: {error}") from error


def _text(fields: dict[str, HeadValue], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text")
    return value


def _seconds(fields: dict[str, HeadValue], name: str, default: float) -> float:
    value = fields.get(name, default)
    if not is_number(value) or value <= 0:
        raise ValueError(f"{name} must be a number of seconds above 0")
    return value


def _limits(changes: HeadValue) -> WireLimits:
    if changes is None or changes == {}:
        return DEFAULT_WIRE_LIMITS
    if not isinstance(changes, dict):
        raise ValueError("limits must be a map")
    values: dict[str, float] = {}
    for name, value in changes.items():
        default = getattr(DEFAULT_WIRE_LIMITS, name, None)
        if not isinstance(default, int | float):  # a host newer than we may know other limits
            continue
        if not isinstance(value, int | float):
            raise ValueError(f"limit {name} must be a number, not {value!r}")
        values[name] = value
    return WireLimits(**values)  # type: ignore[arg-type]  # each has the type of its default, or it says


def take_environment(environ: MutableMapping[str, str]) -> Bootstrap | None:
    """What the environment says, and remove it there; None if it does not say where the host is.

    Raises:
        ConfigurationError: a variable is missing or makes no sense; the message never shows the
            secret.
    """
    values = {name: environ.pop(name, None) for name in VARIABLES}
    if values[ADDRESS] is None:
        return None
    for name, value in values.items():
        if not value:
            raise ConfigurationError(f"{ADDRESS} is set, but {name} is not")
    try:
        secret = Secret(bytes.fromhex(str(values[SECRET])))
    except ValueError:
        raise ConfigurationError(f"{SECRET} must be 64 hexadecimal digits") from None
    text = str(values[INSTANCE])
    runtime, _, rest = text.partition(":")
    name, _, incarnation = rest.rpartition("#")
    try:
        # int() alone takes digits of other scripts, underscores and blanks.
        if not (incarnation.isascii() and incarnation.isdecimal()):
            raise ValueError("write it as process:name#1")
        instance_id = InstanceId(runtime, name, int(incarnation))
    except (ValueError, ConfigurationError) as error:
        raise ConfigurationError(f"{INSTANCE}={text!r}: {error}") from None
    return Bootstrap(parse_address(str(values[ADDRESS])), secret, instance_id)
