"""AWS Lambda's Invoke, called by AWS's own SDK, which does not know Spear."""

from __future__ import annotations

import base64
import calendar
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import attrs
import boto3
import pytest
import trio
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

import spear
from spear import InstanceId
from spear.calls import Answer
from spear.gateway import GatewaySettings, open_gateway
from spear.gateway._lambda import _log_tail, _message, is_outcome
from spear.spearlet import FollowedLines, InstanceLine
from spear.telemetry import LogLine

from .helpers import KNOWN, TOKEN, Site, ask, closing_clients, open_site, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from .helpers import Reply

INVOKE = "/2015-03-31/functions/{}/invocations"


class Body(Protocol):
    """The type of a payload in the SDK."""

    def read(self) -> bytes: ...


@attrs.frozen
class Invoker:
    """An SDK's client, called in threads."""

    client: object

    async def __call__(
        self, function: str, payload: object = None, **options: str
    ) -> dict[str, object]:
        """Invoke a function."""
        if payload is not None:
            options["Payload"] = json.dumps(payload)
        invoke = getattr(self.client, "invoke")  # noqa: B009  # the SDK makes it at run time

        def work() -> dict[str, object]:
            reply: dict[str, object] = invoke(FunctionName=function, **options)
            body: Body = reply["Payload"]  # type: ignore[assignment]  # the SDK's type
            return {**reply, "Payload": body.read()}

        return await trio.to_thread.run_sync(work)

    async def result(self, function: str, payload: object = None, **options: str) -> object:
        """Invoke a function, and return its decoded payload."""
        return read(await self(function, payload, **options))

    async def fail(self, function: str, payload: object = None, **options: str) -> tuple[str, int]:
        """Invoke a function that fails; return (code, status) of the error."""
        with pytest.raises(ClientError) as caught:
            await self(function, payload, **options)
        response = caught.value.response
        return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def read(reply: dict[str, object]) -> object:
    """Return the decoded payload of a reply."""
    payload = reply["Payload"]
    assert isinstance(payload, bytes)
    return json.loads(payload)


def invoker(url: str, secret: str = "anything-will-do") -> Invoker:
    """Make a client of an endpoint that never retries."""
    config = Config(retries={"max_attempts": 0}, read_timeout=20)
    client = boto3.client(
        "lambda", endpoint_url=url, region_name="local", config=config,
        aws_access_key_id="spear", aws_secret_access_key=secret,
    )  # fmt: skip
    return Invoker(client)


@asynccontextmanager
async def open_invoker(token: str | None = None) -> AsyncIterator[tuple[Site, Invoker]]:
    """Open a probe's site, and an SDK's client for it."""
    async with open_site(GatewaySettings(token=token)) as site:
        yield site, invoker(site.gateway.urls[0], token or "anything-will-do")


async def test_a_function_is_invoked_by_all_its_names() -> None:
    async with open_invoker() as (_, invoke):
        reply = await invoke("echo", {"a": [1, None, "é"]})
        assert (reply["StatusCode"], reply["ExecutedVersion"]) == (200, "$LATEST")
        assert "FunctionError" not in reply
        assert read(reply) == {"a": [1, None, "é"]}
        assert await invoke.result("echo") == {}
        for name in (
            "probe.echo",
            "echo:7",
            "echo:$LATEST",
            "123456789012:function:echo",
            "arn:aws:lambda:eu-west-1:123456789012:function:probe.echo",
            "arn:aws:lambda:eu-west-1:123456789012:function:echo:live",
        ):
            assert await invoke.result(name, 1) == 1
        assert await invoke.result("echo", 1, Qualifier="live") == 1


async def test_kinds_of_invocation() -> None:
    async with open_invoker() as (site, invoke):
        reply = await invoke("count", InvocationType="DryRun")
        assert reply["StatusCode"] == 204
        assert site.probe.calls == 0
        reply = await invoke("echo", 1, InvocationType="Event")
        assert reply["StatusCode"] == 202
        (execution,) = site.spearlet.executions
        assert await execution.result() == 1
        assert await invoke.fail("nothing", InvocationType="DryRun") == (
            "ResourceNotFoundException",
            404,
        )
        code = await invoke.fail("echo", InvocationType="Sometimes")
        assert code == ("InvalidParameterValueException", 400)


