"""``GET /metrics``: what it exports, in which formats, to whom, and at which cost."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio
from prometheus_client.openmetrics import parser as strict_parser
from prometheus_client.parser import text_string_to_metric_families as parse_plain

import spear
from spear.gateway import GatewaySettings, open_gateway
from spear.runtimes import MemorySettings

from .helpers import KNOWN, TOKEN, ask, call, closing_clients, connect, open_site, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from spear.gateway import Gateway

    Samples = dict[tuple[str, tuple[str, ...]], float]

OPENMETRICS: Final = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
"""The header of Prometheus, in short."""

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "operating.md"
ROW: Final = re.compile(r"^\| `((?:spear|process)_\w+)` \| (\w+) \|(.*?)\| .+ \|$", re.MULTILINE)


async def scrape(gateway: Gateway) -> list[Metric]:
    """Return the families of a gateway, parsed strictly."""
    reply = await ask(gateway, "GET", "/metrics", headers=OPENMETRICS)
    assert reply.status == 200
    return list(parse_openmetrics(reply.body.decode()))


def parse_openmetrics(text: str) -> Iterable[Metric]:
    """Yield the families in a text; raises ValueError for any deviation from OpenMetrics."""
    families: Iterable[Metric] = strict_parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]  # it has no annotations
    return families


def samples_of(families: Iterable[Metric]) -> Samples:
    """Return all samples, by name and the values of the labels in the order of the labels' names."""
    found: Samples = {}
    for family in families:
        for each in family.samples:
            key = (each.name, tuple(value for _, value in sorted(each.labels.items())))
            assert key not in found
            found[key] = each.value
    return found


async def test_calls_are_counted_by_outcome_with_their_durations() -> None:
    async with open_site() as site:
        for number in range(3):
            await call(site.gateway, "add", {"a": number})
        await call(site.gateway, "boom")
        await call(site.gateway, "add", {"b": 1})
        shown = samples_of(await scrape(site.gateway))
    assert shown["spear_calls_total", ("probe", "add", "ok")] == 3
    assert shown["spear_calls_total", ("probe", "add", "InvalidArguments")] == 1
    assert shown["spear_calls_total", ("probe", "boom", "FunctionRaised")] == 1
    assert shown["spear_calls_total", ("probe", "boom", "ok")] == 0
    assert shown["spear_calls_total", ("probe", "echo", "Overloaded")] == 0  # never called
    assert shown["spear_call_duration_seconds_count", ("probe", "add")] == 3
    assert shown["spear_call_duration_seconds_sum", ("probe", "add")] > 0
    assert shown["spear_call_duration_seconds_bucket", ("probe", "add", "+Inf")] == 3
    assert shown["spear_replicas", ("probe", "ready")] == 1
    assert shown["spear_deployment_state", ("probe", "ready")] == 1
    assert shown["spear_deployment_state", ("probe", "degraded")] == 0
    assert shown["spear_replica_start_duration_seconds_count", ("probe",)] == 1
    assert shown["spear_queue_limit", ("probe",)] == 1000
    assert shown["spear_http_requests_total", ("200",)] == 3
    assert shown["spear_http_requests_total", ("500",)] == 1
    assert shown["spear_build_info", ("default", _python_version(), spear.__version__)] == 1


def _python_version() -> str:
    return ".".join(map(str, sys.version_info[:3]))


async def test_a_durations_bucket_is_the_one_that_holds_it() -> None:
    async with open_site() as site:
        await call(site.gateway, "count")
        (family,) = [
            each
            for each in await scrape(site.gateway)
            if each.name == "spear_call_duration_seconds"
        ]
    buckets = {
        float(each.labels["le"]): each.value
        for each in family.samples
        if each.name.endswith("_bucket") and each.labels["function"] == "count"
    }
    (took,) = [
        each.value
        for each in family.samples
        if each.name.endswith("_sum") and each.labels["function"] == "count"
    ]
    assert len(buckets) == 21
    assert all(value == (end >= took) for end, value in buckets.items())


async def test_a_call_that_runs_and_one_that_waits_are_gauges() -> None:
    settings = spear.DeploymentSettings(concurrency=1)
    async with open_site(deployment=settings) as site, trio.open_nursery() as nursery:
        nursery.start_soon(call, site.gateway, "wait")
        await site.probe.begun.wait()
        nursery.start_soon(call, site.gateway, "count")
        probe = site.spearlet.deployments["probe"]
        await wait_until(lambda: probe.statistics().waiting == 1)
        shown = samples_of(await scrape(site.gateway))
        site.probe.release.set()
    assert shown["spear_calls_in_flight", ("probe",)] == 1
    assert shown["spear_queue_length", ("probe",)] == 1
    assert shown["spear_replica_calls_in_flight", ("probe", "probe-1")] == 1
    assert shown["spear_http_connections", ()] == 3


