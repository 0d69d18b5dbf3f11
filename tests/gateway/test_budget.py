"""Budgets: memory for all clients and for each, unverified callers, bodies of submitted calls."""

from __future__ import annotations

import attrs
import pytest

from spear.gateway import GatewaySettings
from spear.gateway._budget import Budget, Unverified, make_budgets
from spear.gateway._errors import Problem

from .helpers import KNOWN, TOKEN, ask, call, close_clients, connect, open_site, wait_until
from .test_lambda import signed

MIB = 1 << 20
INVOKE = "/2015-03-31/functions/echo/invocations"
PATIENT = GatewaySettings(
    token=TOKEN, head_seconds=1000, idle_seconds=1000, body_seconds=1000, max_body_bytes=2 * MIB,
    body_bytes_in_flight=4 * MIB,
)  # fmt: skip


def head_of(fields: dict[str, str]) -> bytes:
    """Return the head of an Invoke."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {INVOKE} HTTP/1.1\r\n{lines}\r\n".encode()


def test_s18_a_client_takes_no_more_than_its_share() -> None:
    budget = Budget("apples", 10, 6)
    budget.take(5, "a")
    with pytest.raises(Problem, match="this client holds 5 of its 6 apples") as caught:
        budget.take(2, "a")
    assert (caught.value.status, caught.value.kind) == (503, "Busy")
    budget.take(5, "b")
    with pytest.raises(Problem, match="all clients together hold 10 of 10 apples"):
        budget.take(1, "c")
    budget.give(5, "a")
    with budget.taking(4, "c"):
        assert budget.taken == 9
    budget.take(0, "never seen")
    budget.give(0, "never seen")
    budget.give(5, "b")
    assert (budget.taken, budget._held) == (0, {})


def test_the_unverified_make_room_for_those_who_come_later() -> None:
    evicted: list[str] = []
    unverified = Unverified(10)

    def old() -> None:
        evicted.append("old")

    def new() -> None:
        evicted.append("new")  # pragma: no cover  # must not happen

    unverified.take(4, old)
    unverified.take(4, new)
    unverified.take(2, old)
    assert evicted == []
    unverified.take(1, new)
    assert (evicted, unverified.taken) == (["old"], 5)
    assert unverified.give(old) == 0
    assert unverified.give(new) == 5
    assert unverified.taken == 0


async def test_s18_bodies_of_unverified_callers_shut_nobody_out() -> None:
    """Clients with a token and clients that sign both get through."""
    async with open_site(PATIENT) as site:
        url = site.gateway.urls[0]
        for _ in range(4):
            stranger = await connect(site.gateway)
            fields = signed(url, INVOKE, b"", secret="wrong" * 4)
            head = head_of({**fields, "content-length": str(2 * MIB)})
            await stranger.stream.send_all(head + bytes(2 * MIB - 1))
        budgets = site.gateway._app.budgets
        await wait_until(lambda: budgets.unverified.taken >= 2 * MIB - 1)
        assert budgets.unverified.taken <= 2 * MIB
        assert budgets.bodies.taken == 0
        large = b'"' + (MIB - 2) * b"x" + b'"'
        reply = await ask(
            site.gateway, "POST", "/v1/functions/echo/call", headers=KNOWN, body=large
        )
        assert reply.status == 200
        reply = await ask(
            site.gateway, "POST", INVOKE, headers=signed(url, INVOKE, large), body=large
        )
        assert (reply.status, reply.body) == (200, large)
        await close_clients()


async def test_a_caller_who_was_pushed_aside_is_told_so() -> None:
    async with open_site(PATIENT) as site:
        url = site.gateway.urls[0]
        clients = []
        for _ in range(2):
            client = await connect(site.gateway)
            clients.append(client)
            fields = {**signed(url, INVOKE, b""), "content-length": str(2 * MIB)}
            await client.stream.send_all(head_of(fields) + bytes(3 * MIB // 2))
            taken = site.gateway._app.budgets.unverified
            await wait_until(lambda taken=taken: taken.taken == 3 * MIB // 2)
        data = await clients[0].stream.receive_some(65536)
        assert data.startswith(b"HTTP/1.1 503 ")
        assert b"the bodies of unverified callers exceed their limit" in data
        await close_clients()


async def test_nothing_of_a_body_is_read_that_no_signature_can_make_right() -> None:
    async with open_site(PATIENT) as site:
        good = signed(site.gateway.urls[0], INVOKE, b"1")
        for wrong in (
            {**good, "x-amz-date": "20200101T000000Z"},
            {**good, "x-amz-invocation-type": "Event"},  # not covered by the signature
            {**good, "authorization": "AWS4-HMAC-SHA256 Credential=x"},
        ):
            client = await connect(site.gateway)
            fields = {**wrong, "content-length": str(2 * MIB), "expect": "100-continue"}
            await client.stream.send_all(head_of(fields))
            assert (await client.stream.receive_some(65536)).startswith(b"HTTP/1.1 403 ")
        await close_clients()


@pytest.mark.parametrize("way", ["submit", "invoke"])
async def test_s18_the_bodies_of_submitted_calls_count_until_their_calls_have_ended(
    way: str,
) -> None:
    settings = attrs.evolve(PATIENT, token=None, body_bytes_in_flight=2 * MIB)
    async with open_site(settings) as site:
        path = "/v1/functions/wait_for/submit"
        headers = {}
        if way == "invoke":
            path = "/2015-03-31/functions/wait_for/invocations"
            headers = {"x-amz-invocation-type": "Event"}
        large = b'"' + (3 * MIB // 2 - 2) * b"x" + b'"'
        bodies = site.gateway._app.budgets.bodies
        assert (await ask(site.gateway, "POST", path, headers=headers, body=large)).status == 202
        assert bodies.taken == 3 * MIB // 2
        assert (await ask(site.gateway, "POST", path, headers=headers, body=large)).status == 503
        assert (await call(site.gateway, "add", 1)).status == 200
        site.probe.release.set()
        await wait_until(lambda: bodies.taken == 0)
        assert (await ask(site.gateway, "POST", path, headers=headers, body=large)).status == 202


def test_what_a_client_may_have_of_each_budget() -> None:
    settings = GatewaySettings(max_streams=3, max_body_bytes=100, body_bytes_in_flight=150)
    budgets = make_budgets(settings)
    budgets.bodies.take(100, "a")  # one whole body, although more than half
    with pytest.raises(Problem):
        budgets.bodies.take(1, "a")
    budgets.streams.take(2, "a")
    with pytest.raises(Problem):
        budgets.streams.take(1, "a")
    budgets.streams.take(1, "b")


async def test_each_connection_of_this_machine_is_a_client() -> None:
    async with open_site() as site:
        for _ in range(2):
            await (await connect(site.gateway)).ask("GET", "/healthz")
        assert len({each.client for each in site.gateway._app.connections.open}) == 2
