"""Failures that a host reports, and connections that end at every point of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

import spear
from spear import _error_objects

from .helpers import CUT, open_answers, open_connected, response

if TYPE_CHECKING:
    from collections.abc import Mapping

ERRORS = [
    spear.FunctionRaised("no", type_name="A", base_names=("B",), remote_code="c", remote_traceback="t"),
    spear.InvalidArguments("no", parameter="a", expected="int", got="str", code="argument_type"),
    spear.UnexpectedResult("no", path=".a", expected="int", got="str"),
    spear.Overloaded("no", retry_after_seconds=2.5, code="queue_full"),
    spear.Overloaded("no", delivered="yes"),
    spear.WorkerDied("no", exit_status=-9, stderr_tail="last words", delivered="no"),
    spear.WorkerDied("no", code="stopped"),
    spear.SpawnFailed("no", stderr_tail="last words"),
    spear.ConfigurationError("no", key="queue"),
    spear.DeadlineExceeded("no", code="stalled", delivered="yes"),
    *(
        each("no")
        for each in (
            spear.CallCancelled, spear.CallFailed, spear.ChannelBroken, spear.ChannelClosed,
            spear.HostLost, spear.NoHost, spear.NotFound, spear.Rejected, spear.RemoteProtocolError,
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_errors_of_all_classes_come_back_as_they_were(error: spear.SpearError) -> None:
    error.add_note("not tried again")
    told = {"error": _error_objects.error_object(error, tell_all=True)}
    async with open_answers(response(500, told)) as url, spear.connect(url) as host:
        with pytest.raises(type(error)) as caught:
            await host.find_function("f")()
    ours = caught.value
    assert str(ours) == str(error)
    for attribute in {"code", "delivered", "summary", "__notes__", *vars(error)}:
        assert getattr(ours, attribute) == getattr(error, attribute), attribute


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        ({"kind": "HeadTooLarge"}, spear.InvalidArguments, "shorten metadata"),
        ({"kind": "TooLarge", "message": "32 MiB"}, spear.InvalidArguments, "32 MiB"),
        ({"kind": "BadRequest", "message": "odd"}, spear.ConfigurationError, "odd"),
        ({"kind": "Busy", "code": "busy"}, spear.Overloaded, "None"),
        ({"kind": "GoingAway", "delivered": "yes"}, spear.Rejected, "None"),
        ({"kind": "Odd"}, spear.CallFailed, "without a message"),
        ("odd", spear.NoHost, "with status 503, and not as a Spear host"),
    ],
)
async def test_errors_of_the_gateway_have_classes_of_calls(
    told: Mapping[str, object], error: type[spear.SpearError], message: str
) -> None:
    answer = response(503, {"error": told}, "Retry-After: 7")
    async with open_answers(answer) as url, spear.connect(url) as host:
        with pytest.raises(error, match=message) as caught:
            await host.find_function("f")()
    if isinstance(caught.value, spear.Overloaded):
        assert (caught.value.retry_after_seconds, caught.value.delivered) == (7, "no")
    if type(caught.value) is spear.Rejected:
        assert (caught.value.code, caught.value.delivered) == ("draining", "yes")


# -- connections that end ---------------------------------------------------------------------


async def test_a_call_on_a_connection_that_ends_is_not_made_twice() -> None:
    async with open_answers(b"", b"", response(200, 1)) as url, spear.connect(url) as host:
        function = host.find_function("f")
        with pytest.raises(spear.HostLost, match="may have been carried out") as caught:
            await function()
        assert caught.value.delivered == "maybe"
        policy = spear.RetryPolicy(initial_seconds=0, idempotent=True)
        assert await function.options(retry=policy)() == 1


async def test_a_request_that_was_not_sent_whole_has_not_run() -> None:
    async with open_answers(b"", b"") as url, spear.connect(url) as host:
        with pytest.raises(spear.NoHost, match="before it responded") as caught:
            await host.find_function("f")(bytes(32 << 20))  # the server closes after a part of it
        assert caught.value.delivered == "no"


async def test_a_call_with_a_key_is_repeated_on_another_connection() -> None:
    async with open_answers(b"", response(200, 1)) as url, spear.connect(url) as host:
        assert await host.find_function("f").options(key="k")() == 1
    async with open_answers(b"", b"") as url, spear.connect(url) as host:
        with pytest.raises(spear.NoHost, match="before it responded"):
            await host.find_function("f").options(key="k")()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/cbor\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nodd\r\n",
    ],
)
async def test_a_response_that_is_cut_off_is_no_result(answer: bytes) -> None:
    async with open_answers(CUT + answer) as url, spear.connect(url) as host:
        with pytest.raises(spear.HostLost, match="in the middle of its response"):
            await host.find_function("f")()


async def test_a_response_that_is_too_large_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_answers(response(200, "x" * 300)) as url, spear.connect(url) as host:
        monkeypatch.setattr("spear.remote._client.MAX_RESPONSE_BYTES", 256)
        with pytest.raises(spear.HostLost, match="more than 256 bytes"):
            await host.find_function("f")()


async def test_informational_responses_are_skipped() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    async with open_answers(early + response(200, 1)) as url, spear.connect(url) as host:
        assert await host.find_function("f")() == 1


async def test_a_result_in_another_form_is_refused() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"
    async with open_answers(answer) as url, spear.connect(url) as host:
        with pytest.raises(spear.RemoteProtocolError, match="has sent no result, but 'text/html'"):
            await host.find_function("f")()


async def test_details_in_headers_may_be_odd() -> None:
    odd = response(200, 1, "Spear-Instance: odd", "Spear-Duration-Ms: odd", "Connection: close")
    async with open_answers(odd, response(200, 2)) as url, spear.connect(url) as host:
        answer = await host.find_function("f").ask()
        assert (answer.result, answer.instance, answer.execution_seconds) == (1, None, 0)
        assert await host.find_function("f")() == 2


async def test_what_a_host_lists_is_read_with_care() -> None:
    async with open_answers() as url, spear.connect(url) as host:
        f, g = host.find_function("f"), host.find_function("g")
        assert (f.timeout, g.timeout) == (30, 60)
        assert (f.retry, g.retry) == (spear.RetryPolicy(max_attempts=2), None)
        assert await f.signature() == "f()"
        with pytest.raises(spear.NotFound):
            await g.signature()


async def test_a_name_in_several_deployments_is_ambiguous() -> None:
    async with open_connected() as here:
        agent = spear.Agent("other")
        agent.function(here.site.probe.add)
        await here.site.spearlet.deploy(agent)
        await here.host.refresh()
        with pytest.raises(spear.NotFound, match=r"use one of probe\.add, other\.add") as caught:
            here.host.find_function("add")
        assert caught.value.code == "ambiguous_name"
        assert await here.host.find_function("other.add")(1) == 2


async def test_a_body_that_the_host_refuses_early_has_its_reason() -> None:
    async with open_connected() as here:
        with pytest.raises(spear.InvalidArguments, match="max_body_bytes") as caught:
            await here.probe.twice(bytes(33 << 20))
        assert (caught.value.code, caught.value.delivered) == ("body_too_large", "no")
        assert await here.probe.add(1) == 2


async def test_a_host_that_does_not_answer_a_question_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spear.remote._client.HostClient.get.__kwdefaults__", {"seconds": 0.05})
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(spear.DeadlineExceeded, match=r"did not respond within 0\.05 s"):
            async with spear.connect(f"http://127.0.0.1:{listener.getsockname()[1]}"):
                pytest.fail("connected")


# -- submitted calls --------------------------------------------------------------------------


async def test_a_client_asks_again_for_a_result_after_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spear.remote._submitted.LOST_SECONDS", 0)
    running = response(202, {"status": "running", "instance": "memory:d-1#1"})
    odd = b"HTTP/1.1 202 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"
    answers = (response(202, {}), b"", b"", running, odd, response(200, 7))
    async with open_answers(*answers) as url, spear.connect(url) as host:
        execution = host.find_function("f").submit()
        assert await execution == 7
        assert str(execution.instance) == "memory:d-1#1"


async def test_a_client_gives_up_after_many_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spear.remote._submitted.LOST_SECONDS", 0)
    monkeypatch.setattr("spear.remote._submitted.MOST_LOSSES", 2)
    async with open_answers(response(202, {}), b"", b"", b"") as url, spear.connect(url) as host:
        with pytest.raises(spear.NoHost):
            await host.find_function("f").submit()


async def test_failures_that_nobody_asks_for_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    failed = response(500, {"error": {"kind": "NotFound", "message": "gone", "code": "not_found"}})
    async with open_answers(failed) as url, spear.connect(url) as host:
        ended = trio.Event()
        host.find_function("f").bind().submit(on_end=ended.set)
        await ended.wait()
    assert "and its result was never requested" in caplog.text
