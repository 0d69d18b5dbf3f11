"""Every path of the gateway, and who answers there."""

from __future__ import annotations

from typing import Final

from ._app import Route
from ._calls import call, get_function, list_functions, submit, upgrade_required
from ._executions import cancel_execution, get_execution, get_result, list_executions
from ._operate import (
    drain,
    get_deployment,
    get_logs,
    get_statistics,
    healthz,
    list_deployments,
    list_instances,
    readyz,
    restart,
    scale,
    stop,
    watch,
)
from ._streams import stream

ROUTES: Final = {
    "/healthz": Route({"GET": healthz}, is_open=True),
    "/readyz": Route({"GET": readyz}, is_open=True),
    "/v1/functions": Route({"GET": list_functions}),
    "/v1/functions/*": Route({"GET": get_function}),
    "/v1/functions/*/call": Route({"POST": call}),
    "/v1/functions/*/stream": Route({"POST": stream}),
    "/v1/functions/*/submit": Route({"POST": submit}),
    "/v1/functions/*/socket": Route({"GET": upgrade_required}),
    "/v1/executions": Route({"GET": list_executions}),
    "/v1/executions/*": Route({"GET": get_execution}),
    "/v1/executions/*/result": Route({"GET": get_result}),
    "/v1/executions/*/cancel": Route({"POST": cancel_execution}),
    "/v1/deployments": Route({"GET": list_deployments}),
    "/v1/deployments/*": Route({"GET": get_deployment}),
    "/v1/deployments/*/logs": Route({"GET": get_logs}),
    "/v1/deployments/*/scale": Route({"POST": scale}, is_control=True),
    "/v1/deployments/*/restart": Route({"POST": restart}, is_control=True),
    "/v1/deployments/*/stop": Route({"POST": stop}, is_control=True),
    "/v1/instances": Route({"GET": list_instances}),
    "/v1/statistics": Route({"GET": get_statistics}),
    "/v1/watch": Route({"GET": watch}),
    "/v1/drain": Route({"POST": drain}, is_control=True),
}
"""By path; a star stands for a name. (A WebSocket has no routes: there is one.)"""
