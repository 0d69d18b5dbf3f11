"""Maps, retries, options and submitted calls at a host."""

from __future__ import annotations

from functools import partial

import attrs
import pytest
import trio
from gateway.helpers import TOKEN, open_site, wait_until

import spear
from spear.channels import Metadata
from spear.gateway import GatewaySettings

from .helpers import open_connected, open_relay


@attrs.frozen
class Context:
    metadata: dict[str, object]
    key: str | None
    remaining: int


# -- many items -------------------------------------------------------------------------------


async def test_a_map_has_results_in_order_and_keeps_failures_with_their_items() -> None:
    async with open_connected(max_connections=4) as here:
        async with here.probe.add.map(range(30)) as results:
            assert [each async for each in results] == list(range(1, 31))
        async with here.probe.add.starmap([(1, 2), (3, 4)], limit=1) as results:
            assert [each async for each in results] == [3, 7]
        async with here.probe.add.options(keywords={"b": 10}).map([1, 2], ordered=False) as sums:
            assert sorted([each async for each in sums]) == [11, 12]  # type: ignore[type-var]  # numbers
        items = [1, "x", object()]
        async with here.probe.add.map(items, on_error="keep") as kept:
            one, two, three = [each async for each in kept]
        assert (one.result, one.error, one.attempts, str(one.instance)) == (
            2, None, 1, "memory:probe-1#1",
        )  # fmt: skip
        assert isinstance(two.error, spear.InvalidArguments)
        assert (two.attempts, three.attempts) == (1, 0)
        with pytest.raises(spear.FunctionRaised):
            await here.probe.boom.for_each(["a"])
        failed = await here.probe.boom.for_each(["a", "b"], on_error="keep")
        assert sorted(each.index for each in failed) == [0, 1]
        assert here.connections <= 4


async def test_a_map_of_a_full_host_waits() -> None:
    limits = spear.DeploymentSettings(concurrency=1, queue=1)
    async with (
        open_site(deployment=limits) as site,
        spear.connect(site.gateway.urls[0]) as host,
        host.find_function("count").options(returns=int).starmap([()] * 12) as results,
    ):
        assert sorted([each async for each in results]) == list(range(1, 13))


# -- retries ----------------------------------------------------------------------------------


async def test_the_client_makes_the_attempts_of_its_policy() -> None:
    async with open_connected() as here:
        policy = spear.RetryPolicy(
            max_attempts=3, initial_seconds=0, on=(KeyError,), idempotent=True
        )
        function = here.probe.boom.options(retry=policy)
        assert function.retry == policy
        with pytest.raises(spear.FunctionRaised):
            await function()
        statistics = here.site.spearlet.deployments["probe"].statistics().functions["boom"]
        assert statistics.failures["FunctionRaised"] == 3
        (failed,) = await function.for_each(["x"], on_error="keep")
        assert failed.attempts == 3
        with pytest.raises(spear.InvalidArguments):
            await function(timeout="soon")  # type: ignore[arg-type]  # what is wrong is the subject


async def test_a_policy_tries_again_when_the_host_was_not_reached() -> None:
    async with open_relay() as relay, spear.connect(relay.url) as host:
        policy = spear.RetryPolicy(max_attempts=2, initial_seconds=0, idempotent=True)
        add = host.find_function("count").options(retry=policy)
        relay.cut()
        assert await add() == 1
        plain = host.find_function("wait")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.cut_when, relay.site.probe.begun)
            relay.site.probe.release = trio.Event()
            with pytest.raises(spear.HostLost):
                await plain()


# -- options ----------------------------------------------------------------------------------


async def test_options_travel_in_headers() -> None:
    async with open_connected() as here:
        context = here.probe.context.options(returns=Context)
        metadata: Metadata = {
            "user": "Ada",
            "numbers": [1, 2.5],
            "ok": True,
            "none": None,
            "é": "ü",
        }
        told = await context.options(metadata=metadata, session="s", key="k")()
        assert {name: told.metadata[name] for name in metadata} == metadata
        assert "x-request-id" in told.metadata
        assert told.key == "k"
        assert (await context.options(key="k", metadata=metadata)()).key == "k"
        told = await context.options(queue_timeout=3, timeout=9)()
        assert 0 < told.remaining <= 9
        with pytest.raises(spear.ConfigurationError, match="detached_seconds"):
            await context.options(key="k", timeout=1e6)()


