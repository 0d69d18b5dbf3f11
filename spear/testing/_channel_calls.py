"""The conformance suite for channels: calls with one answer, and their failures.

Cases that come from gRPC's interoperability tests have gRPC's names and sizes.
"""

from __future__ import annotations

from math import inf
from typing import Final

import trio

from spear._errors import (
    CallCancelled,
    CallFailed,
    DeadlineExceeded,
    FunctionRaised,
    InvalidArguments,
    LocalProtocolError,
    NotFound,
    Overloaded,
    Rejected,
    WorkerDied,
)
from spear._limits import DEFAULT_WIRE_LIMITS, WireLimits
from spear.channels import CommunicationChannel, InboundCall, SharedBuffer

from ._conformance import (
    REQUEST_BYTES,
    RESPONSE_BYTES,
    OpenPair,
    case,
    caught,
    echo,
    items,
    offer,
    offer_limited,
    pattern,
    sized,
    sleep,
    total,
    wait_idle,
    wait_until,
)
from ._services import Functions

SPECIAL_MESSAGE: Final = (
    "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
)

FAILURES: Final[tuple[CallFailed, ...]] = (
    CallFailed("unspecific", delivered="maybe"),
    DeadlineExceeded("too late", delivered="maybe"),
    CallCancelled("it drains", delivered="yes"),
    Overloaded("come back", retry_after_seconds=1.5),
    NotFound("no such thing"),
    Rejected("not like this"),
    InvalidArguments("x must be a number"),
    WorkerDied("it is gone", delivered="maybe"),
    FunctionRaised("oh no", type_name="ValueError", remote_traceback="line 1\nline 2"),
)

# -- calls ------------------------------------------------------------------------------------------


@case
async def empty_unary(open_pair: OpenPair) -> None:
    """An empty request gets an empty answer."""
    async with offer(open_pair, echo=echo) as pair:
        for channel in pair:
            response = await channel.request("echo")
            assert response.payload == b""
            assert not response.is_cbor
            assert response.execution_seconds >= 0


@case
async def large_unary(open_pair: OpenPair) -> None:
    """Bodies of several fragments arrive unchanged, as do bodies around each size limit."""
    async with offer(open_pair, sized=sized, echo=echo) as pair:
        for channel in pair:
            body = b"%d\n" % RESPONSE_BYTES + bytes(REQUEST_BYTES - 7)
            assert len(body) == REQUEST_BYTES
            assert (await channel.request("sized", body)).payload == pattern(RESPONSE_BYTES)
            for edge in (8 * 1024, 16 * 1024, 128 * 1024, DEFAULT_WIRE_LIMITS.fragment_bytes):
                for size in (edge - 1, edge, edge + 1):
                    body = pattern(size)
                    assert (await channel.request("echo", body)).payload == body
            body = pattern(5 * 1024 * 1024)
            assert (await channel.request("echo", body)).payload == body


@case
async def kinds_of_bodies(open_pair: OpenPair) -> None:
    """Any bytes-like object may be sent, and arrives as ``bytes``."""
    body = bytes(range(256)) * 40
    async with offer(open_pair, echo=echo) as (host, _):
        for given in (body, bytearray(body), memoryview(body), memoryview(body).cast("I")):
            received = (await host.request("echo", given)).payload
            assert type(received) is bytes
            assert received == body


@case
async def shared_bodies(open_pair: OpenPair) -> None:
    """Shared memory arrives as shared memory, over every transport; bytes arrive as bytes."""

    async def share(call: InboundCall) -> SharedBuffer:
        with call.view() as view:
            assert view.readonly
            buffer = SharedBuffer(len(view))
            buffer.view[:] = view
        return buffer

    async with offer(open_pair, share=share, echo=echo) as pair:
        for channel in pair:
            for size in (1, REQUEST_BYTES, 3 * 1024 * 1024):
                body = pattern(size)
                with SharedBuffer(size) as buffer:
                    buffer.view[:] = body
                    shared = (await channel.request("share", buffer)).payload
                    assert isinstance(shared, memoryview)
                    assert shared.readonly
                    assert shared == body
                    assert (await channel.request("share", body)).payload == body
                    echoed = (await channel.request("echo", buffer)).payload
                    assert type(echoed) is bytes
                    assert echoed == body


