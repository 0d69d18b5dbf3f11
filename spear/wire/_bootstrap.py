"""The bootstrap record: what an instance has to know before it can reach its host, as one CBOR map.

A runtime hands it over by a way of its own; processes read it from a pipe. ``docs/wire.md`` is the
normative text. This module knows neither transports nor pipes: an address is text here.
"""

from __future__ import annotations

from typing import Final, final

import attrs

from spear._errors import ConfigurationError
from spear._ids import InstanceId, Secret
from spear._limits import DEFAULT_WIRE_LIMITS, DRAIN_SECONDS, WireLimits, is_number

from ._heads import HeadRefused, HeadValue, decode_head_untrusted, encode_head

BOOTSTRAP_VERSION: Final = 1

MAX_ADDRESSES: Final = 16
"""Addresses that an instance accepts in one record. Each of them can cost a start some seconds."""

_LIMITS: Final = tuple(field.name for field in attrs.fields(WireLimits))


@final
@attrs.frozen
class OfferedAddress:
    """An address at which a host listens for an instance, and what is needed to trust who answers.

    Attributes:
        address: its text form.
        server_name: the name that the listener's certificate must have; empty for the address's host.
        ca: PEM text of the certificates that may have signed the listener's; empty for the
            system's list.
    """

    address: str
    server_name: str = ""
    ca: str = attrs.field(default="", repr=False)


@final
@attrs.frozen(kw_only=True)
class BootstrapRecord:
    """Where the host is, who the instance is, and how it proves that.

    Attributes:
        addresses: where the host listens for this instance, best first.
        secret: proves who the instance is; good for one login.
        instance_id: id of the instance: runtime, name and incarnation.
        limits: what the instance accepts, and how long it waits.
        drain_seconds: for calls that run when a signal ends the instance.
        debug: send tracebacks with errors.
        low_latency: poll for input for a moment before blocking.
    """

    addresses: tuple[OfferedAddress, ...]
    secret: Secret
    instance_id: InstanceId
    limits: WireLimits = DEFAULT_WIRE_LIMITS
    drain_seconds: float = DRAIN_SECONDS
    debug: bool = False
    low_latency: bool = False

    def __repr__(self) -> str:
        where = ", ".join(each.address for each in self.addresses)
        return f"<BootstrapRecord of {self.instance_id} at {where}>"

    def encode(self) -> bytes:
        """The record as a CBOR map.

        Raises:
            ConfigurationError: it is too large, as with certificates of a whole system.
        """
        instance = self.instance_id
        changed: HeadValue = {
            name: value
            for name in _LIMITS
            if (value := getattr(self.limits, name)) != getattr(DEFAULT_WIRE_LIMITS, name)
        }
        try:
            return encode_head(
                {
                    "version": BOOTSTRAP_VERSION,
                    "addresses": [_encode_address(each) for each in self.addresses],
                    "secret": self.secret.reveal(),
                    "runtime": instance.runtime,
                    "instance": instance.name,
                    "incarnation": instance.incarnation,
                    "limits": changed,
                    "drain_seconds": self.drain_seconds,
                    "debug": self.debug,
                    "low_latency": self.low_latency,
                }
            )
        except HeadRefused as error:
            raise ConfigurationError(
                f"the bootstrap record of {instance} cannot be made: {error}; let instances trust only "
                "the certificate that has signed the listener's"
            ) from error

    @classmethod
    def decode(cls, data: bytes) -> BootstrapRecord:
        """Decode a record.

        Raises:
            ConfigurationError: it is none, or of another version; the message names the field, never the
                secret.
        """
        try:
            fields = decode_head_untrusted(data)
            version = fields.get("version")
            if version != BOOTSTRAP_VERSION or type(version) is not int:
                raise ValueError(
                    f"it has version {version!r:.40}, and this agent knows version {BOOTSTRAP_VERSION}: "
                    "use the same release of Spear for host and function"
                )
            secret, incarnation = fields.get("secret"), fields.get("incarnation")
            if not isinstance(secret, bytes):
                raise ValueError("secret must be bytes")
            if type(incarnation) is not int:
                raise ValueError("incarnation must be a number")
            return cls(
                addresses=_decode_addresses(fields.get("addresses")),
                secret=Secret(secret),
                instance_id=InstanceId(
                    _text(fields, "runtime"), _text(fields, "instance"), incarnation
                ),
                limits=_limits(fields.get("limits")),
                drain_seconds=_seconds(fields, "drain_seconds", DRAIN_SECONDS),
                debug=fields.get("debug") is True,
                low_latency=fields.get("low_latency") is True,
            )
        except (ValueError, ConfigurationError) as error:
            raise ConfigurationError(f"the bootstrap record cannot be used: {error}") from error


def _encode_address(offered: OfferedAddress) -> dict[str, HeadValue]:
    encoded: dict[str, HeadValue] = {"address": offered.address}
    if offered.server_name:
        encoded["server_name"] = offered.server_name
    if offered.ca:
        encoded["ca"] = offered.ca
    return encoded


def _decode_addresses(value: HeadValue) -> tuple[OfferedAddress, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ADDRESSES:
        raise ValueError(f"addresses must be a list of 1 to {MAX_ADDRESSES}")
    addresses: list[OfferedAddress] = []
    for each in value:
        if not isinstance(each, dict):
            raise ValueError("addresses must hold maps")
        addresses.append(
            OfferedAddress(
                _text(each, "address"), _text(each, "server_name", ""), _text(each, "ca", "")
            )
        )
    return tuple(addresses)


def _text(fields: dict[str, HeadValue], name: str, default: str | None = None) -> str:
    value = fields.get(name, default)
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
