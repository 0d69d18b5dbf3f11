"""All paths of the gateway, with their handlers and their summaries in ``/openapi.json``."""

from __future__ import annotations

from typing import Final

from ._app import Operation, Route
from ._calls import call, get_function, list_functions, submit, upgrade_required
from ._executions import cancel_execution, get_execution, get_result, list_executions
from ._lambda import invoke
from ._metrics import get_metrics
from ._openapi import get_openapi
from ._operate import (
    drain,
    get_all_logs,
    get_deployment,
    get_history,
    get_logs,
    get_statistics,
    healthz,
    list_deployments,
    list_failures,
    list_instances,
    readyz,
    restart,
    scale,
    start,
    stop,
    watch,
)
from ._pages import FILES, get_file, get_page
from ._sockets import serve_socket
from ._streams import stream
from ._terminals import attach, enter

ROUTES: Final = {
    "/": Route({"GET": Operation(get_page)}, is_open=True),
    **{f"/dashboard/{name}": Route({"GET": Operation(get_file)}, is_open=True) for name in FILES},
    "/healthz": Route({"GET": Operation(healthz, "Check that the host is alive.")}, is_open=True),
    "/readyz": Route(
        {"GET": Operation(readyz, "Check that the host is ready for calls.", ("deployment",))},
        is_open=True,
    ),
    "/metrics": Route({"GET": Operation(get_metrics, "Metrics of the host, for Prometheus.")}),
    "/openapi.json": Route({"GET": Operation(get_openapi)}),
    "/v1/functions": Route({"GET": Operation(list_functions, "All functions.")}),
    "/v1/functions/*": Route({"GET": Operation(get_function, "One function.")}),
    "/v1/functions/*/call": Route({"POST": Operation(call)}),
    "/v1/functions/*/stream": Route({"POST": Operation(stream)}),
    "/v1/functions/*/submit": Route({"POST": Operation(submit)}),
    "/v1/functions/*/socket": Route(
        {"GET": Operation(upgrade_required, "A WebSocket: items in both directions.")}, serve_socket
    ),
    "/v1/executions": Route(
        {
            "GET": Operation(
                list_executions, "Submitted calls, newest first.", ("function", "status", "most")
            )
        }
    ),
    "/v1/executions/*": Route({"GET": Operation(get_execution, "A submitted call, by its id.")}),
    "/v1/executions/*/result": Route(
        {"GET": Operation(get_result, "The result of a submitted call.", ("wait",))}
    ),
    "/v1/executions/*/cancel": Route(
        {"POST": Operation(cancel_execution, "Cancel a submitted call.")}
    ),
    "/v1/deployments": Route({"GET": Operation(list_deployments, "All deployments.")}),
    "/v1/deployments/*": Route({"GET": Operation(get_deployment, "One deployment.")}),
    "/v1/deployments/*/failures": Route(
        {"GET": Operation(list_failures, "The last failures of its instances, oldest first.")}
    ),
    "/v1/deployments/*/logs": Route(
        {
            "GET": Operation(
                get_logs, "Lines that the instances have written.", ("tail", "follow", "instance")
            )
        }
    ),
    "/v1/deployments/*/scale": Route(
        {"POST": Operation(scale, "Set the number of replicas.")}, is_control=True
    ),
    "/v1/deployments/*/restart": Route(
        {"POST": Operation(restart, "Replace the instances one by one.")}, is_control=True
    ),
    "/v1/deployments/*/stop": Route(
        {"POST": Operation(stop, "Stop a deployment.")}, is_control=True
    ),
    "/v1/deployments/*/start": Route(
        {"POST": Operation(start, "Start a deployment that was stopped.")}, is_control=True
    ),
    "/v1/instances": Route({"GET": Operation(list_instances, "All instances.")}),
    "/v1/logs": Route(
        {
            "GET": Operation(
                get_all_logs,
                "Lines that the instances of all deployments have written.",
                ("tail", "follow", "deployment", "instance"),
            )
        }
    ),
    "/v1/history": Route({"GET": Operation(get_history, "The counters of the last five minutes.")}),
    "/v1/instances/*/attach": Route(
        {
            "GET": Operation(attach, "Attach a terminal to an instance of a development host."),
            "POST": Operation(enter, "A line for the debugger on an attached terminal."),
        },
        is_control=True,
    ),
    "/v1/statistics": Route(
        {"GET": Operation(get_statistics, "The state and the statistics of the host.")}
    ),
    "/v1/watch": Route(
        {
            "GET": Operation(
                watch, "The state and the statistics, once each interval.", ("interval",)
            )
        }
    ),
    "/2015-03-31/functions/*/invocations": Route(
        {"POST": Operation(invoke, "AWS Lambda's Invoke.")}, is_foreign=True
    ),
    "/v1/drain": Route(
        {"POST": Operation(drain, "Finish the running calls, and stop the host.")}, is_control=True
    ),
}
"""Routes by path; a star stands for a name."""
