"""Calls of a host's functions from another program: values, errors, deadlines, cancellation."""

from __future__ import annotations

import datetime
from decimal import Decimal
from math import inf, nan
from uuid import UUID

import attrs
import numpy
import pytest
import trio
from gateway.helpers import TOKEN, wait_until
from numpy.typing import NDArray

import spear
from spear.gateway import GatewaySettings

from .helpers import open_connected, open_relay, open_server


@attrs.frozen
class Money:
    cents: int
    currency: str


@pytest.mark.parametrize("is_local", [True, False])
async def test_a_function_is_called_as_in_the_same_process(is_local: bool) -> None:
    async with open_connected(is_local=is_local) as here:
        assert await here.probe.add(1, b=2) == 3
        assert await here.probe.add(1) == 2
        assert await here.probe.function("add")(1, 2) == 3
        assert await here.host.find_function("add")(1, 2) == 3
        assert await here.host.find_function("probe.add").call(a=1, b=1) == 2
        answer = await here.probe.add.ask(1)
        assert (answer.result, str(answer.instance)) == (2, "memory:probe-1#1")
        assert answer.execution_seconds > 0
        assert "probe" in repr(here.host.deployments)


@attrs.frozen
class Context:
    metadata: dict[str, object]
    key: str | None
    remaining: int


VALUES = [
    None, True, 2**70, -1.5, inf, "tea", b"\x00\xff", [1, [2]], {"a": {"b": b"c"}}, {1: "one"},
    {1, 2}, frozenset("ab"), datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC),
    datetime.date(2026, 1, 31), datetime.timedelta(seconds=1.5), Decimal("1.50"), UUID(int=7), 1j,
]  # fmt: skip


async def test_values_of_all_types_survive_both_ways() -> None:
    async with open_connected() as here:
        for value in VALUES:
            found = await here.probe.echo(value)
            assert (found, type(found)) == (value, type(value))
            nested = await here.probe.echo(value=[value])
            assert isinstance(nested, list)
            assert (nested, type(nested[0])) == ([value], type(value))
        found = await here.probe.echo(nan)
        assert found != found


async def test_arrays_and_large_bytes_survive_both_ways() -> None:
    async with open_connected() as here:
        numbers: NDArray[numpy.float32] = numpy.arange(90_000, dtype="float32").reshape(3, -1)
        found = await here.probe.echo(numbers)
        assert isinstance(found, spear.Array)
        assert (numpy.asarray(found) == numbers).all()
        large = bytes(range(256)) * 4_000
        assert await here.probe.twice(large) == large + large
        assert await here.probe.shared(large) == large


async def test_the_option_returns_makes_objects() -> None:
    async with open_connected() as here:
        function = here.probe.echo.options(returns=Money)
        assert await function({"cents": 350, "currency": "EUR"}) == Money(350, "EUR")
        with pytest.raises(spear.UnexpectedResult):
            await function({"cents": "many"})


async def test_arguments_that_cannot_be_sent_are_named() -> None:
    async with open_connected() as here:
        with pytest.raises(spear.InvalidArguments) as caught:
            await here.probe.echo([object()])
        assert caught.value.code == "argument_not_sendable"
        with pytest.raises(spear.InvalidArguments, match="value"):
            await here.probe.echo(value={1, object()})
        with pytest.raises(spear.InvalidArguments, match="text"):
            await here.probe.echo(value="\ud800")


# -- errors -----------------------------------------------------------------------------------


async def test_failures_have_the_attributes_that_they_have_in_the_same_process() -> None:
    async with open_connected() as here:
        local = here.site.spearlet.deployments["probe"]
        for name, arguments in (
            ("boom", ()), ("overloaded", ()), ("add", ("x",)), ("add", ()), ("add", (1, 2, 3)),
            ("ticks", (1,)),
        ):  # fmt: skip
            failures = []
            for deployment in (local, here.probe):
                with pytest.raises(spear.SpearError) as caught:
                    await deployment.function(name)(*arguments)
                failures.append(caught.value)
            ours, theirs = failures
            assert (type(ours), str(ours)) == (type(theirs), str(theirs))
            if isinstance(theirs, spear.InvalidArguments):
                assert theirs.usage == "add(a: int, b: int = 1, *, timeout: int = 0) -> int"
            known_here = {"code", "delivered", "summary", *vars(ours), *vars(theirs)} - {"usage"}
            for attribute in known_here:
                assert getattr(ours, attribute) == getattr(theirs, attribute), (name, attribute)


