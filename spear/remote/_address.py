"""The address of a host: a name, the path of a control socket, or a URL."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, final
from urllib.parse import urlsplit

import attrs
import trio

from spear._errors import ConfigurationError, NoHost
from spear._places import CONNECT_SECONDS, find

if TYPE_CHECKING:
    from trio.abc import Stream


@final
@attrs.frozen(kw_only=True)
class HostAddress:
    """The address of a host.

    Attributes:
        where: the address for people.
        path: the path of the control socket; empty for a URL.
        host: the host's name or IP address; empty for a control socket.
        port: the TCP port.
        tls: the TLS settings; None without TLS.
        prefix: the path before all paths of the gateway, for a host behind a proxy; usually empty.
        authority: the ``Host`` of requests.
        authorization: the ``Authorization`` of requests; empty if there is no token.
    """

    where: str
    path: str = ""
    host: str = ""
    port: int = 0
    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    prefix: str = ""
    authority: bytes = b"localhost"
    authorization: bytes = attrs.field(default=b"", repr=False)

    async def open_stream(self) -> Stream:
        """Connect. A checkpoint.

        Raises:
            NoHost: no host accepts connections there.
        """
        try:
            with trio.fail_after(CONNECT_SECONDS):
                if self.path:
                    return await trio.open_unix_socket(self.path)
                stream: Stream = await trio.open_tcp_stream(self.host, self.port)
                if self.tls is None:
                    return stream
                secured = trio.SSLStream(
                    stream, self.tls, server_hostname=self.host, https_compatible=True
                )
                try:
                    await secured.do_handshake()
                except BaseException:
                    await trio.aclose_forcefully(secured)
                    raise
                return secured
        except trio.TooSlowError as error:
            raise NoHost(f"{self.where} did not accept a connection in time") from error
        except trio.BrokenResourceError as error:
            raise NoHost(
                f"{self.where} cannot be reached: {_why(error)}{_tls_hint(error)}"
            ) from error
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise self._not_running() from error
        except OSError as error:
            if _is_refusal(error):
                raise self._not_running() from error
            raise NoHost(f"{self.where} cannot be reached: {_why(error)}") from error

    def _not_running(self) -> NoHost:
        return NoHost(
            f"{self.where} is not running: no process listens at its address; start it with `spear serve`"
        )


def _is_refusal(error: OSError) -> bool:
    """Return whether all attempts to connect were refused."""
    cause = error.__cause__
    each = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause,)
    return all(isinstance(one, ConnectionRefusedError) for one in each)


def _why(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason}"
    return getattr(error, "strerror", None) or str(error) or "it closed the connection"


def _tls_hint(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "; pass tls= with an SSLContext that trusts it"
    has_tls = isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER"
    return "; if it does not use TLS, use http://" if has_tls else ""


def read_address(
    address: str | os.PathLike[str] | None, token: str | None, tls: ssl.SSLContext | None
) -> HostAddress:
    """Return the address that the arguments of :func:`spear.connect` name.

    Raises:
        ConfigurationError: the address or the token cannot be used.
        NoHost: no host has the name, or there are several.
    """
    text = os.fspath(address) if isinstance(address, os.PathLike) else address
    if text is not None and not isinstance(text, str):
        raise ConfigurationError.about("address", f"must be text, not {address!r:.100}")
    if text is not None and "://" in text:
        return _read_url(text, token, tls)
    if token is not None or tls is not None:
        raise ConfigurationError(
            "token and tls are for the URL of a host: a control socket needs neither"
        )
    if text is not None and os.sep in text:
        return HostAddress(where=f"the host at {text}", path=text)
    path = find(text)
    name = os.path.basename(path).removesuffix(".sock")
    return HostAddress(where=f"the host {name!r}", path=path)


def _read_url(url: str, token: str | None, tls: ssl.SSLContext | None) -> HostAddress:
    try:
        parts = urlsplit(url)
        port = parts.port
        is_usable = parts.scheme in ("http", "https") and parts.hostname and url.isascii()
    except ValueError:
        is_usable = False
    if not is_usable or parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError.about(
            "address", f"{url[:200]} is not valid: use http://HOST:PORT or https://HOST:PORT"
        )
    if parts.scheme == "https":
        tls = ssl.create_default_context() if tls is None else tls
    elif tls is not None:
        raise ConfigurationError.about("address", "must begin with https:// to use tls")
    if token is not None and not _is_token(token):
        raise ConfigurationError.about("token", "must be printable ASCII text without spaces")
    return HostAddress(
        where=f"{parts.scheme}://{parts.netloc}",
        host=parts.hostname or "",
        port=port or (443 if parts.scheme == "https" else 80),
        tls=tls,
        prefix=parts.path.rstrip("/"),
        authority=parts.netloc.encode(),
        authorization=b"" if token is None else f"Bearer {token}".encode(),
    )


def _is_token(token: object) -> bool:
    return isinstance(token, str) and token.isascii() and token.isprintable() and " " not in token