async def test_a_function_that_fails_is_an_answer() -> None:
    async with open_invoker() as (site, invoke):
        reply = await invoke("boom", "oh")
        assert (reply["StatusCode"], reply["FunctionError"]) == (200, "Unhandled")
        told = read(reply)
        assert isinstance(told, dict)
        assert (told["errorMessage"], told["errorType"], told["stackTrace"]) == (
            "'oh'",
            "KeyError",
            [],
        )
        told = await invoke.result("add", "x")
        assert isinstance(told, dict)
        assert told["errorType"] == "InvalidArguments"
        reply_late = await ask(
            site.gateway, "POST", INVOKE.format("wait_for"), {}, {"spear-timeout": "0.01"}
        )
        assert reply_late.status == 200
        assert reply_late.headers["x-amz-function-error"] == "Unhandled"
        assert reply_late.json["errorType"] == "Sandbox.Timedout"


async def test_what_has_run_is_not_for_an_sdk_to_repeat() -> None:
    agent = spear.Agent("large")
    calls: list[int] = []

    @agent.function
    async def large(event: object) -> str:
        calls.append(1)
        return "x" * 200_000

    async with open_site(GatewaySettings(body_bytes_in_flight=100_000)) as site:
        await site.spearlet.deploy(agent)
        reply = await ask(site.gateway, "POST", INVOKE.format("large"), {})
        assert (reply.status, reply.headers["x-amz-function-error"]) == (200, "Unhandled")
        assert reply.json["errorType"] == "Busy"
        assert calls == [1]


async def test_errors_are_those_of_aws() -> None:
    async with open_invoker() as (site, invoke):
        assert await invoke.fail("nothing") == ("ResourceNotFoundException", 404)
        assert await invoke.fail("ticks", 1) == ("InvalidParameterValueException", 400)
        reply = await ask(site.gateway, "POST", INVOKE.format("ticks"), 1)
        assert "cannot be invoked" in str(reply.json["Message"])
        assert await invoke.fail("a b") == ("InvalidParameterValueException", 400)
        context = base64.b64encode(b"{").decode()
        assert await invoke.fail("echo", ClientContext=context) == (
            "InvalidRequestContentException",
            400,
        )
        for name, value in (("x-amz-client-context", "?"), ("x-amz-client-context", 5000 * "A")):
            reply = await ask(site.gateway, "POST", INVOKE.format("echo"), {}, {name: value})
            assert reply.headers["x-amzn-errortype"] == "InvalidRequestContentException"
        reply = await ask(site.gateway, "POST", INVOKE.format("echo"), body=b"{")
        assert reply.headers["x-amzn-errortype"] == "InvalidRequestContentException"
        assert "not JSON" in str(reply.json["Message"])
    async with open_site(GatewaySettings(max_body_bytes=10)) as site:
        reply = await ask(site.gateway, "POST", INVOKE.format("echo"), body=bytes(11))
        assert (reply.status, reply.headers["x-amzn-errortype"]) == (
            413,
            "RequestTooLargeException",
        )


