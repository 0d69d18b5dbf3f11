"""TLS settings and contexts.

Both ends are usually Spear, so TLS 1.3 is the default. TLS 1.2 can be allowed for a third-party agent;
older versions cannot. Certificates and host names are always verified; no setting disables this.
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
    """Return whether these bytes begin a TLS connection, for a helpful error on a plaintext port.

    False for every frame that a peer may send before it has authenticated: read as the header of a
    frame, the three bytes of TLS announce more than 64 KiB.
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
    """A listener's TLS settings. All files are PEM files, given by their paths.

    Attributes:
        certificate: the file with the listener's certificate, followed by intermediate ones.
        key: the file with the private key; None if ``certificate`` contains it.
        client_ca: a file of certificate authorities; if given, clients must present a certificate signed
            by one of them (mutual TLS).
        allow_tls_1_2: whether to accept TLS 1.2 in addition to 1.3.
        ca: the file with the authority that signed ``certificate``. Instances receive it and trust no
            other authority; by default they trust the authorities of their system.
        server_name: the name in the certificate, if instances connect to an address with another name.
    """

    certificate: str
    key: str | None = None
    client_ca: str | None = None
    allow_tls_1_2: bool = False
    ca: str | None = None
    server_name: str | None = None

    def make_trust(self) -> TlsClient | None:
        """Return the settings for instances to verify the certificate; None for their system's.

        Raises:
            ConfigurationError: ``ca`` cannot be read, or is not a certificate.
        """
        if self.ca is None:
            return TlsClient(server_name=self.server_name) if self.server_name else None
        with _reading("TLS server"), open(self.ca, encoding="ascii", errors="replace") as file:
            trust = TlsClient(ca_data=file.read(), server_name=self.server_name)
        trust.make_context()
        return trust

    def make_context(self) -> ssl.SSLContext:
        """Return the context for a listener.

        Raises:
            ConfigurationError: a file is missing or invalid.
        """
        with _reading("TLS server"):
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.client_ca)
            context.load_cert_chain(self.certificate, self.key)
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        # Spear never resumes sessions. A client that closes with a ticket unread would send a reset.
        context.num_tickets = 0
        return _restrict(context, allow_tls_1_2=self.allow_tls_1_2)


@final
@attrs.frozen(kw_only=True)
class TlsClient:
    """A connection's TLS settings. All files are PEM files, given by their paths.

    Attributes:
        ca: a file of certificate authorities, the only ones to trust; None trusts the system's list.
        ca_data: the content of such a file, instead of ``ca``.
        certificate: the file with the client's certificate, then intermediate ones, for mutual TLS.
        key: the file with the private key; None if ``certificate`` contains it.
        server_name: the name required in the listener's certificate; by default the host of the address.
        allow_tls_1_2: whether to accept TLS 1.2 in addition to 1.3.
    """

    ca: str | None = None
    ca_data: str | None = attrs.field(default=None, repr=False)
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None
    allow_tls_1_2: bool = False

    def make_context(self) -> ssl.SSLContext:
        """Return the context for connections.

        Raises:
            ConfigurationError: a file is missing or invalid.
        """
        if self.ca_data == "":  # Python would trust the system's list
            raise ConfigurationError(
                "TLS client settings: ca_data is empty; use None to trust the system's authorities"
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
    # Renegotiation (TLS 1.2 only) lets a peer consume any amount of our CPU time (CVE-2011-1473).
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


@contextmanager
def _reading(what: str) -> Iterator[None]:
    # ssl.SSLError is an OSError; for both, only strerror describes what is wrong with a file.
    try:
        yield
    except OSError as exc:
        where = f" {exc.filename}" if exc.filename else ""
        raise ConfigurationError(f"{what} settings{where}: {exc.strerror or exc}") from exc