async def test_a_key_makes_calls_one() -> None:
    async with open_connected() as here:
        count = here.probe.count.options(key="once")
        assert [await count(), await count()] == [1, 1]
        with pytest.raises(spear.ConfigurationError, match="one"):
            async with count.map([1]):
                pytest.fail("a key makes all calls one")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "ü"}, "key must be printable ASCII"),
        ({"session": "a\nb"}, "session must be printable ASCII"),
        ({"metadata": {"data": b"\x00"}}, "metadata must be JSON"),
        ({"metadata": {"number": float("nan")}}, "metadata must be JSON"),
    ],
)
async def test_options_that_no_header_can_carry(options: dict[str, object], message: str) -> None:
    async with open_connected() as here:
        with pytest.raises(spear.InvalidArguments, match=message):
            here.probe.add.options(**options)  # type: ignore[call-overload]  # what is wrong is the subject


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({"caller": "me"}, "must not have 'caller'"), ({"a": "x" * 9000}, "at most 8192 bytes")],
)
async def test_metadata_that_the_host_refuses(metadata: dict[str, str], message: str) -> None:
    async with open_connected() as here:
        with pytest.raises(spear.ConfigurationError, match=message):
            await here.probe.add.options(metadata=metadata)(1)


async def test_functions_are_described() -> None:
    async with open_connected() as here:
        assert (
            await here.probe.add.signature()
            == "add(a: int, b: int = 1, *, timeout: int = 0) -> int"
        )
        described = await here.probe.descriptions()
        assert described["add"].summary == "Add numbers."
        assert "ticks" in here.probe.streams
        assert repr(here.probe.add).startswith("<Function add on http://")


# -- submitted calls --------------------------------------------------------------------------


async def test_a_submitted_call_is_the_hosts_and_its_result_comes() -> None:
    async with open_connected() as here:
        ended: list[str] = []
        execution = here.probe.add.bind(1, 2).submit(on_end=partial(ended.append, "add"))
        assert here.site.spearlet.executions.unfinished <= 1
        assert await execution == 3
        assert execution.status is spear.ExecutionStatus.COMPLETED
        assert str(execution.instance) == "memory:probe-1#1"
        assert execution.execution_seconds
        await wait_until(lambda: ended == ["add"])
        assert await here.site.spearlet.executions.get(execution.id) == 3
        again = await here.host.execution(execution.id)
        assert (await again, again.id) == (3, execution.id)
        with pytest.raises(spear.NotFound, match="no execution"):
            await here.host.execution("0" * 24)


async def test_submitted_calls_fail_as_calls_do() -> None:
    async with open_connected() as here:
        executions = [
            here.probe.boom.submit(), here.probe.add.submit(2), here.probe.wait.submit(timeout=0.05)
        ]  # fmt: skip
        found = {}
        async for each in spear.as_completed(executions):
            found[each.function] = each.status
            if each.function != "add":
                with pytest.raises(spear.CallFailed):
                    await each
        status = spear.ExecutionStatus
        assert found == {"boom": status.FAILED, "add": status.COMPLETED, "wait": status.TIMEOUT}
        with pytest.raises(spear.Rejected):
            here.probe.ticks.submit(1)
        retry = spear.RetryPolicy(idempotent=True)
        with pytest.raises(spear.ConfigurationError, match="idempotent=True"):
            here.probe.add.options(retry=retry).submit(1)
        assert await here.probe.add.options(retry=spear.RetryPolicy()).submit(1) == 2
        with pytest.raises(spear.ConfigurationError, match="on_progress"):
            here.probe.add.options(on_progress=print).submit(1)


