"""Addresses, at which a transport listens or to which it connects, and their text form.

``unix:/run/spear/a`` · ``tcp:127.0.0.1:7000`` · ``tls:[2001:db8::1]:7000`` · ``memory:name``

This module opens no socket. Invariant: ``parse_address(str(address)) == address``. The text before the
first colon is the scheme, which selects the transport; only this transport interprets the rest.
"""

from __future__ import annotations

import os
import re
import socket
from abc import ABC, abstractmethod
from enum import IntEnum
from typing import Final, final

import attrs

from spear._errors import ConfigurationError
from spear._limits import shown

MAX_UNIX_PATH_BYTES: Final = 107
"""The longest path of a Unix socket: Linux's ``sun_path`` has 108 bytes, the last one a NUL."""

_LOOPBACK_NAMES: Final = ("localhost", "ip6-localhost", "ip6-loopback")
_WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104  # recognized, not bound

_HOST_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
_IPV6 = re.compile(r"([0-9A-Fa-f:.]+)(?:%[A-Za-z0-9_.-]+)?")  # % names an interface


def _check_path(_: object, __: attrs.Attribute[str], path: str) -> None:
    # Both an empty path (the kernel chooses an abstract name) and a path that starts with NUL would
    # make an abstract socket, which has no permissions (CVE-2020-15257). Absolute paths exclude both.
    if not path.startswith("/") or "\0" in path:
        raise ConfigurationError(f"a unix address needs an absolute path, not {path!r}")
    length = len(os.fsencode(path))
    if length > MAX_UNIX_PATH_BYTES:
        raise ConfigurationError(
            f"the socket path {path!r} has {length} bytes; at most {MAX_UNIX_PATH_BYTES} are allowed: "
            "choose a directory with a shorter path"
        )


def _check_host(_: object, __: attrs.Attribute[str], host: str) -> None:
    if not (_is_ipv6(host) if ":" in host else _HOST_NAME.fullmatch(host)):
        raise ConfigurationError(f"{host!r} is neither a host name nor an IP address")


def _is_ipv6(host: str) -> bool:
    # Without the ipaddress module, which takes as long to import as this whole package.
    if not (found := _IPV6.fullmatch(host)):
        return False
    try:
        socket.inet_pton(socket.AF_INET6, found[1])
    except OSError:
        return False
    return True


def _check_port(_: object, __: attrs.Attribute[int], port: int) -> None:
    if type(port) is not int or not 0 <= port <= 65535:
        raise ConfigurationError(f"port {shown(port)} is not between 0 and 65535")


def _check_name(_: object, __: attrs.Attribute[str], name: str) -> None:
    if not name:
        raise ConfigurationError("a memory address needs a name, as in memory:name")


@final
class Reach(IntEnum):
    """A range from which clients can connect to an address. A greater reach includes the smaller ones."""

    PROCESS = 0
    """Clients in this process."""

    MACHINE = 1
    """Clients on this machine, in the same file system and network."""

    NETWORK = 2
    """Clients on other machines."""


class Address(ABC):
    """An address of a listener. Immutable, equal by value, and hashable."""

    __slots__ = ()

    @property
    @abstractmethod
    def reach(self) -> Reach:
        """The range from which clients can connect."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the text form ``scheme:...``, which :meth:`Transport.parse` reads."""


@final
@attrs.frozen
class UnixAddress(Address):
    """An address of a Unix socket in the file system, never of an abstract one."""

    path: str = attrs.field(validator=_check_path)

    reach = Reach.MACHINE

    def __str__(self) -> str:
        return f"unix:{self.path}"


@final
@attrs.frozen
class TcpAddress(Address):
    """An address of a host and a port, for TLS or for plain text on the loopback interface."""

    host: str = attrs.field(validator=_check_host)
    port: int = attrs.field(validator=_check_port)
    tls: bool = attrs.field(default=False, kw_only=True)

    @property
    def reach(self) -> Reach:
        """The range from which clients can connect. A wildcard (0.0.0.0) leads to this machine only."""
        return Reach.MACHINE if is_local(self.host) or self.host in _WILDCARDS else Reach.NETWORK

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'tcp'}:{host}:{self.port}"


@final
@attrs.frozen
class MemoryAddress(Address):
    """An address inside this process: a name, valid within one ``trio.run``."""

    name: str = attrs.field(validator=_check_name)

    reach = Reach.PROCESS

    def __str__(self) -> str:
        return f"memory:{self.name}"


def is_local(host: str) -> bool:
    """Return whether the text of a host name or an IP address denotes the loopback interface."""
    return host.startswith("127.") or host == "::1" or host.lower() in _LOOPBACK_NAMES


def split_scheme(address: str) -> tuple[str, str]:
    """Return the scheme of an address, and the text after the first colon.

    Raises:
        ConfigurationError: the address has no colon.
    """
    scheme, colon, rest = address.partition(":")
    if not colon:
        raise ConfigurationError(
            f"{address!r} is not an address: write unix:/path, tcp:host:port, tls:host:port "
            f"or memory:name"
        )
    return scheme, rest


def parse_unix_address(text: str) -> UnixAddress:
    """Parse ``unix:/path``. Raises ConfigurationError."""
    return UnixAddress(split_scheme(text)[1])


def parse_tcp_address(text: str) -> TcpAddress:
    """Parse ``tcp:host:port`` or ``tls:host:port``. Raises ConfigurationError."""
    scheme, rest = split_scheme(text)
    return TcpAddress(*_parse_host_and_port(text, rest), tls=scheme == "tls")


def parse_memory_address(text: str) -> MemoryAddress:
    """Parse ``memory:name``. Raises ConfigurationError."""
    return MemoryAddress(split_scheme(text)[1])


def _parse_host_and_port(text: str, rest: str) -> tuple[str, int]:
    host, colon, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigurationError(f"{text!r}: write an IPv6 address in brackets, as in tcp:[::1]:70")
    # isdecimal() alone is true for non-ASCII digits, which int() would accept, too.
    if not (colon and host and port.isascii() and port.isdecimal() and len(port) <= 20):
        raise ConfigurationError(f"{text!r}: write host:port, as in tcp:127.0.0.1:7000")
    return host, int(port)