async def test_a_host_without_room_says_when_to_come_again() -> None:
    agent = spear.Agent("small", concurrency=1)
    begun = trio.Event()

    @agent.function
    async def hold(event: object) -> None:
        begun.set()
        await trio.sleep_forever()

    settings = spear.DeploymentSettings(queue=0)
    async with open_site() as site:
        await site.spearlet.deploy(agent, settings=settings)
        invoke = invoker(site.gateway.urls[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, site.gateway, "POST", INVOKE.format("hold"))
            await begun.wait()
            assert await invoke.fail("hold") == ("TooManyRequestsException", 429)
            reply = await ask(site.gateway, "POST", INVOKE.format("hold"))
            assert int(reply.headers["retry-after"]) >= 1
            assert reply.json["Reason"] == "ConcurrentInvocationLimitExceeded"
            nursery.cancel_scope.cancel()


async def test_a_draining_host_is_a_service_that_is_away() -> None:
    async with open_invoker() as (site, invoke), trio.open_nursery() as nursery:
        nursery.start_soon(ask, site.gateway, "POST", "/v1/functions/wait/call")
        await site.probe.begun.wait()
        nursery.start_soon(site.spearlet.drain)
        await wait_until(lambda: site.spearlet.state.value == "draining")
        assert await invoke.fail("echo") == ("ServiceException", 503)
        site.probe.release.set()


async def test_the_client_context_is_metadata() -> None:
    async with open_invoker() as (_, invoke):
        context = base64.b64encode(b'{"client": {"app_title": "till"}}').decode()
        told = await invoke.result("context_of", ClientContext=context)
        assert isinstance(told, dict)
        assert told["client_context"] == {"client": {"app_title": "till"}}


def test_what_an_instance_wrote_last_is_not_for_every_client() -> None:
    for kind in (spear.WorkerDied, spear.SpawnFailed):
        assert _message(kind("it is gone", stderr_tail="the password is 1234")) == "it is gone"
    assert _message(spear.NotFound("no such function")) == "no such function"


@pytest.mark.slow
async def test_the_end_of_the_log_and_the_end_of_an_instance(tmp_path: Path) -> None:
    file = tmp_path / "talk.py"
    file.write_text(
        "import os, spear\napp = spear.Agent()\n"
        "@app.function\nasync def talk(event: object) -> None:\n    print('<', event, '>', flush=True)\n"
        "@app.function\nasync def die(event: object) -> None:\n    os._exit(3)\n"
    )
    async with closing_clients(), spear.open_spearlet() as spearlet:
        await spearlet.deploy(file)
        async with open_gateway(spearlet, GatewaySettings(port=0)) as gateway:
            invoke = invoker(gateway.urls[0])
            reply = await invoke("talk", "hello", LogType="Tail")
            lines = base64.b64decode(str(reply["LogResult"])).decode().splitlines()
            assert lines[0].startswith("START RequestId: ")
            assert lines[1] == "< hello >"
            assert lines[-1].startswith("REPORT RequestId: ")
            reply = await invoke("talk", 5000 * "x", LogType="Tail")
            assert len(base64.b64decode(str(reply["LogResult"]))) == 4096
            reply = await invoke("die", LogType="Tail")
            assert reply["FunctionError"] == "Unhandled"
            told = read(reply)
            assert isinstance(told, dict)
            assert told["errorType"] == "Runtime.ExitError"


def impatient(url: str, seconds: float, *, attempts: int = 3) -> Invoker:
    """Make a client that waits so long for an answer, and then retries."""
    config = Config(
        retries={"total_max_attempts": attempts, "mode": "standard"}, read_timeout=seconds
    )
    client = boto3.client(
        "lambda", endpoint_url=url, region_name="local", config=config,
        aws_access_key_id="spear", aws_secret_access_key="anything-will-do",
    )  # fmt: skip
    return Invoker(client)


@pytest.mark.slow
@pytest.mark.parametrize("is_done_first", [False, True])
async def test_an_sdk_that_tries_again_gets_the_answer_of_the_first_try(
    is_done_first: bool,
) -> None:
    """The function runs once, whether or not it still runs at the second attempt."""
    agent = spear.Agent("slow")
    runs: list[object] = []
    release = trio.Event()
    ended = trio.Event()

    @agent.function
    async def slow(event: object) -> dict[str, object]:
        runs.append(event)
        await release.wait()
        ended.set()
        return {"number": len(runs)}

    async with open_site() as site, trio.open_nursery() as nursery:
        await site.spearlet.deploy(agent)
        invoke = impatient(site.gateway.urls[0], 1)

        async def let_it_end() -> None:
            # The client has given up once: its connection is closed, or there is a second request.
            statistics = site.gateway.statistics
            if is_done_first:
                await wait_until(lambda: 0 in statistics().responses)
            else:
                await wait_until(lambda: statistics().requests == 2)
            release.set()
            await ended.wait()

        nursery.start_soon(let_it_end)
        reply = await invoke("slow", "tea")
        assert read(reply) == {"number": 1}
        metadata = reply["ResponseMetadata"]
        assert isinstance(metadata, dict)
        assert metadata["RetryAttempts"] == 1
        assert runs == ["tea"]
        # Another invocation with the same payload is a new execution.
        assert await invoke.result("slow", "tea") == {"number": 2}


@pytest.mark.slow
async def test_an_invocation_whose_process_dies_is_not_started_again(tmp_path: Path) -> None:
    file = tmp_path / "dying.py"
    file.write_text(
        "import os, spear\napp = spear.Agent()\n"
        "@app.function\nasync def die(event: str) -> None:\n"
        "    open(event, 'a').write('x')\n    os._exit(3)\n"
    )
    runs = tmp_path / "runs"
    async with closing_clients(), spear.open_spearlet() as spearlet:
        await spearlet.deploy(file, replicas=2)
        async with open_gateway(spearlet, GatewaySettings(port=0)) as gateway:
            reply = await impatient(gateway.urls[0], 20)("die", str(runs))
            told = read(reply)
            assert isinstance(told, dict)
            assert told["errorType"] == "Runtime.ExitError"
            assert runs.read_text() == "x"


@pytest.mark.slow
async def test_an_attempt_that_comes_after_the_process_has_died_does_not_start_it_again(
    tmp_path: Path,
) -> None:
    file = tmp_path / "dying.py"
    file.write_text(
        "import os, spear\napp = spear.Agent()\n"
        "@app.function\nasync def die(event: str) -> None:\n"
        "    open(event, 'a').write('x')\n    os._exit(3)\n"
    )
    runs = tmp_path / "runs"
    attempt = {"amz-sdk-invocation-id": "one"}
    async with open_site() as site:
        await site.spearlet.deploy(file, replicas=2)
        for _ in range(2):
            reply = await ask(site.gateway, "POST", INVOKE.format("die"), str(runs), attempt)
            assert (reply.status, reply.json["errorType"]) == (200, "Runtime.ExitError")
            assert runs.read_text() == "x"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (spear.CallCancelled("x", delivered="yes"), True),
        (spear.CallCancelled("x", delivered="no"), False),
        (spear.RemoteProtocolError("x", delivered="yes"), True),
        (spear.WorkerDied("x", delivered="maybe"), True),
        (spear.WorkerDied("x", delivered="no"), False),
        (spear.Rejected("x", delivered="yes"), True),
        (spear.Rejected("x"), False),
        (spear.Overloaded("x"), False),
        (spear.InvalidArguments("x"), True),
        (spear.DeadlineExceeded("x", delivered="no"), True),
    ],
)
def test_what_may_have_run_is_the_outcome_for_an_sdk(
    error: spear.SpearError, expected: bool
) -> None:
    assert is_outcome(error) is expected