async def test_a_cancelled_submitted_call_is_cancelled_at_the_host() -> None:
    async with open_connected() as here:
        execution = here.probe.wait.submit()
        await here.site.probe.begun.wait()
        execution.cancel()
        with pytest.raises(spear.CallCancelled):
            await execution
        await here.site.probe.cancelled.wait()
        assert execution.status is spear.ExecutionStatus.CANCELLED


async def test_a_submitted_call_goes_on_without_its_client() -> None:
    async with open_connected() as here:
        async with spear.connect(here.site.gateway.urls[0]) as host:
            execution = host.find_function("wait").submit()
            await here.site.probe.begun.wait()
            assert execution.status is not spear.ExecutionStatus.COMPLETED
        with pytest.raises(spear.CallCancelled, match="goes on there"):
            await execution
        with pytest.raises(spear.NoHost, match="its block has ended"):
            host.find_function("add").submit(1)
        later = await here.host.execution(execution.id)
        here.site.probe.release.set()
        assert await later == "released"
        assert not here.site.probe.cancelled.is_set()


async def test_a_lost_connection_loses_no_submitted_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spear.remote._submitted.LOST_SECONDS", 0)
    async with open_relay() as relay, spear.connect(relay.url) as host:
        execution = host.find_function("wait").submit()
        await relay.site.probe.begun.wait()
        relay.cut()
        relay.site.probe.release.set()
        assert await execution == "released"


async def test_a_submission_with_a_known_id_is_the_same_call() -> None:
    async with open_connected() as here:
        bound, own = here.probe.count.bind(), "0123456789abcdef01234567"
        first, second = bound.submit(execution_id=own), bound.submit(execution_id=own)
        assert [await first, await second] == [1, 1]
        with pytest.raises(spear.Rejected, match="of another function"):
            await here.probe.add.bind(1).submit(execution_id=own)
        with pytest.raises(spear.ConfigurationError, match="24 to 64"):
            await bound.submit(execution_id="short")


async def test_waiting_executions_leave_connections_for_other_calls() -> None:
    async with open_connected(max_connections=2) as here:
        executions = [here.probe.wait.submit() for _ in range(4)]
        assert await here.probe.add(1) == 2
        here.site.probe.release.set()
        assert [await each for each in executions] == ["released"] * 4


# -- operating --------------------------------------------------------------------------------


async def test_an_operator_looks_at_a_host_and_changes_it() -> None:
    async with open_connected(is_local=True) as here:
        status = await here.host.status()
        assert (status["name"], status["state"]) == ("default", "running")
        described = await here.probe.status()
        assert (described["name"], described["state"]) == ("probe", "ready")
        await here.probe.scale(2)
        assert len(here.site.spearlet.deployments["probe"].replicas) == 2
        await here.probe.scale(spear.Scale(min=1, max=3))
        assert here.site.spearlet.deployments["probe"].settings.replicas.max == 3
        await here.probe.restart()
        with pytest.raises(spear.SpearError):
            await here.probe.scale(-1)
        with pytest.raises(spear.ConfigurationError, match="a number or a Scale"):
            await here.probe.scale(b"many")  # type: ignore[arg-type]  # what is wrong is the subject
        await here.probe.stop()
        with pytest.raises(spear.NotFound):
            await here.probe.add(1)
        with pytest.raises(spear.NotFound):
            await here.probe.start()
        with pytest.raises(spear.NotFound):
            await here.probe.descriptions()


async def test_a_host_is_drained() -> None:
    async with open_connected(is_local=True) as here:
        with pytest.raises(spear.ConfigurationError):
            await here.host.drain(-1)
        await here.host.drain()
        await here.host.drain(5)


async def test_only_operators_change_a_host() -> None:
    async with open_connected() as here:
        with pytest.raises(
            spear.ConfigurationError, match="needs the control socket, a token"
        ) as caught:
            await here.probe.restart()
        assert caught.value.code == "forbidden"
    async with open_connected(token=TOKEN, settings=GatewaySettings()) as here:
        await here.probe.restart()
