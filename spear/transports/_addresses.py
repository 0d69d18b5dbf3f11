"""Where a transport listens or connects: values, and their text form.

``unix:/run/spear/a`` · ``tcp:127.0.0.1:7000`` · ``tls:[2001:db8::1]:7000`` · ``memory:name``

Opens no socket. Invariant: ``parse_address(str(address)) == address``.
"""

from __future__ import annotations

import os
import re
import socket
from typing import Final, TypeAlias, final

import attrs

from spear._errors import ConfigurationError, UnsupportedTransport
from spear._limits import shown

MAX_UNIX_PATH_BYTES: Final = 107
"""``sun_path`` is 108 bytes on Linux, the last one a NUL."""

_HOST_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
_IPV6 = re.compile(r"([0-9A-Fa-f:.]+)(?:%[A-Za-z0-9_.-]+)?")  # % names an interface


def _check_path(_: object, __: attrs.Attribute[str], path: str) -> None:
    # Neither the empty path (the kernel picks an abstract name) nor one that starts with NUL:
    # abstract sockets have no permissions at all (CVE-2020-15257). The absolute path excludes both.
    if not path.startswith("/") or "\0" in path:
        raise ConfigurationError(f"a unix address needs an absolute path, not {path!r}")
    length = len(os.fsencode(path))
    if length > MAX_UNIX_PATH_BYTES:
        raise ConfigurationError(
            f"the socket path {path!r} has {length} bytes, {length - MAX_UNIX_PATH_BYTES} more "
            f"than the system allows: choose a directory with a shorter name"
        )


def _check_host(_: object, __: attrs.Attribute[str], host: str) -> None:
    if not (_is_ipv6(host) if ":" in host else _HOST_NAME.fullmatch(host)):
        raise ConfigurationError(f"{host!r} is neither a host name nor an IP address")


def _is_ipv6(host: str) -> bool:
    # Not the ipaddress module: it takes as long to import as this whole package.
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
@attrs.frozen
class UnixAddress:
    """A Unix socket in the file system; never an abstract one."""

    path: str = attrs.field(validator=_check_path)

    def __str__(self) -> str:
        return f"unix:{self.path}"


@final
@attrs.frozen
class TcpAddress:
    """A host and a port; spoken to through TLS, or in plain text on the loopback interface."""

    host: str = attrs.field(validator=_check_host)
    port: int = attrs.field(validator=_check_port)
    tls: bool = attrs.field(default=False, kw_only=True)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'tcp'}:{host}:{self.port}"


@final
@attrs.frozen
class MemoryAddress:
    """A name inside this process, valid within one ``trio.run``."""

    name: str = attrs.field(validator=_check_name)

    def __str__(self) -> str:
        return f"memory:{self.name}"


Address: TypeAlias = UnixAddress | TcpAddress | MemoryAddress


def parse_address(text: str) -> Address:
    """The address that ``text`` names.

    Raises:
        UnsupportedTransport: there is no transport of that name.
        ConfigurationError: what follows the transport's name is not an address.
    """
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise ConfigurationError(
            f"{text!r} is not an address: write unix:/path, tcp:host:port, tls:host:port "
            f"or memory:name"
        )
    match scheme:
        case "unix":
            return UnixAddress(rest)
        case "tcp":
            return TcpAddress(*_parse_host_and_port(text, rest))
        case "tls":
            return TcpAddress(*_parse_host_and_port(text, rest), tls=True)
        case "memory":
            return MemoryAddress(rest)
    raise UnsupportedTransport(scheme, f"in {text!r}; known are unix, tcp, tls and memory")


def _parse_host_and_port(text: str, rest: str) -> tuple[str, int]:
    host, colon, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigurationError(f"{text!r}: write an IPv6 address in brackets, as in tcp:[::1]:70")
    # isdecimal() alone is true of digits that are not ASCII, which int() would accept too.
    if not (colon and host and port.isascii() and port.isdecimal() and len(port) <= 20):
        raise ConfigurationError(f"{text!r}: write host:port, as in tcp:127.0.0.1:7000")
    return host, int(port)
