"""The ways in which an agent gets its host's address."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from spear import ConfigurationError, InstanceId, WireLimits
from spear._ids import Secret
from spear.agent._bootstrap import take_environment
from spear.agent._lifeline import MAX_RECORD_BYTES, take_record
from spear.wire import BootstrapRecord, OfferedAddress, encode_head

if TYPE_CHECKING:
    from spear.wire import HeadValue

KEY = bytes(range(32))

FIELDS: dict[str, HeadValue] = {
    "version": 1,
    "addresses": [
        {"address": "unix:/run/spear/a.sock"},
        {"address": "tls:spear.example.org:7000", "server_name": "spear", "ca": "PEM"},
    ],
    "secret": KEY,
    "runtime": "process",
    "instance": "shop-1",
    "incarnation": 3,
}

ENVIRONMENT = {
    "SERVICE_ADDR": "tcp:127.0.0.1:7000",
    "SECRET": KEY.hex(),
    "SPEAR_INSTANCE": "process:shop-1#3",
}


def test_a_record_says_all_that_is_needed() -> None:
    found = BootstrapRecord.decode(encode_head(FIELDS))
    assert found.addresses == (
        OfferedAddress("unix:/run/spear/a.sock"),
        OfferedAddress("tls:spear.example.org:7000", server_name="spear", ca="PEM"),
    )
    assert found.secret == Secret(KEY)
    assert found.instance_id == InstanceId("process", "shop-1", 3)
    assert found.limits == WireLimits()
    assert not found.debug
    assert not found.low_latency
    assert repr(found) == (
        "<BootstrapRecord of process:shop-1#3 at unix:/run/spear/a.sock, tls:spear.example.org:7000>"
    )
    assert BootstrapRecord.decode(found.encode()) == found


def test_a_record_may_say_more() -> None:
    limits: HeadValue = {"max_calls": 5, "call_seconds": 1.5, "from_2030": "x"}
    more = {"drain_seconds": 2, "debug": True, "low_latency": True, "new": 1}
    record = encode_head({**FIELDS, "limits": limits, **more})
    found = BootstrapRecord.decode(record)
    assert found.limits == WireLimits(max_calls=5, call_seconds=1.5)
    assert found.drain_seconds == 2
    assert found.debug
    assert found.low_latency


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": None}, "version None is not supported, only 1:"),
        ({"version": 2, "addresses": None, "secret": 5}, "version 2 is not supported, only 1:"),
        ({"version": True}, "version True is not supported"),
        ({"version": "1" * 100}, "version '1{39} is not supported"),
        ({"addresses": None}, "addresses must be a list of 1 to 16"),
        ({"addresses": []}, "addresses must be a list of 1 to 16"),
        ({"addresses": [{"address": "unix:/x"}] * 17}, "addresses must be a list of 1 to 16"),
        ({"addresses": ["unix:/x"]}, "each address must be a map"),
        ({"addresses": [{}]}, "address must be text"),
        ({"addresses": [{"address": "unix:/x", "ca": b"PEM"}]}, "ca must be text"),
        ({"addresses": [{"address": "unix:/x", "server_name": 5}]}, "server_name must be text"),
        ({"secret": "text"}, "secret must be bytes"),
        ({"secret": b"short"}, "a secret must have 32 bytes, not 5"),
        ({"runtime": "Magic!"}, "'Magic!' is not a valid name"),
        ({"instance": "../x"}, "use 1 to 63"),
        ({"instance": 5}, "instance must be text"),
        ({"incarnation": 0}, "incarnation"),
        ({"incarnation": True}, "incarnation must be a number"),
        ({"limits": []}, "limits must be a map"),
        ({"drain_seconds": "5"}, "drain_seconds must be a number of seconds above 0"),
        ({"drain_seconds": 0}, "drain_seconds must be a number of seconds above 0"),
        ({"limits": {"max_calls": 1.5}}, "max_calls must be a whole number, not 1.5"),
        ({"limits": {"max_calls": True}}, "max_calls must be a whole number, not True"),
        ({"limits": {"call_seconds": "5"}}, "limit call_seconds must be a number"),
        ({"limits": {"call_seconds": 0}}, "invalid: call_seconds must be above 0, and is 0"),
        ({"limits": {"call_seconds": float("nan")}}, "call_seconds must be above 0, and is nan"),
    ],
)
def test_a_bad_record_says_which_field(change: dict[str, HeadValue], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        BootstrapRecord.decode(encode_head({**FIELDS, **change}))
    assert KEY.hex() not in str(raised.value)


@pytest.mark.parametrize("record", [b"", b"\xff", b"\x80", encode_head(FIELDS) + b"x"])
def test_what_is_no_record_is_refused(record: bytes) -> None:
    with pytest.raises(ConfigurationError, match="the bootstrap record is invalid"):
        BootstrapRecord.decode(record)


def test_a_record_that_fits_into_no_pipe_is_not_made() -> None:
    record = BootstrapRecord(
        addresses=(OfferedAddress("tls:a.example.org:1", ca="x" * 65536),),
        secret=Secret(KEY),
        instance_id=InstanceId("process", "shop-1", 3),
    )
    with pytest.raises(ConfigurationError, match="of process:shop-1#3: ") as raised:
        record.encode()
    assert KEY.hex() not in str(raised.value)
    assert "xxx" not in repr(record)


# -- the pipe, except what would kill the test ---------------------------------------------------------


def taken_from(data: bytes) -> bytes:
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, data)
        os.close(write_end)
        return take_record(read_end)
    finally:
        os.close(read_end)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ended before the end of the"),
        (b"\5\0", "ended before the end of the"),
        (b"\5\0\0\0abc", "ended before the end of the"),
        (
            (MAX_RECORD_BYTES + 1).to_bytes(4, "little"),
            "the bootstrap record has 65537 bytes; at most 65536",
        ),
    ],
)
def test_a_pipe_without_a_record_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        taken_from(data)


# -- the environment ------------------------------------------------------------------------------------


def test_s3_the_environment_is_read_once_and_cleared() -> None:
    environ = {**ENVIRONMENT, "HOME": "/root"}
    found = take_environment(environ)
    assert found is not None
    assert found.addresses == (OfferedAddress("tcp:127.0.0.1:7000"),)
    assert found.secret == Secret(KEY)
    assert found.instance_id == InstanceId("process", "shop-1", 3)
    assert environ == {"HOME": "/root"}
    assert take_environment(environ) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SERVICE_ADDR": "nowhere"}, "'nowhere' is not an address"),
        ({"SECRET": ""}, "SERVICE_ADDR is set, but SECRET is not"),
        ({"SPEAR_INSTANCE": ""}, "SERVICE_ADDR is set, but SPEAR_INSTANCE is not"),
        ({"SECRET": "xyz"}, "SECRET must be 64 hexadecimal digits"),
        ({"SECRET": KEY.hex()[:-2]}, "SECRET must be 64 hexadecimal digits"),
        ({"SPEAR_INSTANCE": "shop"}, "SPEAR_INSTANCE='shop': the form must be process:name#1"),
        ({"SPEAR_INSTANCE": "process:shop#x"}, "the form must be process:name#1"),
        ({"SPEAR_INSTANCE": "magic!:shop#1"}, "'magic!' is not a valid name"),
        ({"SPEAR_INSTANCE": "process:#1"}, "use 1 to 63"),
    ],
)
def test_a_bad_environment_says_which_variable(change: dict[str, str], message: str) -> None:
    environ = {**ENVIRONMENT, **change}
    with pytest.raises(ConfigurationError, match=message) as raised:
        take_environment(environ)
    assert KEY.hex()[:-2] not in str(raised.value)
    assert environ == {}
