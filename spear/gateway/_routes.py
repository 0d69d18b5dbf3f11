"""Every path of the gateway, and who answers there."""

from __future__ import annotations

from typing import Final

from ._app import Route
from ._calls import call, get_function, list_functions, submit

ROUTES: Final = {
    "/v1/functions": Route({"GET": list_functions}),
    "/v1/functions/*": Route({"GET": get_function}),
    "/v1/functions/*/call": Route({"POST": call}),
    "/v1/functions/*/submit": Route({"POST": submit}),
}
"""By path; a star stands for a name."""
