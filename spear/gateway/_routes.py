"""Every path of the gateway, and who answers there."""

from __future__ import annotations

from typing import Final

from ._app import Route
from ._calls import call, get_function, list_functions, submit, upgrade_required
from ._executions import cancel_execution, get_execution, get_result, list_executions
from ._lambda import invoke
from ._openapi import get_openapi
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
from ._pages import get_icon, get_page, get_script, get_style
from ._sockets import serve_socket
from ._streams import stream

ROUTES: Final = {
    "/": Route({"GET": get_page}, is_open=True),
    "/dashboard/app.js": Route({"GET": get_script}, is_open=True),
    "/dashboard/style.css": Route({"GET": get_style}, is_open=True),
    "/dashboard/icon.svg": Route({"GET": get_icon}, is_open=True),
    "/healthz": Route({"GET": healthz}, is_open=True),
    "/readyz": Route({"GET": readyz}, is_open=True),
    "/openapi.json": Route({"GET": get_openapi}),
    "/v1/functions": Route({"GET": list_functions}),
    "/v1/functions/*": Route({"GET": get_function}),
    "/v1/functions/*/call": Route({"POST": call}),
    "/v1/functions/*/stream": Route({"POST": stream}),
    "/v1/functions/*/submit": Route({"POST": submit}),
    "/v1/functions/*/socket": Route({"GET": upgrade_required}, serve_socket),
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
    "/2015-03-31/functions/*/invocations": Route({"POST": invoke}, is_foreign=True),
    "/v1/drain": Route({"POST": drain}, is_control=True),
}
"""By path; a star stands for a name."""