@case
async def concurrent_large_unary(open_pair: OpenPair) -> None:
    """Many large concurrent calls take turns on the connection, and their bodies do not mix."""

    async def call(channel: CommunicationChannel, number: int) -> None:
        size = REQUEST_BYTES + number
        body = b"%d\n" % (RESPONSE_BYTES + number)
        response = await channel.request("sized", body + bytes(size - len(body)))
        assert response.payload == pattern(RESPONSE_BYTES + number)

    async with offer(open_pair, sized=sized) as pair, trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(call, pair[number % 2], number)


@case
async def out_of_order_answers(open_pair: OpenPair) -> None:
    """Calls may be answered in any order: an unanswered call does not delay later ones."""
    gates = {b"%d" % number: trio.Event() for number in range(5)}
    order: list[bytes] = []

    async def wait(call: InboundCall) -> bytes:
        await gates[call.payload].wait()
        return call.payload

    async def call(number: bytes) -> None:
        assert (await host.request("wait", number)).payload == number
        order.append(number)
        previous = b"%d" % (int(number) - 1)
        if previous in gates:
            gates[previous].set()

    async with offer(open_pair, wait=wait) as (host, _):
        async with trio.open_nursery() as nursery:
            for number in gates:
                nursery.start_soon(call, number)
            gates[b"4"].set()
        assert order == [b"4", b"3", b"2", b"1", b"0"]


@case
async def both_sides_start_calls(open_pair: OpenPair) -> None:
    """A function calls its caller back while it runs, three levels deep."""

    async def bounce(call: InboundCall) -> bytes:
        left = int(call.payload)
        if left == 0:
            return b"bottom"
        answer = await call.channel.request("bounce", b"%d" % (left - 1))
        return b"%d %s" % (left, answer.payload)

    async with offer(open_pair, bounce=bounce) as pair:
        for channel in pair:
            assert (await channel.request("bounce", b"3")).payload == b"3 2 1 bottom"


@case
async def what_goes_with_a_call(open_pair: OpenPair) -> None:
    """Metadata, encoding, key and deadline reach the handler; progress reports reach the caller."""
    seen: list[tuple[object, ...]] = []

    async def look(call: InboundCall) -> bytes:
        key = call.head.get("key") if call.head else None
        left = call.deadline - trio.current_time()
        seen.append((dict(call.metadata), call.is_cbor, key, left, call.wants_stream))
        call.report_progress(b"half", is_cbor=True)
        return b""

    async with offer(open_pair, look=look) as (host, _):
        task = trio.lowlevel.current_task()
        reports: list[tuple[bytes, bool]] = []

        def on_progress(payload: bytes, is_cbor: bool) -> None:
            assert trio.lowlevel.current_task() is task
            reports.append((payload, is_cbor))

        await host.request(
            "look",
            b"\x01",
            is_cbor=True,
            timeout=30,
            metadata={"trace": "abc", "deep": [1, {"x": None}]},
            key="once",
            on_progress=on_progress,
        )
        await host.request("look", timeout=inf)
        await host.request("look")
        metadata, is_cbor, key, left, wants_stream = seen[0]
        assert metadata == {"trace": "abc", "deep": [1, {"x": None}]}
        assert (is_cbor, key, wants_stream) == (True, "once", False)
        assert isinstance(left, float)
        assert 0 < left < 31
        assert seen[1] == ({}, False, None, inf, False)
        default = seen[2][3]
        assert isinstance(default, float)
        assert 0 < default < DEFAULT_WIRE_LIMITS.call_seconds + 1
        assert reports == [(b"half", True)]


# -- failures ---------------------------------------------------------------------------------------


@case
async def status_code_and_message(open_pair: OpenPair) -> None:
    """Every kind of failure arrives with its type, message and ``delivered``, in calls and streams."""

    async def fail(call: InboundCall) -> bytes:
        raise FAILURES[int(call.payload)]

    async def call(channel: CommunicationChannel, number: bytes) -> None:
        await channel.request("fail", number)

    async def stream(channel: CommunicationChannel, number: bytes) -> None:
        async with channel.open_stream("fail", number) as answer:
            assert [item async for item in answer] == []

    async with offer(open_pair, fail=fail) as pair:
        for number, sent in enumerate(FAILURES):
            for ask in (call, stream):
                error = await caught(ask, pair[number % 2], b"%d" % number)
                assert type(error) is type(sent)
                assert str(error) == str(sent)
                assert error.delivered == sent.delivered
                if isinstance(sent, Overloaded):
                    assert isinstance(error, Overloaded)
                    assert error.retry_after_seconds == sent.retry_after_seconds


