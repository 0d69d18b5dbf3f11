"""Handlers for monitoring and operating: health, deployments, logs, statistics; scale, restart, drain."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, final

import attrs
import trio

from spear._errors import NotFound
from spear._version import __version__
from spear.spearlet import Deployment, DeploymentState, Scale

from ._exchange import (
    bad,
    flag_in,
    number_in,
    parse_json,
    path_part,
    query_of,
    respond_json,
    whole_in,
)
from ._show import show_deployments, show_failure, show_instances, show_line
from ._streams import send_head, send_items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from spear.spearlet import FollowedLines, InstanceLine

    from ._app import App
    from ._request import Request

MAX_LINES: Final = 10_000

_SCALE: Final = frozenset(attrs.fields_dict(Scale))


# -- health ---------------------------------------------------------------------------------------


async def healthz(app: App, request: Request, _: str) -> None:
    """Handle ``GET /healthz``: respond that the host is alive."""
    await respond_json(request, {"status": "ok"})


async def readyz(app: App, request: Request, _: str) -> None:
    """Handle ``GET /readyz``: readiness of all deployments, or of the one that the query names."""
    query = query_of(request)
    asked = query.pop("deployment", None)
    if query:
        raise bad(
            f"there is no parameter {next(iter(query))[:100]!r}: use ?deployment=NAME, or no query"
        )
    deployments = app.spearlet.deployments
    if asked is not None:
        if asked not in deployments:  # do not name the others: the caller may have no token
            raise NotFound(f"there is no deployment {asked[:100]!r}")
        deployments = {asked: deployments[asked]}
    reasons = {
        name: deployment.health().reason or deployment.health().state.value
        for name, deployment in deployments.items()
        if not _serves(deployment)
    }
    status = "draining" if app.is_draining else "not ready" if reasons else "ready"
    told: dict[str, object] = {"status": status}
    if app.guard.is_known(request) and reasons:
        told["reasons"] = reasons
    await respond_json(request, told, 200 if status == "ready" else 503)


def _serves(deployment: Deployment) -> bool:
    state = deployment.health().state
    return state is DeploymentState.IDLE or (
        bool(deployment.replicas) and state is not DeploymentState.STOPPING
    )


# -- deployments and instances --------------------------------------------------------------------


def find_deployment(app: App, name: str) -> Deployment:
    """Return the deployment that a path names. Raises NotFound, Problem."""
    name = path_part(name)
    deployments = app.spearlet.deployments
    if name not in deployments:
        known = ", ".join(deployments) or "none"
        raise NotFound(f"there is no deployment {name[:100]!r}; deployments: {known[:500]}")
    return deployments[name]


async def list_deployments(app: App, request: Request, _: str) -> None:
    """Handle ``GET /v1/deployments``: list all deployments."""
    tell_all = app.may_know_all(request)
    deployments = app.spearlet.deployments.values()
    shown = await show_deployments(*deployments, tell_all=tell_all)
    await respond_json(request, {"deployments": shown})


async def get_deployment(app: App, request: Request, name: str) -> None:
    """Handle ``GET /v1/deployments/{name}``: describe a deployment."""
    await _respond_deployment(app, request, find_deployment(app, name))


async def _respond_deployment(app: App, request: Request, deployment: Deployment) -> None:
    tell_all = app.may_know_all(request)
    (shown,) = await show_deployments(deployment, tell_all=tell_all)
    await respond_json(request, shown)


async def list_instances(app: App, request: Request, _: str) -> None:
    """Handle ``GET /v1/instances``: list the instances of all deployments."""
    found = await show_instances(*app.spearlet.deployments.values())
    await respond_json(request, {"instances": [each for some in found for each in some]})


async def snapshot(app: App, request: Request) -> dict[str, object]:
    """Return the present state and statistics of the whole host. A checkpoint."""
    statistics = app.spearlet.statistics()
    tell_all = app.may_know_all(request)
    return {
        "time": round(time.time(), 3),
        "name": app.settings.name,
        "version": __version__,
        "pid": os.getpid(),
        "state": app.spearlet.state.value,
        "uptime_seconds": trio.current_time() - app.begun,
        "executions": statistics.executions,
        "may_operate": app.guard.may_operate(request),
        "stopped": sorted(app.stopped - app.spearlet.deployments.keys()),
        "refused_connections": dict(statistics.refused_connections),
        "gateway": attrs.asdict(app.statistics()),
        "deployments": await show_deployments(
            *app.spearlet.deployments.values(), tell_all=tell_all
        ),
    }


async def get_statistics(app: App, request: Request, _: str) -> None:
    """Handle ``GET /v1/statistics``: respond with one snapshot of the host."""
    await respond_json(request, await snapshot(app, request))


@final
class _Snapshots:
    """An endless iterator of snapshots: one at once, then one each interval."""

    def __init__(self, app: App, request: Request, interval: float) -> None:
        self._app = app
        self._request = request
        self._interval = interval
        self._next = trio.current_time()

    def __aiter__(self) -> _Snapshots:
        return self

    async def __anext__(self) -> object:
        """Wait until the next snapshot is due, and return it."""
        await trio.sleep_until(self._next)
        # A slow reader gets fewer snapshots, but always current ones.
        self._next = max(self._next + self._interval, trio.current_time())
        return await snapshot(self._app, self._request)


async def watch(app: App, request: Request, _: str) -> None:
    """Handle ``GET /v1/watch``: respond with snapshots of the host, one each interval."""
    interval = number_in(query_of(request), "interval", 1, least=0.2, most=60)
    if request.method == "HEAD":
        await send_head(request)
        return
    with app.budgets.streams.taking(1, request.client):
        await send_items(app, request, _Snapshots(app, request, interval))


async def get_history(app: App, request: Request, _: str) -> None:
    """Handle ``GET /v1/history``: respond with the counters of the last minutes."""
    await respond_json(request, app.history.show())


# -- failures and logs ----------------------------------------------------------------------------


async def list_failures(app: App, request: Request, name: str) -> None:
    """Handle ``GET /v1/deployments/{name}/failures``: list the last failures of its instances."""
    failures = find_deployment(app, name).failures
    await respond_json(request, {"failures": list(map(show_failure, failures))})


class _LogSource(Protocol):
    """A deployment, or a spearlet for the lines of all its deployments."""

    def logs(self, most: int | None = None) -> tuple[InstanceLine, ...]: ...

    def follow_logs(self) -> AbstractAsyncContextManager[FollowedLines]: ...


@final
class _LogLines:
    """An iterator of log lines: past ones, and new ones if they are followed."""

    def __init__(
        self,
        before: Iterable[InstanceLine],
        following: FollowedLines | None,
        is_wanted: Callable[[InstanceLine], bool],
    ) -> None:
        self._before = iter(before)
        self._following = following
        self._is_wanted = is_wanted
        self._told_lost = 0

    def __aiter__(self) -> _LogLines:
        return self

    async def __anext__(self) -> object:
        """Return the next line, or the number of lines lost."""
        for entry in self._before:
            return show_line(entry)
        if self._following is None:
            raise StopAsyncIteration
        while True:
            lost = self._following.lost - self._told_lost
            if lost:
                self._told_lost += lost
                return {"lost": lost}
            entry = await anext(self._following)
            if self._is_wanted(entry):
                return show_line(entry)


async def get_logs(app: App, request: Request, name: str) -> None:
    """Handle ``GET /v1/deployments/{name}/logs``: respond with lines that its instances wrote."""
    await _respond_lines(app, request, find_deployment(app, name))


async def get_all_logs(app: App, request: Request, _: str) -> None:
    """Handle ``GET /v1/logs``: respond with lines that instances of all deployments wrote."""
    await _respond_lines(app, request, app.spearlet)


async def _respond_lines(app: App, request: Request, source: _LogSource) -> None:
    query = query_of(request)
    tail = whole_in(query, "tail", 100, least=0, most=MAX_LINES)
    deployment, instance = query.get("deployment"), query.get("instance")
    follows = flag_in(query, "follow")

    def is_wanted(entry: InstanceLine) -> bool:
        its = entry.instance
        return deployment in (None, entry.deployment) and instance in (None, str(its), its.name)

    def past() -> list[InstanceLine]:
        lines = [each for each in source.logs() if is_wanted(each)]
        return lines[max(len(lines) - tail, 0) :]

    if request.method == "HEAD":
        await send_head(request)
        return
    with app.budgets.streams.taking(1, request.client):
        if follows:
            async with source.follow_logs() as following:
                lines = _LogLines(past(), following, is_wanted)
                await send_items(app, request, lines, at_once=True)
        else:
            await send_items(app, request, _LogLines(past(), None, is_wanted))


# -- operating ------------------------------------------------------------------------------------


async def _settings_in(request: Request) -> dict[str, object]:
    """Return the JSON object in a body; empty if there is no body. Raises Problem."""
    body = await request.body()
    value = parse_json(body, "the body") if body else {}
    if not isinstance(value, dict):
        raise bad("the body must be a JSON object: {...}")
    return value


async def scale(app: App, request: Request, name: str) -> None:
    """Handle ``POST /v1/deployments/{name}/scale``: set the number of replicas."""
    deployment = find_deployment(app, name)
    wanted = await _settings_in(request)
    replicas: int | Scale
    if set(wanted) == {"replicas"}:
        replicas = wanted["replicas"]  # type: ignore[assignment]  # scale() checks it
    elif wanted and wanted.keys() <= _SCALE:
        replicas = attrs.evolve(deployment.settings.replicas, **wanted)  # type: ignore[arg-type]  # Scale checks
    else:
        known = ", ".join(sorted(_SCALE))
        raise bad(f'the body must be {{"replicas": 4}}, or an object with some of {known}')
    await app.complete(partial(deployment.scale, replicas))
    await _respond_deployment(app, request, deployment)


async def restart(app: App, request: Request, name: str) -> None:
    """Handle ``POST /v1/deployments/{name}/restart``: replace the instances one by one."""
    deployment = find_deployment(app, name)
    await app.complete(deployment.restart)
    await _respond_deployment(app, request, deployment)


async def stop(app: App, request: Request, name: str) -> None:
    """Handle ``POST /v1/deployments/{name}/stop``: stop a deployment."""
    deployment = find_deployment(app, name)
    if app.on_start is not None:
        app.stopped.add(deployment.name)
    await app.complete(partial(deployment.stop, app.spearlet.limits.shutdown_seconds))
    await _respond_deployment(app, request, deployment)


async def start(app: App, request: Request, name: str) -> None:
    """Handle ``POST /v1/deployments/{name}/start``: start a deployment that was stopped."""
    name = path_part(name)
    if app.on_start is not None:
        try:
            await app.complete(partial(app.on_start, name))
        except NotFound:  # it is configured no more
            app.stopped.discard(name)
            raise
        app.stopped.discard(name)
    await _respond_deployment(app, request, find_deployment(app, name))


async def drain(app: App, request: Request, _: str) -> None:
    """Handle ``POST /v1/drain``: start draining the host."""
    wanted = await _settings_in(request)
    seconds = wanted.pop("seconds", None)
    is_number = type(seconds) in (int, float) or seconds is None
    if wanted or not is_number or (seconds is not None and not 0 <= seconds < 1e9):  # type: ignore[operator]  # a number
        raise bad('the body must be {"seconds": 30}, or empty; seconds from 0 to less than 1e9')
    app.on_drain(seconds)  # type: ignore[arg-type]  # a number or None
    await respond_json(request, {"state": "draining"}, 202)
