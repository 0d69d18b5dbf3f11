"""TLS settings and contexts.

Both ends are ours, so TLS 1.3 is the default; 1.2 can be allowed for a foreign agent, and nothing
older. Certificates and host names are always checked: there is no switch.
"""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs
import trio

from spear._errors import ConfigurationError

from ._socket_stream import SocketStream

if TYPE_CHECKING:
    from collections.abc import Iterator

TlsStream: TypeAlias = trio.SSLStream[SocketStream]

HANDSHAKE_RECORD: Final = 0x16
"""The first byte of every TLS connection."""


def looks_like_tls(first_bytes: bytes) -> bool:
    """Whether these bytes begin a TLS connection: for an honest error on a plaintext port.

    Never true of a frame that a peer may send before it has authenticated: read as a frame, the
    same three bytes announce more than 64 KiB.
    """
    return (
        len(first_bytes) >= 3
        and first_bytes[0] == HANDSHAKE_RECORD
        and first_bytes[1] == 3
        and 1 <= first_bytes[2] <= 4
    )


@final
@attrs.frozen(kw_only=True)
class TlsServer:
    """How a listener proves who it is, and whether its clients must. Paths of PEM files.

    Attributes:
        certificate: our certificate, followed by intermediate ones.
        key: its private key; None if it is in the same file.
        client_ca: if given, clients must show a certificate signed by one of these (mutual TLS).
        allow_tls_1_2: accept TLS 1.2 besides 1.3.
        ca: what has signed our certificate. Instances are told to trust it, and nothing else; without it
            they trust what their system trusts.
        server_name: the name in our certificate, for instances that connect to an address without it.
    """

    certificate: str
    key: str | None = None
    client_ca: str | None = None
    allow_tls_1_2: bool = False
    ca: str | None = None
    server_name: str | None = None

    def make_trust(self) -> TlsClient | None:
        """How instances check our certificate; None if what they have will do.

        Raises:
            ConfigurationError: ``ca`` cannot be read, or is no certificate.
        """
        if self.ca is None:
            return TlsClient(server_name=self.server_name) if self.server_name else None
        with _reading("TLS server"), open(self.ca, encoding="ascii", errors="replace") as file:
            trust = TlsClient(ca_data=file.read(), server_name=self.server_name)
        trust.make_context()
        return trust

    def make_context(self) -> ssl.SSLContext:
        """The context for a listener.

        Raises:
            ConfigurationError: a file is missing or not what it should be.
        """
        with _reading("TLS server"):
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.client_ca)
            context.load_cert_chain(self.certificate, self.key)
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        # We never resume sessions, so the tickets would only be bytes that a client which closes
        # without reading answers with a reset.
        context.num_tickets = 0
        return _restrict(context, allow_tls_1_2=self.allow_tls_1_2)


@final
@attrs.frozen(kw_only=True)
class TlsClient:
    """How a connection checks the listener's identity, and proves ours. Paths of PEM files.

    Attributes:
        ca: trust what these have signed and nothing else; None trusts the system's list.
        ca_data: the same as text, in place of a file.
        certificate: ours, for mutual TLS, followed by intermediate ones.
        key: its private key; None if it is in the same file.
        server_name: what the listener's certificate must say, if not the host we connect to.
        allow_tls_1_2: accept TLS 1.2 besides 1.3.
    """

    ca: str | None = None
    ca_data: str | None = attrs.field(default=None, repr=False)
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None
    allow_tls_1_2: bool = False

    def make_context(self) -> ssl.SSLContext:
        """The context for connections.

        Raises:
            ConfigurationError: a file is missing or not what it should be.
        """
        if self.ca_data == "":  # with which Python would trust the system's list
            raise ConfigurationError(
                "TLS client settings: ca_data is empty; None trusts the system's"
            )
        with _reading("TLS client"):
            context = ssl.create_default_context(
                ssl.Purpose.SERVER_AUTH, cafile=self.ca, cadata=self.ca_data
            )
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        return _restrict(context, allow_tls_1_2=self.allow_tls_1_2)


def _restrict(context: ssl.SSLContext, *, allow_tls_1_2: bool) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if allow_tls_1_2 else ssl.TLSVersion.TLSv1_3
    # Renegotiation (TLS 1.2 only) lets a peer make us compute for ever (CVE-2011-1473).
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


@contextmanager
def _reading(what: str) -> Iterator[None]:
    # ssl.SSLError is an OSError, and strerror is all that either says about a file.
    try:
        yield
    except OSError as exc:
        where = f" {exc.filename}" if exc.filename else ""
        raise ConfigurationError(f"{what} settings{where}: {exc.strerror or exc}") from exc
