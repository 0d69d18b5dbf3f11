"""The lines of all deployments of a host together."""

from __future__ import annotations

from spear import InstanceId, open_spearlet
from spear.telemetry import LogLine

from .helpers import Probe


def line(time: float, text: str) -> LogLine:
    return LogLine(number=1, stream="stdout", time=time, text=text)


async def test_lines_of_all_deployments_come_in_the_order_of_their_times() -> None:
    async with open_spearlet() as spearlet:
        tea, coffee = [await spearlet.deploy(Probe(name).agent) for name in ("tea", "coffee")]
        for time, deployment in enumerate((tea, coffee, coffee, tea)):
            place = InstanceId("memory", f"{deployment.name}-1", 1)
            deployment._feed.put(place, line(float(time), f"{deployment.name} {time}"))
        texts = [each.line.text for each in spearlet.logs()]
        assert texts == ["tea 0", "coffee 1", "coffee 2", "tea 3"]
        assert [each.deployment for each in spearlet.logs(2)] == ["coffee", "tea"]
        assert spearlet.logs(0) == ()


async def test_a_follower_of_all_lines_stays_through_the_stop_of_a_deployment() -> None:
    async with open_spearlet() as spearlet:
        tea = await spearlet.deploy(Probe("tea").agent)
        async with spearlet.follow_logs() as lines:
            tea._feed.put(InstanceId("memory", "tea-1", 1), line(1.0, "before"))
            await tea.stop()
            tea = await spearlet.deploy(Probe("tea").agent)
            tea._feed.put(InstanceId("memory", "tea-1", 1), line(2.0, "after"))
            assert [(await anext(lines)).line.text for _ in range(2)] == ["before", "after"]
            await spearlet.stop()
            spearlet._end()
            assert [entry async for entry in lines] == []
