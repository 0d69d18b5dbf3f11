"""The SDK for functions: registering functions, serving them to a host, calling other functions.

Names are loaded on first use. ``python -m spear.agent`` must run its first lines before Trio is imported,
and a function file that uses only ``Agent`` should not import the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear._lazy import lazily

if TYPE_CHECKING:
    from ._app import Agent as Agent
    from ._context import CallContext as CallContext
    from ._context import context as context
    from ._context import using_context as using_context
    from ._items import Items as Items
    from ._lambda_context import LambdaContext as LambdaContext
    from ._loader import LoadFailed as LoadFailed
    from ._loader import load_agent as load_agent
    from ._outgoing_calls import call as call
    from ._outgoing_calls import call_once as call_once
    from ._reaching import HostAddresses as HostAddresses
    from ._serve import serve as serve
    from ._service import AgentService as AgentService
    from ._statistics import RegisteredFunctionStatistics as RegisteredFunctionStatistics
    from ._stubs import write_stub as write_stub

_HOMES = {
    "Agent": "._app",
    "AgentService": "._service",
    "CallContext": "._context",
    "RegisteredFunctionStatistics": "._statistics",
    "HostAddresses": "._reaching",
    "Items": "._items",
    "LambdaContext": "._lambda_context",
    "LoadFailed": "._loader",
    "call": "._outgoing_calls",
    "call_once": "._outgoing_calls",
    "context": "._context",
    "load_agent": "._loader",
    "serve": "._serve",
    "write_stub": "._stubs",
    "using_context": "._context",
}

__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)
