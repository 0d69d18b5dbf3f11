"""S14: no secret is in a repr, a log line, an error or the statistics."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from watching import WatchedConnections

from spear import AuthenticationFailed, FunctionRaised, InstanceId
from spear._ids import Secret
from spear.channels import connect_channel
from spear.telemetry import ConnectionEvent
from spear.testing import Functions, RawPeer
from spear.wire import FrameType

from .helpers import INSTANCE, MEMORY_STREAM, echo, park

if TYPE_CHECKING:
    from spear.channels import InboundCall

PAYLOAD = b"account 12345678"


def forms(secret: Secret) -> list[str]:
    """Return the notations in which a secret might be in a text."""
    value = secret.reveal()
    return [repr(value), repr(value)[2:-1], value.hex(), str(list(value)), repr(bytearray(value))]


async def test_s14_no_secret_and_no_payload_is_written_anywhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The script has logins of all kinds, calls, failures and a protocol error, logged at DEBUG."""
    seen: list[str] = []
    secrets: list[Secret] = []

    async def fail(call: InboundCall) -> bytes:
        raise ValueError("as it should be seen")

    functions = Functions({"echo": echo, "fail": fail})
    with caplog.at_level(logging.DEBUG):
        async with MEMORY_STREAM.open_host() as (manager, endpoint):
            watched = WatchedConnections(manager.instruments)
            secrets.append(endpoint.secret)
            with pytest.raises(AuthenticationFailed) as refused:
                await connect_channel(
                    await MEMORY_STREAM.connect(endpoint.address), INSTANCE, Secret(bytes(32))
                ).__aenter__()
            seen += [str(refused.value), repr(refused.value)]
            session, resumes = endpoint.secret, False
            for _ in range(2):
                stream = await MEMORY_STREAM.connect(endpoint.address)
                async with connect_channel(
                    stream,
                    INSTANCE,
                    session,
                    resumes=resumes,
                    service=functions,
                    functions=functions.names,
                ) as (agent, login):
                    session, resumes = login.session, True
                    secrets.append(session)
                    host = await endpoint.wait_connected()
                    await host.request("echo", PAYLOAD, metadata={"token": "s3cr3t"})
                    with pytest.raises(FunctionRaised) as raised:
                        await host.request("fail", PAYLOAD)
                    seen += [str(raised.value), repr(raised.value), repr(login)]
                    seen += [repr(host), repr(agent), repr(endpoint), repr(host.statistics())]
                await park()
            async with await MEMORY_STREAM.connect(endpoint.address) as stream:
                peer = RawPeer(stream)
                challenge = await peer.receive_challenge()
                request = peer.prove(challenge, INSTANCE, session, resumes=True)
                seen += [repr(challenge), repr(request)]
                assert repr(request.proof) not in repr(request)
                assert repr(request.nonce) not in repr(request)
                assert repr(challenge.nonce) not in repr(challenge)
                await peer.authenticate(request)
                await peer.announce(())
                await endpoint.wait_connected()
                await peer.send(FrameType.EXECUTION_RESPONSE, call_id=1, payload=PAYLOAD)
                await peer.wait_closed()
            await park()
            seen += [repr(manager.statistics()), repr(manager)]
            assert watched.events
            seen.append(repr(watched.events))
    assert len(caplog.records) > 10
    text = "\n".join([caplog.text, *seen])
    assert "authenticated" in text
    assert "bad_proof" in text
    assert "as it should be seen" in text
    for secret in secrets:
        for form in forms(secret):
            assert form not in text
    for private in (PAYLOAD.decode(), "s3cr3t"):
        assert private not in text


async def test_s14_a_failure_shows_no_path_and_no_traceback() -> None:
    async def fail(call: InboundCall) -> bytes:
        raise ValueError("wrong")

    functions = Functions({"fail": fail})
    async with MEMORY_STREAM.open_pair(agent_service=functions, functions=functions.names) as (
        host,
        _,
    ):
        with pytest.raises(FunctionRaised) as raised:
            await host.request("fail")
        assert str(raised.value) == "ValueError: wrong"
        assert raised.value.remote_traceback is None


def test_s14_events_and_instances_can_be_printed() -> None:
    event = ConnectionEvent("connected", InstanceId("process", "a"), 1, "why")
    assert "why" in repr(event)
