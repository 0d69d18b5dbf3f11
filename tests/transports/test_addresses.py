"""Addresses and their text form."""

from __future__ import annotations

import pytest

from spear import ConfigurationError, UnsupportedTransport
from spear.transports import (
    Address,
    MemoryAddress,
    Reach,
    TcpAddress,
    UnixAddress,
    parse_address,
)

GOOD: list[tuple[str, Address]] = [
    ("unix:/run/spear/a", UnixAddress("/run/spear/a")),
    ("unix:/with space:and colon", UnixAddress("/with space:and colon")),
    ("unix:/" + "ü" * 53, UnixAddress("/" + "ü" * 53)),
    ("tcp:127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
    ("tcp:host-1.example_2.org.:65535", TcpAddress("host-1.example_2.org.", 65535)),
    ("tcp:[::1]:7000", TcpAddress("::1", 7000)),
    ("tls:[fe80::1%eth0]:7000", TcpAddress("fe80::1%eth0", 7000, tls=True)),
    ("tls:[::ffff:127.0.0.1]:7000", TcpAddress("::ffff:127.0.0.1", 7000, tls=True)),
    ("tls:example.org:7000", TcpAddress("example.org", 7000, tls=True)),
    ("memory:a name", MemoryAddress("a name")),
]


@pytest.mark.parametrize(("text", "address"), GOOD)
def test_text_and_address_are_two_forms_of_one_thing(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


def test_brackets_are_optional_where_nothing_is_ambiguous() -> None:
    assert parse_address("tcp:[127.0.0.1]:1") == TcpAddress("127.0.0.1", 1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "write unix:/path"),
        ("/run/spear/a", "write unix:/path"),
        ("unix:", "absolute path"),
        ("unix:relative", "absolute path"),
        ("unix:\0abstract", "absolute path"),
        ("unix:/with\0nul", "absolute path"),
        ("unix:/" + "x" * 107, "has 108 bytes; at most 107"),
        ("unix:/" + "ü" * 54, "has 109 bytes; at most 107"),
        ("tcp:", "write host:port"),
        ("tcp:localhost", "write host:port"),
        ("tcp::80", "write host:port"),
        ("tcp:localhost:", "write host:port"),
        ("tcp:localhost:http", "write host:port"),
        ("tcp:localhost:-1", "write host:port"),
        ("tcp:localhost:٣", "write host:port"),
        ("tcp:localhost:²", "write host:port"),
        ("tcp:localhost:65536", "not between 0 and 65535"),
        ("tcp:::1:80", "in brackets"),
        ("tcp:[]:80", "write host:port"),
        ("tcp:[::g]:80", "neither a host name nor an IP address"),
        ("tcp:[::1::]:80", "neither a host name nor an IP address"),
        ("tcp:[fe80::1%]:80", "neither a host name nor an IP address"),
        ("tcp://localhost:80", "neither a host name nor an IP address"),
        ("tls:two words:80", "neither a host name nor an IP address"),
        ("memory:", "needs a name"),
    ],
)
def test_what_is_no_address_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        parse_address(text)


def test_unknown_transports_have_an_error_of_their_own() -> None:
    with pytest.raises(UnsupportedTransport, match="known transports are ") as caught:
        parse_address("carrier-pigeon:loft")
    assert caught.value.transport == "carrier-pigeon"


@pytest.mark.parametrize(
    ("text", "reach"),
    [
        ("memory:here", Reach.PROCESS),
        ("unix:/run/spear/a", Reach.MACHINE),
        ("tcp:127.0.0.1:1", Reach.MACHINE),
        ("tcp:127.8.8.8:1", Reach.MACHINE),
        ("tls:LocalHost:1", Reach.MACHINE),
        ("tls:[::1]:1", Reach.MACHINE),
        ("tls:0.0.0.0:1", Reach.MACHINE),
        ("tls:[::]:1", Reach.MACHINE),
        ("tls:10.0.0.1:1", Reach.NETWORK),
        ("tls:[2001:db8::1]:1", Reach.NETWORK),
        ("tls:spear.example.org:1", Reach.NETWORK),
    ],
)
def test_an_address_tells_from_how_far_away_it_can_be_reached(text: str, reach: Reach) -> None:
    assert parse_address(text).reach is reach
