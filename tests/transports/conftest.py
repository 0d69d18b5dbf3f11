"""Fixtures of the transports' tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spear.transports import (
    MemoryAddress,
    MemoryTransport,
    TcpAddress,
    TcpTransport,
    TlsClient,
    TlsServer,
    UnixAddress,
    UnixTransport,
    make_private_directory,
)

from .helpers import Carrier, Certificates

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority that the other side does not trust."""
    return Certificates(tmp_path_factory.mktemp("strangers"))


@pytest.fixture
def private_directory() -> Iterator[str]:
    with make_private_directory() as path:
        yield path


@pytest.fixture
def unix(private_directory: str) -> Carrier:
    return Carrier(UnixTransport(), UnixAddress(f"{private_directory}/socket"))


@pytest.fixture
def tcp() -> Carrier:
    return Carrier(TcpTransport(), TcpAddress("127.0.0.1", 0))


@pytest.fixture
def tls(certificates: Certificates) -> Carrier:
    # A name would be resolved in a thread, while virtual time passes.
    return Carrier(
        TcpTransport(tls=TlsServer(certificate=certificates.issue("127.0.0.1"))),
        TcpAddress("127.0.0.1", 0, tls=True),
        TlsClient(ca=certificates.ca),
    )


@pytest.fixture
def memory() -> Carrier:
    return Carrier(MemoryTransport(), MemoryAddress("here"))


@pytest.fixture(params=["unix", "tcp", "tls", "memory"])
def transport(request: pytest.FixtureRequest) -> Carrier:
    """Each of the four transports."""
    found: Carrier = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["unix", "tcp", "memory"])
def plain(request: pytest.FixtureRequest) -> Carrier:
    """Each transport without TLS, whose streams are Trio's."""
    found: Carrier = request.getfixturevalue(request.param)
    return found
