"""Who may ask for what: hosts, origins, tokens, operators.

This module knows requests by their headers, and nothing of what they ask for.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, final

from ._errors import Problem

if TYPE_CHECKING:
    from ._request import Request
    from ._settings import GatewaySettings

TOKEN_PROTOCOL: Final = "spear.token."  # noqa: S105  # no token itself
"""What a WebSocket's subprotocol begins with that is a token: programs in browsers can send no header."""

_ELSEWHERE: Final = (b"cross-site", b"same-site")
"""What browsers say of a request of another page."""

_CHALLENGE: Final = ((b"www-authenticate", b'Bearer realm="spear"'),)


@lru_cache(64)  # most requests name the same host
def is_loopback(host: str) -> bool:
    """Whether a host is the loopback interface: "localhost", or any address of it."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


@final
class AccessGuard:
    """Looks at each request before anything else does."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._token = None if settings.token is None else settings.token.encode()
        self._allow_control = settings.allow_control
        self._checks_host = settings.host is None or is_loopback(settings.host)
        self._hosts = frozenset(map(_plain, settings.allowed_hosts))

    def check_place(self, request: Request) -> None:
        """See that no foreign page is behind a request. Raises Problem.

        A page of another site can make a browser send us requests, and if its name is made to point here
        (DNS rebinding), it can read the answers. Its name is then in Host, and in Origin.
        """
        if request.is_local:
            return
        headers = request.headers
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._checks_host and b"host" in headers:  # no browser leaves it out; HTTP/1.0 may
            name = host.rpartition(":")[0] if _has_port(host) else host
            if not self._is_ours(_plain(name)):
                message = f"this gateway is not called {name[:100]!r}: say localhost"
                if not name:
                    message = "the Host of this request is empty: say localhost"
                raise Problem(403, "Forbidden", f"{message}, or add the name to allowed_hosts")
        origin = headers.get(b"origin")
        if origin is not None:
            is_ours = origin.decode("latin-1").lower().partition("://")[2] == host
        else:  # as a picture or a script of a page is asked for; and a link to the dashboard is welcome
            is_ours = headers.get(b"sec-fetch-site") not in _ELSEWHERE or request.path == "/"
        if not is_ours:
            raise Problem(403, "Forbidden", "pages of other sites may not call this gateway")

    def _is_ours(self, name: str) -> bool:
        # An address is no name that could be made to point here.
        return name.endswith(".localhost") or name in self._hosts or is_loopback(name)

    def is_known(self, request: Request) -> bool:
        """Whether a request may see and call everything."""
        if self._token is None or request.is_local:
            return True
        given = request.headers.get(b"authorization")
        if given is not None:
            scheme, _, token = given.partition(b" ")
            return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)
        return self._has_token_protocol(request.headers.get(b"sec-websocket-protocol"))

    def _has_token_protocol(self, protocols: bytes | None) -> bool:
        for each in (protocols or b"").split(b","):
            name = each.strip()
            if name.startswith(TOKEN_PROTOCOL.encode()):
                text = name[len(TOKEN_PROTOCOL) :]
                try:
                    token = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
                except ValueError:
                    return False
                assert self._token is not None  # is_known() has asked
                return hmac.compare_digest(token, self._token)
        return False

    def expect_known(self, request: Request) -> None:
        """Raise Problem unless the request has shown the token, if there is one."""
        if not self.is_known(request):
            message = "this needs a token: Authorization: Bearer TOKEN"
            if b"authorization" in request.headers:
                message = (
                    "that is not the token: Authorization: Bearer TOKEN has the one of this host"
                )
            raise Problem(401, "Unauthorized", message, headers=_CHALLENGE)

    def expect_operator(self, request: Request) -> None:
        """Raise Problem unless the request may change what runs. It is known already."""
        if request.is_local or self._token is not None or self._allow_control:
            return
        raise Problem(
            403,
            "Forbidden",
            "operators' requests come over the control socket, or with a token; or set allow_control",
        )

    @property
    def token(self) -> str | None:
        """What those who sign their requests sign with."""
        return None if self._token is None else self._token.decode()


def _plain(host: str) -> str:
    """A host as it is compared: without brackets, and without the dot at the end of a complete name."""
    host = host.lower()
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1] if ":" in host else host
    return host.removesuffix(".")


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdecimal() and (not host.startswith("[") or "]:" in host)
