"""HTTP in front of a spearlet: calls, streams, WebSockets, Lambda's Invoke, a dashboard, operations."""

from ._serve import Gateway as Gateway
from ._serve import open_gateway as open_gateway
from ._settings import GatewaySettings as GatewaySettings
from ._statistics import GatewayStatistics as GatewayStatistics