@case
async def special_status_message(open_pair: OpenPair) -> None:
    """An error message may be any text; a message longer than the limit is cut."""

    async def fail(call: InboundCall) -> bytes:
        raise ValueError(SPECIAL_MESSAGE * int(call.payload))

    async with offer(open_pair, fail=fail) as (host, _):
        error = await caught(host.request, "fail", b"1")
        assert isinstance(error, FunctionRaised)
        assert error.remote_message == SPECIAL_MESSAGE
        assert error.type_name == "ValueError"
        assert error.remote_traceback is None
        assert error.delivered == "yes"
        error = await caught(host.request, "fail", b"10000")
        assert isinstance(error, FunctionRaised)
        assert len(error.remote_message.encode()) <= DEFAULT_WIRE_LIMITS.error_message_bytes


@case
async def unimplemented_method(open_pair: OpenPair) -> None:
    """A call of an unknown name fails with NotFound, before any code has run."""
    async with offer(open_pair, echo=echo) as pair:
        for channel in pair:
            error = await caught(channel.request, "nothing", b"x" * 1_000_000)
            assert isinstance(error, NotFound)
            assert error.delivered == "no"
            assert (await channel.request("echo", b"alive")).payload == b"alive"


@case
async def unimplemented_service(open_pair: OpenPair) -> None:
    """A call to a peer that offers no functions at all fails with NotFound."""
    async with open_pair() as pair:
        for channel in pair:
            error = await caught(channel.request, "nothing")
            assert isinstance(error, NotFound)


@case
async def too_large(open_pair: OpenPair) -> None:
    """A payload above the peer's limits is refused by its sender, and the channel stays usable."""
    limits = WireLimits(max_message_bytes=100_000, call_seconds=10)
    async with offer_limited(open_pair, limits, sized=sized, items=items, echo=echo) as (host, _):
        error = await caught(host.request, "echo", bytes(100_001))
        assert isinstance(error, LocalProtocolError)
        error = await caught(host.request, "sized", b"100001")
        assert isinstance(error, Rejected)
        assert error.delivered == "yes"
        async with host.open_stream("items", b"100001") as stream:
            assert isinstance(await caught(stream.receive), CallFailed)
        error = await caught(lambda: host.request("echo", metadata={"much": "x" * 70_000}))
        assert isinstance(error, LocalProtocolError)
        await wait_idle(host)
        assert (await host.request("echo", bytes(100_000))).payload == bytes(100_000)


@case
async def timeout_on_sleeping_server(open_pair: OpenPair) -> None:
    """When a deadline of 1 ms expires, the caller gets DeadlineExceeded and the handler is cancelled."""
    functions = Functions({"sleep": sleep, "echo": echo})
    async with open_pair(agent_service=functions, functions=functions.names) as (host, agent):
        error = await caught(lambda: host.request("sleep", timeout=0.001))
        assert isinstance(error, DeadlineExceeded)
        assert error.delivered in ("no", "maybe", "yes")
        await wait_idle(host, agent)
        assert functions.running == 0
        for timeout in (0, -1):
            error = await caught(lambda seconds: host.request("echo", timeout=seconds), timeout)
            assert isinstance(error, DeadlineExceeded)
            assert error.delivered == "no"
        assert (await host.request("echo", b"alive")).payload == b"alive"


@case
async def cancel_after_begin(open_pair: OpenPair) -> None:
    """Cancelling a call or leaving a stream cancels the running handler, and frees its slot."""
    functions = Functions({"sleep": sleep, "total": total, "echo": echo})
    async with open_pair(agent_service=functions, functions=functions.names) as (host, agent):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.request, "sleep")
            await wait_until(lambda: functions.running == 1)
            nursery.cancel_scope.cancel()
        await wait_idle(host, agent)
        assert functions.running == 0
        async with host.open_stream("total", sends_items=True):
            await wait_until(lambda: functions.running == 1)
        await wait_idle(host, agent)
        assert functions.running == 0
        assert functions.cancelled == 2
        assert (await host.request("echo", b"alive")).payload == b"alive"
