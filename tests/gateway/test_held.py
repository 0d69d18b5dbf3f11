"""Objects that the gateway holds for a request: none while it waits for a function or for a client."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Final

import h11
import pytest
import trio.testing

import spear
from spear.gateway import GatewaySettings, open_gateway

from .helpers import Probe, ask, closing_clients, connect, open_site, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

COUNT: Final = 20_000
INVOKE: Final = "/2015-03-31/functions/{}/invocations"


def lists() -> int:
    """Return the number of empty lists in this process."""
    gc.collect()
    return sum(1 for each in gc.get_objects() if type(each) is list and not each)


FAILING: Final = {
    "call": ("/v1/functions/fail/call", {}),
    "call with a key": ("/v1/functions/fail/call", {"idempotency-key": "one"}),
    "submit": ("/v1/functions/fail/submit", {}),
    "stream": ("/v1/functions/items/stream", {}),
    "stream that has begun": (
        "/v1/functions/items/stream?count=1",
        {"accept": "text/event-stream"},
    ),
    "invoke": (INVOKE.format("fail"), {}),
    "invoke with its log": (INVOKE.format("fail"), {"x-amz-log-type": "Tail"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", FAILING)
async def test_a_call_that_has_failed_holds_nothing(way: str, tmp_path: Path) -> None:
    """A reference cycle would hold bodies until a garbage collection: once it held 800 MiB."""
    path, headers = FAILING[way]
    file = tmp_path / "failing.py"
    file.write_text(
        "import spear\napp = spear.Agent()\n"
        "@app.function\nasync def fail(value: object) -> None:\n    raise ValueError\n"
        "@app.function\nasync def items(value: object, count: int = 0):\n"
        "    for each in range(count):\n        yield each\n"
        "    raise ValueError\n"
    )
    async with open_site() as site:
        await site.spearlet.deploy(file)
        gc.collect()
        gc.freeze()  # leaves out the objects of other tests
        gc.disable()
        try:
            await ask(site.gateway, "POST", path, 10_000 * "tea", headers)
            await wait_until(lambda: not site.spearlet.executions.unfinished)
            await trio.testing.wait_all_tasks_blocked()
            held = (each for part in gc.get_objects() for each in gc.get_referents(part))
            assert not [each for each in held if type(each) is bytes and 100 * b"tea" in each]
        finally:
            gc.enable()
            gc.unfreeze()


WAYS: Final = {
    "call": ("/v1/functions/hold/call", {}, b"[%b]"),
    "call by name": ("/v1/functions/hold/call", {}, b'{"value": %b}'),
    "call with a key": ("/v1/functions/hold/call", {"idempotency-key": "one"}, b"[%b]"),
    "submit": ("/v1/functions/hold/submit", {}, b"[%b]"),
    "submit by name": ("/v1/functions/hold/submit", {}, b'{"value": %b}'),
    "stream": ("/v1/functions/items/stream", {}, b"[%b]"),
    "stream by name": ("/v1/functions/items/stream", {}, b'{"value": %b}'),
    "invoke": (INVOKE.format("hold"), {}, b"%b"),
    "invoke as an event": (INVOKE.format("hold"), {"x-amz-invocation-type": "Event"}, b"%b"),
    "invoke with its log": (INVOKE.format("hold"), {"x-amz-log-type": "Tail"}, b"%b"),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_a_body_is_held_as_bytes_while_its_call_waits(way: str) -> None:
    path, headers, form = WAYS[way]
    probe = Probe()
    called = trio.Event()

    @probe.agent.function
    async def hold(value: list[object]) -> int:
        called.set()
        return len(value)

    @probe.agent.function
    async def items(value: list[object]) -> AsyncIterator[int]:
        called.set()
        yield len(value)

    async with spear.open_spearlet() as spearlet, closing_clients():
        settings = spear.DeploymentSettings(concurrency=1)
        deployment = await spearlet.deploy(probe.agent, settings=settings)
        async with open_gateway(spearlet, GatewaySettings(port=0)) as gateway:
            deployment.wait.submit()
            await probe.begun.wait()
            client = await connect(gateway)
            before = lists()
            await client.send("POST", path, form % (b"[%b]" % b",".join([b"[]"] * COUNT)), headers)
            while not deployment.statistics().waiting:
                await trio.testing.wait_all_tasks_blocked()
            assert lists() - before < COUNT // 10
            probe.release.set()
            await called.wait()
            assert (await client.receive()).status in (200, 202)


PROGRAM: Final = f"""
import spear
app = spear.Agent()

@app.function
async def give(size: int) -> object:
    return ["x" * size, *([] for _ in range({COUNT}))]

@app.function
async def items(size: int):
    yield await give(size)
    yield await give(size)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["call", "result", "stream", "invoke"])
async def test_a_result_is_held_as_bytes_while_its_client_reads_slowly(
    way: str, tmp_path: Path
) -> None:
    """The result is 16 MiB of text, more than socket buffers take, so the response has to wait."""
    path = tmp_path / "large.py"
    path.write_text(PROGRAM, encoding="utf-8")
    large = b"%d" % (16 << 20)
    async with spear.open_spearlet() as spearlet, closing_clients():
        deployment = await spearlet.deploy(path)
        async with open_gateway(spearlet, GatewaySettings(port=0)) as gateway:
            execution = deployment.give.submit(16 << 20)
            await execution.result()
            client = await connect(gateway)
            before = lists()
            if way == "call":
                await client.send("POST", "/v1/functions/give/call", large)
            elif way == "stream":
                await client.send("POST", "/v1/functions/items/stream", large)
            elif way == "invoke":
                await client.send("POST", INVOKE.format("give"), large)
            else:
                await client.send("GET", f"/v1/executions/{execution.id}/result")
            assert (await client.receive_head()).status == 200
            assert isinstance(await client.next_event(), h11.Data)
            assert lists() - before < COUNT // 10
            await client.aclose()


@pytest.mark.parametrize("kind", ["RequestResponse", "Event", "DryRun"])
async def test_an_invocation_whose_payload_cannot_be_sent_is_a_bad_request(kind: str) -> None:
    async with open_site() as site:
        body = b"[" * 100 + b"]" * 100
        headers = {"x-amz-invocation-type": kind}
        reply = await ask(site.gateway, "POST", INVOKE.format("echo"), body=body, headers=headers)
        assert (reply.status, reply.headers["x-amzn-errortype"]) == (
            400,
            "InvalidRequestContentException",
        )
        assert "more than 64 levels" in str(reply.json["Message"])