async def test_a_missing_function_or_deployment_is_named() -> None:
    async with open_connected() as here:
        with pytest.raises(AttributeError, match="did you mean 'echo'"):
            await here.probe.ecko()
        with pytest.raises(spear.NotFound, match=r"did you mean 'probe'.*deployments: probe"):
            await here.host.deployment("prob")
        with pytest.raises(spear.NotFound, match="did you mean 'echo'"):
            here.host.find_function("ecko")
        with pytest.raises(AttributeError):
            here.probe._echo  # noqa: B018
        assert {"echo", "functions"} <= set(dir(here.probe))


async def test_a_host_wants_its_token() -> None:
    async with open_connected(token=TOKEN) as here:
        assert await here.probe.add(1) == 2
        assert TOKEN not in repr(here.host) + repr(here.probe) + repr(here.probe.add)
        for token in (None, "another-token-0123456"):
            with pytest.raises(spear.AuthenticationFailed, match="pass the host's token") as caught:
                async with spear.connect(here.site.gateway.urls[0], token=token):
                    pytest.fail("the host let us in")
            assert caught.value.code == "unauthorized"


async def test_what_is_no_host_is_said_to_be_none() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
    for answer, message in (
        (b"SSH-2.0-OpenSSH\r\n", "did not respond in HTTP"),
        (b"", "closed the connection before it responded; if it uses TLS, use https://"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "with status 404, and not as a"),
        (ok + b"\r\nhi", "is not a Spear host"),
        (ok + b"Content-Type: application/json\r\n\r\n[]", "is not a Spear host"),
        (ok + b"Content-Type: application/json\r\n\r\n{}", "is not a Spear host"),
        (ok + b"Content-Type: application/cbor\r\n\r\n\xff\xff", "is not a Spear host"),
    ):
        async with open_server(answer) as url:
            with pytest.raises(spear.NoHost, match=message) as caught:
                async with spear.connect(url):
                    pytest.fail("this is no host")
            assert caught.value.delivered == "no"