async def test_an_event_that_is_sent_again_is_executed_once() -> None:
    headers = {"amz-sdk-invocation-id": "3b2f", "x-amz-invocation-type": "Event"}
    async with open_site() as site:
        for _ in range(2):
            reply = await ask(site.gateway, "POST", INVOKE.format("wait_for"), {}, headers)
            assert reply.status == 202
        await site.probe.begun.wait()
        site.probe.release.set()
        executions = site.spearlet.executions.list()
        assert [await each.result() for each in executions] == ["released"] * 2
        assert len({str(each.instance) for each in executions}) == 1
        assert site.spearlet.deployments["probe"].statistics().functions["wait_for"].calls == 2
        reply = await ask(site.gateway, "POST", INVOKE.format("wait_for"), {"a": 1}, headers)
        assert reply.status == 202  # the event is accepted; its execution is refused
        (last, *_) = site.spearlet.executions.list()
        with pytest.raises(spear.Rejected, match="other arguments"):
            await last.result()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, "59"),
        ({"amz-sdk-invocation-id": "a"}, "59"),
        ({"spear-timeout": "7"}, "7"),
        ({"spear-timeout": "7", "amz-sdk-invocation-id": "a"}, "7"),
        ({"spear-timeout": "300", "amz-sdk-invocation-id": "a"}, "300"),
        ({"amz-sdk-request": "attempt=1"}, "59"),
        ({"amz-sdk-request": "ttl=20261330T000000Z; attempt=2; max=3"}, "59"),
        ({"amz-sdk-request": "ttl=20200101T000000Z; attempt=2; max=3"}, "59"),
        ({"amz-sdk-request": "ttl=29991231T000000Z; attempt=2; max=3"}, "59"),
        ({"x-amz-invocation-type": "Event"}, "60"),
    ],
)
async def test_an_answer_comes_before_its_client_gives_up(
    headers: dict[str, str], seconds: str
) -> None:
    """The SDK's default timeout, 60 s, is also the default deadline."""
    async with open_site() as site:
        reply = await ask(site.gateway, "POST", INVOKE.format("echo"), 1, headers)
        assert (reply.status, reply.headers["spear-timeout"]) == (
            202 if "x-amz-invocation-type" in headers else 200,
            seconds,
        )


