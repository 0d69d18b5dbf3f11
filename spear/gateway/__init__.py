"""HTTP interface of a spearlet: calls, streams, WebSockets, Lambda's Invoke, dashboard, operations."""

from ._extra import EXTRA as EXTRA  # first: it raises for a missing library
from ._serve import Gateway as Gateway
from ._serve import check_exposure as check_exposure
from ._serve import open_gateway as open_gateway
from ._settings import GatewaySettings as GatewaySettings
from ._statistics import GatewayStatistics as GatewayStatistics
from ._terminals import DebugTerminals as DebugTerminals
