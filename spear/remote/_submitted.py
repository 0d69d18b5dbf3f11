"""Submitted calls at a host: the client chooses the id, submits the call, and asks for its end.

An id makes the submission safe to repeat. The execution belongs to the host: it goes on without this
client, which asks for results as long as its block runs.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import quote

import trio

from spear._errors import CallCancelled, HostLost, NoHost, SpearError
from spear.calls import Execution, ExecutionStatus, run_execution
from spear.channels import notify

from ._client import CBOR_KIND
from ._failures import failure_of_untrusted, read_document_untrusted
from ._responses import instance_of_untrusted, read_instance, response_of_untrusted

if TYPE_CHECKING:
    from spear.calls import OnEnd
    from spear.channels import ExecutionResponse

    from ._calls import RemoteCalls
    from ._client import HostClient
    from ._connection import RequestHeaders

logger: Final = logging.getLogger("spear.remote")

LONG_WAIT_SECONDS: Final = 30.0
"""Seconds that the host waits for the end of an execution before it says that there is none yet."""

SHORT_WAIT_SECONDS: Final = 0.2
"""Seconds that it waits while further executions want to ask."""

CANCEL_SECONDS: Final = 5.0
"""Seconds for the request that cancels an execution."""

LOST_SECONDS: Final = 1.0
MOST_LOSSES: Final = 30
"""After a lost connection a client asks again each second; it gives up after so many losses in a row."""


def launch(
    calls: RemoteCalls,
    body: bytes,
    headers: RequestHeaders,
    *,
    argument_bytes: int,
    on_end: OnEnd | None,
    execution_id: str | None,
) -> Execution:
    """Submit a call in a task of the client; return its execution.

    Raises:
        NoHost: the client is closed.
    """
    execution = _make(calls, argument_bytes)
    execution.id = execution.id if execution_id is None else execution_id

    async def work(execution: Execution) -> ExecutionResponse:
        identity = (b"spear-execution-id", execution.id.encode())
        await calls.client.exchange(
            b"POST", f"{calls.path}/submit", [*headers, identity], body, may_repeat=True
        )
        return await _wait_result(calls.client, execution)

    _start(calls.client, execution, work, on_end)
    return execution


def attach(calls: RemoteCalls, execution_id: str) -> Execution:
    """Return the execution of a call that was submitted before, by its id."""
    execution = _make(calls, 0)
    execution.id = execution_id
    _start(calls.client, execution, partial(_wait_result, calls.client), None)
    return execution


def _make(calls: RemoteCalls, argument_bytes: int) -> Execution:
    client = calls.client
    if client.is_closed:
        raise NoHost(f"the connection to {client.address.where} was closed: its block has ended")
    created = Execution._create(
        calls.deployment, calls.name, calls.read, argument_bytes, _log_forgotten
    )
    return cast("Execution", created)


def _log_forgotten(_: str, text: str) -> None:
    logger.warning("%s, and its result was never requested", text)


def _start(client: HostClient, execution: Execution, work: object, on_end: OnEnd | None) -> None:
    client.executions.add(execution)
    client.nursery.start_soon(_run, client, execution, work, on_end)


async def _run(
    client: HostClient, execution: Execution, work: object, on_end: OnEnd | None
) -> None:
    try:
        await run_execution(execution, work)  # type: ignore[arg-type]  # one of the two above
        if (
            execution.status is ExecutionStatus.CANCELLED
        ):  # by cancel(), not by the end of the block
            await _cancel(client, execution)
    finally:
        client.executions.discard(execution)
        if on_end is not None:
            notify(logger, "on_end", on_end)


def _path_of(execution: Execution) -> str:
    return f"/v1/executions/{quote(execution.id, safe='')}"


async def _cancel(client: HostClient, execution: Execution) -> None:
    """Cancel an execution at the host, if the host can be reached in time."""
    with trio.move_on_after(CANCEL_SECONDS), suppress(SpearError):
        await client.post(f"{_path_of(execution)}/cancel")


async def _wait_result(client: HostClient, execution: Execution) -> ExecutionResponse:
    """Ask the host for the end of an execution, until it has ended."""
    losses = 0
    path = f"{_path_of(execution)}/result"
    while True:
        async with client.waits:
            is_alone = not client.waits.statistics().tasks_waiting
            wait = LONG_WAIT_SECONDS if is_alone else SHORT_WAIT_SECONDS
            try:
                response = await _ask(client, execution, f"{path}?wait={wait:g}")
                losses = 0
            except (NoHost, HostLost):
                losses += 1
                if losses == MOST_LOSSES:
                    raise
                response = None
        if response is not None:
            return response
        if losses:
            await trio.sleep(LOST_SECONDS)


async def _ask(client: HostClient, execution: Execution, path: str) -> ExecutionResponse | None:
    """Return the result of an execution; None if it has not ended. Raises its failure."""
    connection, head = await client.begin(b"GET", path, [(b"accept", CBOR_KIND)], may_repeat=True)
    body = await client.read_body(connection)
    if (instance := instance_of_untrusted(head)) is not None:
        execution.assigned(instance)
    if head.status >= 400:
        raise failure_of_untrusted(head, body, client.address.where)
    if head.status != 202:
        return response_of_untrusted(head, body, client.address.where)
    try:
        document = read_document_untrusted(head.kind, body)
    except ValueError:
        document = None
    if isinstance(document, dict):
        running = read_instance(document.get("instance"))
        if running is not None and document.get("status") == "running":
            execution.assigned(running)
    return None


def abandon(client: HostClient) -> None:
    """End the executions of a client whose block ends; at the host they go on."""
    for execution in list(client.executions):
        where = client.address.where
        execution.abandon(
            CallCancelled(
                f"the connection to {where} was closed; execution {execution.id} of "
                f"{execution.function} goes on there: ask for it with host.execution(id)",
                delivered="maybe",
            )
        )