async def test_a_client_that_says_when_it_gives_up_has_its_answer_before() -> None:
    gives_up = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + 3))
    headers = {"amz-sdk-request": f"ttl={gives_up}; attempt=2; max=3"}
    async with open_site() as site:
        reply = await ask(site.gateway, "POST", INVOKE.format("wait_for"), {}, headers)
        assert 0 < float(reply.headers["spear-timeout"]) < 3
        assert reply.json["errorType"] == "Sandbox.Timedout"
        assert time.time() < calendar.timegm(time.strptime(gives_up, "%Y%m%dT%H%M%SZ")) + 10


async def test_an_execution_that_an_sdk_began_has_the_time_that_its_client_asked_for() -> None:
    """The client's time may exceed the deployment's default for a call."""
    headers = {"amz-sdk-invocation-id": "a", "spear-timeout": "300"}
    agent = spear.Agent("asked")

    @agent.function
    async def remaining(event: object) -> int:
        return round(spear.context().remaining_seconds())

    async with open_site() as site:
        await site.spearlet.deploy(agent)
        reply = await ask(site.gateway, "POST", INVOKE.format("remaining"), {}, headers)
        assert reply.body == b"300"
        del headers["spear-timeout"]
        headers["amz-sdk-invocation-id"] = "b"
        reply = await ask(site.gateway, "POST", INVOKE.format("remaining"), {}, headers)
        assert reply.body == b"60"
        headers["spear-timeout"] = "inf"
        reply = await ask(site.gateway, "POST", INVOKE.format("remaining"), {}, headers)
        assert (reply.status, "detached_seconds" in reply.body.decode()) == (400, True)


async def test_the_key_that_a_client_gives_goes_before_that_of_its_sdk() -> None:
    headers = {"amz-sdk-invocation-id": "a", "idempotency-key": "order 7"}
    agent = spear.Agent("keys")

    @agent.function
    async def key(event: object) -> str | None:
        return spear.context().key

    async with open_site() as site:
        await site.spearlet.deploy(agent)
        reply = await ask(site.gateway, "POST", INVOKE.format("key"), {}, headers)
        assert reply.body == b'"order 7"'
        del headers["idempotency-key"]
        reply = await ask(site.gateway, "POST", INVOKE.format("key"), {}, headers)
        assert reply.body == b'"a"'


async def test_the_log_is_that_of_the_instance_that_ran() -> None:
    ran, other = (InstanceId("process", name) for name in ("a-1", "a-2"))
    following: FollowedLines = FollowedLines._create()
    for instance in (ran, other):
        following._put(InstanceLine(instance, LogLine(1, "stdout", 0.0, instance.name), "probe"))
    answer: Answer = Answer(result=None, instance=ran, execution_seconds=0.5)
    _, coded = await _log_tail(following, "r", answer, 0.5)
    lines = base64.b64decode(coded).decode().splitlines()
    assert lines[1:3] == ["a-1", "END RequestId: r"]
    assert lines[-1].endswith("500.00 ms")


