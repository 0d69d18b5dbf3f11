"""Handlers of submitted calls: state, result, cancellation."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from spear._errors import SpearError
from spear.calls import Execution, ExecutionStatus

from ._exchange import (
    bad,
    choose_form,
    milliseconds,
    number_in,
    path_part,
    query_of,
    respond_json,
    whole_in,
)
from ._show import show_execution

if TYPE_CHECKING:
    from ._app import App
    from ._request import Request

MAX_WAIT_SECONDS: Final = 300.0
MAX_LISTED: Final = 1000
CANCELLED: Final = 499

_UNFINISHED: Final = frozenset({ExecutionStatus.PENDING, ExecutionStatus.RUNNING})


def _find(app: App, name: str) -> Execution:
    return app.spearlet.executions.get(path_part(name))


def _show(app: App, request: Request, execution: Execution) -> dict[str, object]:
    return show_execution(execution, tell_all=app.may_know_all(request))


async def list_executions(app: App, request: Request, _: str) -> None:
    """Handle ``GET /v1/executions``: list submitted calls, newest first."""
    query = query_of(request)
    status = None
    if "status" in query:
        try:
            status = ExecutionStatus(query["status"])
        except ValueError:
            known = ", ".join(each.value for each in ExecutionStatus)
            raise bad(f"status must be one of {known}, not {query['status'][:50]!r}") from None
    most = whole_in(query, "most", 100, least=1, most=MAX_LISTED)
    found = app.spearlet.executions.list(function=query.get("function"), status=status, most=most)
    await respond_json(request, {"executions": [_show(app, request, each) for each in found]})


async def get_execution(app: App, request: Request, name: str) -> None:
    """Handle ``GET /v1/executions/{id}``: describe a submitted call."""
    await respond_json(request, _show(app, request, _find(app, name)))


async def get_result(app: App, request: Request, name: str) -> None:
    """Handle ``GET /v1/executions/{id}/result``: wait for a submitted call's result."""
    execution = _find(app, name)
    wait = number_in(query_of(request), "wait", 0, least=0, most=MAX_WAIT_SECONDS)
    if execution.status in _UNFINISHED:
        with trio.move_on_after(wait), suppress(SpearError):
            await execution.result()
    request.extra.append((b"spear-execution-id", execution.id.encode()))
    if execution.status in _UNFINISHED:
        await respond_json(request, _show(app, request, execution), 202)
        return
    if execution.instance is not None:
        request.extra.append((b"spear-instance", str(execution.instance).encode()))
    try:
        result = await execution.result()
    except SpearError as error:
        is_cancelled = execution.status is ExecutionStatus.CANCELLED
        await app.refuse(request, error, CANCELLED if is_cancelled else None)
        return
    body, kind = choose_form(request, result)
    del result  # the client may take the body slowly
    await request.respond(200, body, kind, milliseconds(execution.execution_seconds or 0.0))


async def cancel_execution(app: App, request: Request, name: str) -> None:
    """Handle ``POST /v1/executions/{id}/cancel``: cancel a submitted call."""
    execution = _find(app, name)
    execution.cancel()
    await respond_json(request, _show(app, request, execution), 202)