async def test_where_nothing_listens_there_is_no_host(tmp_path: object) -> None:
    async with open_server() as url:
        pass
    for address in (url, f"{tmp_path}/none.sock"):
        with pytest.raises(spear.NoHost, match="start it with `spear serve`"):
            async with spear.connect(address):
                pytest.fail("nothing listens there")
    with pytest.raises(spear.NoHost, match="named 'nobody'"):
        async with spear.connect("nobody"):
            pytest.fail("nothing has this name")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "ftp://localhost"}, "use http://HOST:PORT"),
        ({"address": "http://"}, "use http://HOST:PORT"),
        ({"address": "http://localhost:port"}, "use http://HOST:PORT"),
        ({"address": "http://ada@localhost"}, "use http://HOST:PORT"),
        ({"address": 8080}, "must be text"),
        ({"address": b"/tmp/s"}, "must be text"),
        ({"address": "/tmp/s", "token": TOKEN}, "a control socket needs neither"),
        ({"address": "http://localhost", "token": "with space"}, "printable ASCII"),
        ({"address": "http://localhost", "max_connections": 0}, "max_connections"),
    ],
)
async def test_arguments_of_connect_that_cannot_be_used(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises((spear.ConfigurationError, TypeError), match=message):
        async with spear.connect(**arguments):  # type: ignore[arg-type]  # what is wrong is the subject
            pytest.fail("connected")


# -- deadlines and cancellation ---------------------------------------------------------------


async def test_a_timeout_travels_to_the_function() -> None:
    async with open_connected() as here:
        context = here.probe.context.options(returns=Context)
        assert 0 < (await context(timeout=20)).remaining <= 20
        assert 20 < (await context(timeout=40)).remaining <= 40
        with trio.fail_after(30):
            assert 0 < (await context()).remaining <= 30
        with pytest.raises(spear.FunctionRaised, match="cannot convert float infinity"):
            await context.options(timeout=inf)()  # the function rounds what remains
        assert here.probe.context.timeout == 60
        with pytest.raises(spear.InvalidArguments):
            await here.probe.context(timeout="soon")  # type: ignore[arg-type]  # what is wrong is the subject


async def test_a_call_ends_at_its_deadline_and_so_does_the_function() -> None:
    async with open_connected() as here:
        with pytest.raises(spear.DeadlineExceeded) as caught:
            await here.probe.wait(timeout=0.05)
        assert caught.value.delivered == "maybe"
        await here.site.probe.cancelled.wait()
        with pytest.raises(spear.DeadlineExceeded) as caught:
            await here.probe.wait(timeout=0)
        assert caught.value.delivered == "no"


async def test_a_host_that_does_not_answer_is_waited_for_until_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spear.remote._calls.REPLY_SECONDS", 0.01)
    listed = b'{"functions": [{"name": "f", "deployment": "d", "kind": "function"}]}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    silent = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while b"/call" not in data:
                data = await stream.receive_some(65536)
                if b"/call" not in data:
                    await stream.send_all(answer % (len(listed), listed))
            silent.set()
            assert not await stream.receive_some(65536)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        async with spear.connect(f"http://localhost:{port}") as host:
            with pytest.raises(spear.DeadlineExceeded) as caught:
                await host.find_function("f")(timeout=0.01)
            assert silent.is_set()
            assert caught.value.delivered == "maybe"
        nursery.cancel_scope.cancel()


async def test_a_cancelled_call_cancels_the_function() -> None:
    async with open_connected() as here:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.probe.wait)
            await here.site.probe.begun.wait()
            nursery.cancel_scope.cancel()
        await here.site.probe.cancelled.wait()
        assert await here.probe.add(1) == 2


# -- connections ------------------------------------------------------------------------------


async def test_calls_share_connections_one_after_the_other() -> None:
    async with open_connected() as here:
        for number in range(5):
            assert await here.probe.add(number) == number + 1
        assert here.connections == 1
        with pytest.raises(spear.FunctionRaised):
            await here.probe.boom()
        assert await here.probe.add(1) == 2
        assert here.connections == 1


async def test_further_calls_wait_for_a_connection() -> None:
    async with open_connected(max_connections=2) as here:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.probe.wait)
            results: list[object] = []

            async def add(number: int) -> None:
                results.append(await here.probe.add(number))

            for number in range(4):
                nursery.start_soon(add, number)
            await wait_until(lambda: len(results) == 4)
            here.site.probe.release.set()
        assert here.connections == 2


async def test_a_call_that_gets_no_connection_in_time_has_not_run() -> None:
    async with open_connected(max_connections=1) as here:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.probe.wait)
            await here.site.probe.begun.wait()
            with trio.move_on_after(0.01) as scope:
                await here.probe.count()
            assert scope.cancelled_caught
            here.site.probe.release.set()
        assert await here.probe.count() == 1


async def test_a_connection_that_the_host_has_closed_is_replaced() -> None:
    async with open_connected(settings=GatewaySettings(idle_seconds=0.05)) as here:
        assert await here.probe.count() == 1
        await wait_until(lambda: here.connections == 0)
        assert await here.probe.count() == 2


async def test_a_lost_connection_says_whether_the_function_may_have_run() -> None:
    async with open_relay() as relay, spear.connect(relay.url) as host:
        wait = host.find_function("wait")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.cut_when, relay.site.probe.begun)
            with pytest.raises(spear.HostLost, match="may have been carried out") as caught:
                await wait()
            assert (caught.value.delivered, caught.value.code) == ("maybe", "host_lost")


async def test_outside_of_its_block_a_function_has_no_connection() -> None:
    async with open_connected() as here:
        async with spear.connect(here.site.gateway.urls[0]) as host:
            function = host.find_function("add")
        with pytest.raises(spear.NoHost, match="its block has ended"):
            await function(1)
