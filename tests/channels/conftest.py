"""Fixtures of the channels' tests."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest

from spear.testing import OpenPair
from spear.transports import UnixAddress, UnixTransport, make_private_directory

from .helpers import MEMORY_STREAM, Carrier, Certificate, open_in_memory
from .helpers import tcp as tcp_carrier
from .helpers import tls as tls_carrier

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def no_descriptor_is_left() -> Iterator[None]:
    """Assert that the test leaves no file descriptor open."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    if not set(os.listdir("/proc/self/fd")) <= before:  # a reference cycle may still hold one
        gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def unix() -> Iterator[Carrier]:
    with make_private_directory() as path:
        yield Carrier(UnixTransport(), UnixAddress(f"{path}/socket"))


@pytest.fixture
def tcp() -> Carrier:
    return tcp_carrier()


@pytest.fixture
def tls(certificate: Certificate) -> Carrier:
    return tls_carrier(certificate)


@pytest.fixture
def memory_stream() -> Carrier:
    return MEMORY_STREAM


@pytest.fixture(params=["unix", "tcp", "tls", "memory_stream"])
def carrier(request: pytest.FixtureRequest) -> Carrier:
    """Return each byte stream that can carry a channel."""
    found: Carrier = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["unix", "tcp", "tls", "memory_stream", "in_memory"])
def open_pair(request: pytest.FixtureRequest) -> OpenPair:
    """Return each kind of channel."""
    if request.param == "in_memory":
        return open_in_memory
    found: Carrier = request.getfixturevalue(request.param)
    return found.open_pair
