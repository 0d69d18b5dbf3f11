"""Payloads with tags go only to a peer that has said at the handshake that it decodes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spear import LocalProtocolError
from spear.testing import Functions
from spear.wire import (
    NO_DEADLINE,
    REPLY_STREAM,
    TYPES,
    FrameType,
    decode_result,
    encode_sendable,
)

from .helpers import MEMORY_STREAM

if TYPE_CHECKING:
    from spear.channels import InboundCall
    from spear.testing import OpenPair
    from spear.wire import Payload

VALUE = {1: {1j}}


async def answer(call: InboundCall) -> Payload:
    """A handler that returns a value with tags."""
    return encode_sendable(VALUE)[0]


async def report(call: InboundCall) -> bytes:
    """A handler that sends the error of an item with tags as a result."""
    try:
        await call.send(encode_sendable(VALUE)[0], is_cbor=True)
    except LocalProtocolError as error:
        return str(error.code).encode()
    return b"sent"


SERVICE = Functions({"answer": answer, "report": report})


async def test_both_ends_of_a_channel_take_tags(open_pair: OpenPair) -> None:
    async with open_pair(
        host_service=SERVICE, agent_service=SERVICE, functions=["answer", "report"]
    ) as (host, agent):
        payload, is_cbor = encode_sendable([VALUE])
        for channel in host, agent:
            response = await channel.request("answer", payload, is_cbor=is_cbor)
            assert decode_result(response.payload, is_cbor=True) == VALUE


async def test_a_peer_without_the_feature_gets_no_tags() -> None:
    async with MEMORY_STREAM.open_raw(service=SERVICE) as (host, peer):
        payload, is_cbor = encode_sendable([VALUE])
        with pytest.raises(LocalProtocolError, match="the peer does not support dates") as caught:
            await host.request("f", payload, is_cbor=is_cbor)
        assert (caught.value.code, caught.value.delivered) == ("types_not_supported", "no")
        assert host.calls_in_flight == 0
        async with host.open_stream("f", sends_items=True) as stream:
            with pytest.raises(LocalProtocolError) as caught:
                await stream.send(payload, is_cbor=is_cbor)
            assert caught.value.code == "types_not_supported"
        await peer.send(
            FrameType.EXECUTION_REQUEST,
            flags=REPLY_STREAM,
            call_id=2,
            b=NO_DEADLINE,
            head={"function": "report"},
        )
        assert (await peer.receive(FrameType.EXECUTION_RESPONSE))[6] == b"types_not_supported"
        await peer.send(
            FrameType.EXECUTION_REQUEST, call_id=4, b=NO_DEADLINE, head={"function": "answer"}
        )
        head = (await peer.receive(FrameType.ERROR))[5]
        assert head is not None
        assert head["type"] == "TypeError"
        assert str(head["message"]).endswith("tagged values: return text, numbers and lists")


async def test_a_peer_with_the_feature_gets_them() -> None:
    async with MEMORY_STREAM.open_raw(service=SERVICE, features=[TYPES]) as (_, peer):
        await peer.send(
            FrameType.EXECUTION_REQUEST, call_id=2, b=NO_DEADLINE, head={"function": "answer"}
        )
        frame = await peer.receive(FrameType.EXECUTION_RESPONSE)
        assert decode_result(bytes(frame[6]), is_cbor=True) == VALUE


async def test_an_agent_sends_no_tags_to_a_host_without_the_feature() -> None:
    async with MEMORY_STREAM.open_raw_host(service=SERVICE, functions=["answer"]) as (agent, peer):
        await peer.send(FrameType.EXECUTION_REQUEST, call_id=1, a=1, b=NO_DEADLINE)
        head = (await peer.receive(FrameType.ERROR))[5]
        assert head is not None
        assert head["type"] == "TypeError"
        payload, is_cbor = encode_sendable(VALUE)
        with pytest.raises(LocalProtocolError, match="does not support dates"):
            await agent.request("f", payload, is_cbor=is_cbor)