# -- signatures --------------------------------------------------------------------------------------


def signed(
    url: str,
    path: str,
    body: bytes,
    *,
    secret: str = TOKEN,
    headers: dict[str, str] | None = None,
) -> dict[str, str]:
    """Return the headers of a request that the SDK has signed."""
    request = AWSRequest("POST", url + path, data=body, headers=headers or {})
    SigV4Auth(Credentials("any", secret), "lambda", "local").add_auth(request)
    host = url.partition("//")[2]
    return {**{name.lower(): value for name, value in request.headers.items()}, "host": host}


async def send(site: Site, path: str, body: bytes, headers: dict[str, str]) -> Reply:
    """Send a request with exactly these headers."""
    return await ask(site.gateway, "POST", path, headers=headers, body=body)


async def test_with_a_token_requests_are_signed_with_it() -> None:
    async with open_invoker(TOKEN) as (site, invoke):
        assert await invoke.result("echo", {"a": 1}) == {"a": 1}
        arn = "arn:aws:lambda:eu-west-1:123456789012:function:echo"
        assert await invoke.result(arn, 1, Qualifier="a b/c") == 1
        wrong = invoker(site.gateway.urls[0], "not-the-token-of-this-gateway")
        assert await wrong.fail("echo") == ("InvalidSignatureException", 403)
        reply = await send(site, INVOKE.format("echo"), b"1", {})
        assert reply.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"
        assert reply.status == 403
        reply = await send(site, INVOKE.format("echo"), b"1", KNOWN)
        assert (reply.status, reply.body) == (200, b"1")


async def test_a_signature_is_good_for_one_request_only() -> None:
    path = INVOKE.format("echo") + "?Qualifier=1&b=2"
    async with open_site(GatewaySettings(token=TOKEN)) as site:
        url = site.gateway.urls[0]
        good = signed(url, path, b"1", headers={"x-amz-invocation-type": "RequestResponse"})
        assert (await send(site, path, b"1", good)).status == 200
        changed = [
            (path, b"2", good),
            (path.replace("echo", "add"), b"1", good),
            (path.replace("b=2", "b=3"), b"1", good),
            (path, b"1", {**good, "x-amz-invocation-type": "Event"}),
            (path, b"1", {**good, "x-amz-client-context": "e30="}),
            (path, b"1", {**good, "host": "localhost"}),
            (path, b"1", {**good, "authorization": "AWS4-HMAC-SHA256 Credential=x"}),
            (path, b"1", {**good, "x-amz-date": "yesterday"}),
            (
                path,
                b"1",
                {**good, "authorization": good["authorization"].replace("=any/2", "=any/1")},
            ),
        ]
        for where, body, headers in changed:
            reply = await send(site, where, body, headers)
            assert reply.status == 403, (where, body, headers)
            assert reply.headers["x-amzn-errortype"].endswith("SignatureException")
        unsigned = {name: value for name, value in good.items() if name != "x-amz-date"}
        assert (await send(site, path, b"1", unsigned)).status == 403
        # A signature is valid for Invoke only: it opens no other path.
        other = "/v1/functions/echo/call"
        assert (await send(site, other, b"1", signed(url, other, b"1"))).status == 401


async def test_a_signature_is_good_for_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    path = INVOKE.format("echo")
    async with open_site(GatewaySettings(token=TOKEN)) as site:
        headers = signed(site.gateway.urls[0], path, b"1")
        now = time.time()
        for offset, status in ((290, 200), (-290, 200), (310, 403), (-310, 403)):
            monkeypatch.setattr("spear.gateway._signatures.time.time", lambda at=now + offset: at)
            assert (await send(site, path, b"1", headers)).status == status
