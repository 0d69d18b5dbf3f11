"""The bootstrap record: one CBOR map with all that an instance needs in order to reach its host.

Each runtime delivers the record in its own way; a process reads it from a pipe. ``docs/wire.md`` is the
normative text. This module knows neither transports nor pipes: it treats an address as text.
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
"""Maximum number of addresses that an instance accepts in one record. Each one can delay a start by some
seconds."""

_LIMITS: Final = tuple(field.name for field in attrs.fields(WireLimits))


@final
@attrs.frozen
class OfferedAddress:
    """An address at which a host listens for an instance, and the means to verify the host's certificate.

    Attributes:
        address: the address as text.
        server_name: the name that the listener's certificate must have; empty for the address's host
            name.
        ca: PEM text of the CA certificates that may have signed the listener's certificate; empty for the
            system's list.
    """

    address: str
    server_name: str = ""
    ca: str = attrs.field(default="", repr=False)


@final
@attrs.frozen(kw_only=True)
class BootstrapRecord:
    """The addresses of the host, the id of the instance, and the secret that authenticates it.

    Attributes:
        addresses: the addresses at which the host listens for this instance, best first.
        secret: the secret that authenticates the instance; good for one login.
        instance_id: id of the instance: runtime, name and incarnation.
        limits: limits of the instance: sizes, rates and timeouts.
        drain_seconds: seconds that running calls have to finish after a signal asks the instance to stop.
        debug: whether errors carry tracebacks.
        low_latency: whether the instance polls for input for a moment before it blocks.
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
        """Encode the record as a CBOR map.

        Raises:
            ConfigurationError: the record is too large, for example with all CA certificates of a system.
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
                f"cannot make the bootstrap record of {instance}: {error}; offer instances only the CA "
                "certificate that signed the listener's certificate"
            ) from error

    @classmethod
    def decode(cls, data: bytes) -> BootstrapRecord:
        """Decode a record.

        Raises:
            ConfigurationError: ``data`` is no valid record, or has another version; the message names the
                field, never the secret.
        """
        try:
            fields = decode_head_untrusted(data)
            version = fields.get("version")
            if version != BOOTSTRAP_VERSION or type(version) is not int:
                raise ValueError(
                    f"version {version!r:.40} is not supported, only {BOOTSTRAP_VERSION}: use the same "
                    "release of Spear for host and function"
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
            raise ConfigurationError(f"the bootstrap record is invalid: {error}") from error


def _encode_address(offered: OfferedAddress) -> dict[str, HeadValue]:
    encoded: dict[str, HeadValue] = {"address": offered.address}
    if offered.server_name:
        encoded["server_name"] = offered.server_name
    if offered.ca:
        encoded["ca"] = offered.ca
    return encoded


def _decode_addresses(value: HeadValue) -> tuple[OfferedAddress, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ADDRESSES:
        raise ValueError(f"addresses must be a list of 1 to {MAX_ADDRESSES} addresses")
    addresses: list[OfferedAddress] = []
    for each in value:
        if not isinstance(each, dict):
            raise ValueError("each address must be a map")
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
        if not isinstance(default, int | float):  # a limit that only a newer host knows
            continue
        if not isinstance(value, int | float):
            raise ValueError(f"limit {name} must be a number, not {value!r}")
        values[name] = value
    return WireLimits(**values)  # type: ignore[arg-type]  # WireLimits checks the types
