"""The settings of a gateway: addresses, access, and limits for clients."""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING, Final, cast, final

import attrs

from spear._errors import ConfigurationError
from spear._limits import KIB, MAX_WHOLE, MIB, expect_several, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

BODY_RATE: Final = 64 * KIB
"""Minimum bytes a second of a body, once ``body_seconds`` are over."""

MIN_TOKEN: Final = 16
"""Minimum number of characters of a token, so that it cannot be guessed."""

# RFC 6750's alphabet, with a length that fits into a header.
_TOKEN: Final = re.compile(rf"[A-Za-z0-9._~+/-]{{{MIN_TOKEN},1024}}=*")


def _check_token(_: object, __: attrs.Attribute[str | None], token: object) -> None:
    if token is not None and not (isinstance(token, str) and _TOKEN.fullmatch(token)):
        raise ConfigurationError(
            f"a token must have at least {MIN_TOKEN} characters, of A-Z a-z 0-9 . _ ~ + / -: create one "
            "with `openssl rand -hex 32`",
            key="token",
        )


@final
@attrs.frozen(kw_only=True)
class GatewaySettings:
    """The settings of a gateway. Sizes are bytes, times are seconds.

    Attributes:
        name: The host's name, as snapshots show it.
        host: The address or name to listen on; None for the control socket alone.
        port: The TCP port; 0 for any free port.
        token: The secret that clients over TCP must send; None for none. 16 to 1,024 characters.
        tls_cert: The path of a PEM file with the certificate and its intermediates; None for no TLS.
        tls_key: The path of a PEM file with the private key, if ``tls_cert`` does not contain it.
        allow_tls_1_2: Whether TLS 1.2 is accepted besides 1.3.
        control_socket: The absolute path of a Unix socket; None for none.
        allow_control: Whether operators' requests are accepted over TCP without a token.
        allow_plaintext: Whether to listen without TLS where other machines can connect.
        allowed_hosts: Further values of ``Host`` that a gateway on the loopback interface accepts.
        max_body_bytes: Largest body of one request.
        body_bytes_in_flight: All bodies held at a time, and as much again for large results.
        max_head_bytes: Largest request line with its headers.
        max_connections: Connections at a time over TCP, and as many over the control socket.
        max_new_connections: Connections, of each kind, that have not sent a whole request head yet.
        max_streams: Streams, WebSockets, log requests and watchers at a time.
        max_message_bytes: Largest message from the client of a WebSocket.
        head_seconds: Time from accepting a connection to its first whole request head, TLS included.
        idle_seconds: Time from a response to the whole head of the next request.
        body_seconds: Time for a body, plus 1 s for each 64 KiB received; or a first WebSocket message.
        write_seconds: Time for the client to take each 64 KiB of a response.
        keep_alive_seconds: Interval between comments on event streams, and between pings on WebSockets.
        detached_seconds: Longest timeout of a call with a key or a submitted call. Finite.
        close_seconds: Time for requests in flight when the gateway closes.

    Raises:
        ConfigurationError: a value cannot be used.
    """

    name: str = "default"
    host: str | None = "127.0.0.1"
    port: int = 8080
    token: str | None = attrs.field(default=None, validator=_check_token, repr=False)
    tls_cert: str | None = None
    tls_key: str | None = None
    allow_tls_1_2: bool = False
    control_socket: str | None = None
    allow_control: bool = False
    allow_plaintext: bool = False
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = 32 * MIB
    body_bytes_in_flight: int = 128 * MIB
    max_head_bytes: int = 32 * KIB
    max_connections: int = 1024
    max_new_connections: int = 256
    max_streams: int = 256
    max_message_bytes: int = 4 * MIB
    head_seconds: float = 10.0
    idle_seconds: float = 75.0
    body_seconds: float = 10.0
    write_seconds: float = 10.0
    keep_alive_seconds: float = 15.0
    detached_seconds: float = 3600.0
    close_seconds: float = 5.0

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(type(self)):
            _expect_kind(field.name, field.default, getattr(self, field.name))
        if self.host is None and self.control_socket is None:
            raise ConfigurationError("a gateway needs an address: set host or control_socket")
        if self.tls_key is not None and self.tls_cert is None:
            raise ConfigurationError.about("tls_key", "needs a certificate: set tls_cert, too")
        if type(self.port) is not int or not 0 <= self.port <= 65535:
            raise ConfigurationError.about(
                "port", f"must be from 0 to 65535, not {shown(self.port)}"
            )
        for field in attrs.fields(type(self)):
            if field.name.endswith("_seconds") or field.name.startswith("max_"):
                _expect_amount(field.name, getattr(self, field.name), is_whole=field.name[0] == "m")
        if self.detached_seconds == inf:
            raise ConfigurationError.about(
                "detached_seconds",
                "must be finite, because a submitted call may have no other limit",
            )
        _expect_amount("body_bytes_in_flight", self.body_bytes_in_flight, is_whole=True)


def _expect_kind(name: str, default: object, value: object) -> None:
    """Raise ConfigurationError unless a setting that is no number has the type of its default."""
    if isinstance(default, bool):
        if type(value) is not bool:
            raise ConfigurationError.about(name, f"must be True or False, not {shown(value)}")
    elif isinstance(default, tuple):
        for each in expect_several(name, cast("Iterable[object]", value)):
            _expect_text(name, each)
    elif isinstance(default, str | None) and (value is not None or name == "name"):
        _expect_text(name, value)


def _expect_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigurationError.about(name, f"must be text, not {shown(value)}")


def _expect_amount(name: str, value: object, *, is_whole: bool) -> None:
    is_number = type(value) is int or (type(value) is float and not is_whole)
    if not is_number or not value > 0:  # type: ignore[operator]  # a number
        kind = "whole number" if is_whole else "number"
        raise ConfigurationError.about(name, f"must be a {kind} above 0, not {shown(value)}")
    if type(value) is int and value > MAX_WHOLE:
        raise ConfigurationError.about(name, f"must be at most {MAX_WHOLE}, not {shown(value)}")
