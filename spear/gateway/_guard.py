"""Access control: hosts, origins, tokens, operators.

Decisions depend on a request's headers, and on its path only for links to the dashboard.
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
"""Prefix of the WebSocket subprotocol that carries a token: browser scripts can set no other header."""

_ELSEWHERE: Final = (b"cross-site", b"same-site")
"""Values of ``Sec-Fetch-Site`` for requests from pages of other origins."""

_CHALLENGE: Final = ((b"www-authenticate", b'Bearer realm="spear"'),)


@lru_cache(64)  # most requests name the same host
def is_loopback(host: str) -> bool:
    """Return whether a host is the loopback interface: "localhost", or any address of it."""
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
    """The access checks of a gateway."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._token = None if settings.token is None else settings.token.encode()
        self._allow_control = settings.allow_control
        self._checks_host = settings.host is None or is_loopback(settings.host)
        self._hosts = frozenset(map(_plain, settings.allowed_hosts))

    def check_place(self, request: Request) -> None:
        """Check that no page of another site has caused a request. Raises Problem.

        Such a page can make a browser send us requests. If the page's host name is made to resolve to our
        address (DNS rebinding), it can also read the responses. Its name is then in Host and Origin.
        """
        if request.is_local:
            return
        headers = request.headers
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._checks_host and b"host" in headers:  # HTTP/1.0 may omit it, browsers do not
            name = host.rpartition(":")[0] if _has_port(host) else host
            if not self._is_ours(_plain(name)):
                message = f"the Host {name[:100]!r} is not allowed: use localhost"
                if not name:
                    message = "the Host of this request is empty: use localhost"
                raise Problem(403, "Forbidden", f"{message}, or add the name to allowed_hosts")
        origin = headers.get(b"origin")
        if origin is not None:
            is_ours = origin.decode("latin-1").lower().partition("://")[2] == host
        else:  # images and scripts of a page send no Origin; a link to the dashboard is allowed
            is_ours = headers.get(b"sec-fetch-site") not in _ELSEWHERE or request.path == "/"
        if not is_ours:
            raise Problem(403, "Forbidden", "pages of other sites may not call this gateway")

    def _is_ours(self, name: str) -> bool:
        # A loopback address is safe: DNS cannot redirect an address.
        return name.endswith(".localhost") or name in self._hosts or is_loopback(name)

    def is_known(self, request: Request) -> bool:
        """Return whether a request has the token, or needs none, to see and call everything."""
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
                assert self._token is not None  # is_known() has checked it
                return hmac.compare_digest(token, self._token)
        return False

    def expect_known(self, request: Request) -> None:
        """Raise Problem unless the request has the token, or needs none."""
        if not self.is_known(request):
            message = "this request needs a token: send Authorization: Bearer TOKEN"
            if b"authorization" in request.headers:
                message = (
                    "the token is wrong: send Authorization: Bearer TOKEN with this host's token"
                )
            raise Problem(401, "Unauthorized", message, headers=_CHALLENGE)

    def may_operate(self, request: Request) -> bool:
        """Return whether a request, which :meth:`is_known`, may operate the host."""
        return request.is_local or self._token is not None or self._allow_control

    def expect_operator(self, request: Request) -> None:
        """Raise Problem unless a request may operate the host. Call :meth:`expect_known` first."""
        if self.may_operate(request):
            return
        raise Problem(
            403,
            "Forbidden",
            "this operation needs the control socket, a token, or the setting allow_control",
        )

    @property
    def token(self) -> str | None:
        """The secret of signed requests: the gateway's token."""
        return None if self._token is None else self._token.decode()


def _plain(host: str) -> str:
    """Return a host name for comparison: lower case, without brackets, without a final dot."""
    host = host.lower()
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1] if ":" in host else host
    return host.removesuffix(".")


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdecimal() and (not host.startswith("[") or "]:" in host)