async def test_what_is_exported_is_what_the_document_lists() -> None:
    """Names, types and labels in the table of docs/operating.md are those of a host."""
    listed = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in ROW.findall(DOCUMENT.read_text("utf-8"))
    }
    async with open_site(GatewaySettings(max_new_connections=1)) as site:
        crowded_out = await connect(site.gateway)
        await call(site.gateway, "count")
        assert await crowded_out.stream.receive_some() == b""
        families = await scrape(site.gateway)
    endings = {"counter": "_total", "info": "_info"}
    exported = {each.name + endings.get(each.type, ""): each.type for each in families}
    assert exported == {name: kind for name, (kind, _) in listed.items()}
    for each in families:
        _, labels = listed[each.name + endings.get(each.type, "")]
        unit = each.name.rpartition("_")[2]
        assert each.unit == (unit if unit in ("seconds", "bytes") else "") or "process" in each.name
        assert each.documentation
        assert all(sample.labels.keys() - {"le"} == labels for sample in each.samples)
    # Agents in the host's process have no figures of processes, and none was refused.
    empty = {each.name for each in families if not each.samples}
    assert empty == {
        "spear_connections_refused", "spear_replica_cpu_seconds", "spear_replica_open_fds",
        "spear_replica_resident_memory_bytes", "spear_replica_threads",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
                "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.2"
            ),
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;q=0, */*",
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (None, "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
async def test_the_client_chooses_the_format(accept: str | None, kind: str) -> None:
    async with open_site() as site:
        await call(site.gateway, "count")
        headers = {} if accept is None else {"accept": accept}
        reply = await ask(site.gateway, "GET", "/metrics", headers=headers)
        parse = parse_openmetrics if "openmetrics" in kind else parse_plain
        shown = samples_of(parse(reply.body.decode()))
        assert reply.headers["content-type"] == kind
        assert shown["spear_calls_total", ("probe", "count", "ok")] == 1
        assert reply.body.endswith(b"# EOF\n") == ("openmetrics" in kind)
        # The head of the response is the same without its body.
        head = await ask(site.gateway, "HEAD", "/metrics", headers=headers)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-type"] == kind


async def test_who_may_see_the_other_statistics_may_scrape(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    settings = GatewaySettings(token=TOKEN, control_socket=path)
    async with open_site(settings) as site:
        assert (await ask(site.gateway, "GET", "/metrics")).status == 401
        assert (await ask(site.gateway, "GET", "/metrics", headers=KNOWN)).status == 200
        assert (await ask(site.gateway, "GET", "/metrics", host="evil.example")).status == 403
        assert (await ask(site.gateway, "POST", "/metrics", headers=KNOWN)).status == 405
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert b"200 OK" in await stream.receive_some()
        await stream.aclose()


async def test_without_the_library_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    async with open_site() as site:
        reply = await ask(site.gateway, "GET", "/metrics")
    assert reply.status == 501
    assert reply.error["code"] == "not_installed"
    message = reply.error["message"]
    assert isinstance(message, str)
    assert "install the extra spearlet[metrics]" in message
    assert "\n" not in message


# -- labels -----------------------------------------------------------------------------------------


async def test_no_text_of_a_caller_becomes_a_label() -> None:
    async with open_site() as site:
        for path in ("nothing", "spear.describe", 'x"}\n', "probe.missing"):
            await call(site.gateway, path.replace("\n", "%0A").replace('"', "%22"))
        await ask(site.gateway, "GET", "/v1/functions")  # requests the descriptions
        names = site.spearlet.deployments["probe"].functions
        shown = samples_of(await scrape(site.gateway))
    functions = {labels[1] for name, labels in shown if name == "spear_calls_total"}
    assert functions == set(names)


@pytest.mark.slow
async def test_functions_beyond_the_limit_are_counted_together() -> None:
    async def echo(value: int = 0) -> int:
        return value

    agent = spear.Agent("many")
    for number in range(203):
        agent.function(name=f"f{number}")(echo)
    async with closing_clients(), spear.open_spearlet() as spearlet:
        many = await spearlet.deploy(MemorySettings(agent=agent, shares_process=True))
        async with open_gateway(spearlet, GatewaySettings(port=0)) as gateway:
            for number in (0, 199, 200, 202):
                await many.function(f"f{number}")(1)
            reply = await ask(gateway, "GET", "/metrics")
            shown = samples_of(parse_plain(reply.body.decode()))
    functions = {labels[1] for name, labels in shown if name == "spear_calls_total"}
    assert len(functions) == 201
    assert shown["spear_calls_total", ("many", "f199", "ok")] == 1
    assert shown["spear_calls_total", ("many", "other", "ok")] == 2
    assert shown["spear_call_duration_seconds_count", ("many", "other")] == 2
    assert "f200" not in functions


async def test_of_a_name_with_two_instances_the_new_one_is_shown() -> None:
    async with open_site() as site, trio.open_nursery() as nursery:
        probe = site.spearlet.deployments["probe"]
        nursery.start_soon(call, site.gateway, "wait")
        await site.probe.begun.wait()
        nursery.start_soon(probe.restart)
        await wait_until(lambda: len(probe.replicas) == 1 and len(probe.instances) == 2)
        shown = samples_of(await scrape(site.gateway))
        site.probe.release.set()
    assert shown["spear_replicas", ("probe", "ready")] == 1
    assert shown["spear_replicas", ("probe", "draining")] == 1
    assert shown["spear_calls_in_flight", ("probe",)] == 1
    assert shown["spear_replica_calls_in_flight", ("probe", "probe-1")] == 0


async def test_an_exception_of_the_hosts_program_is_another_outcome() -> None:
    async with open_site() as site:
        ticks = site.spearlet.find_function("ticks")
        with pytest.raises(ZeroDivisionError):
            async with ticks.stream(1):
                raise ZeroDivisionError
        shown = samples_of(await scrape(site.gateway))
    assert shown["spear_calls_total", ("probe", "ticks", "other")] == 1
