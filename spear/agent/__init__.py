"""The SDK inside functions: register them, serve them to a host, call back.

Names are loaded when they are first used: ``python -m spear.agent`` must reach its first lines before
Trio is imported, and a function file that only wants ``Agent`` need not pay for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._app import Agent as Agent
    from ._context import CallContext as CallContext
    from ._context import Items as Items
    from ._context import call as call
    from ._context import context as context
    from ._loader import LoadFailed as LoadFailed
    from ._loader import load_agent as load_agent
    from ._serve import serve as serve
    from ._service import AgentService as AgentService
    from ._statistics import FunctionStatistics as FunctionStatistics

_HOMES = {
    "Agent": "._app",
    "AgentService": "._service",
    "CallContext": "._context",
    "FunctionStatistics": "._statistics",
    "Items": "._context",
    "LoadFailed": "._loader",
    "call": "._context",
    "context": "._context",
    "load_agent": "._loader",
    "serve": "._serve",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    """Load a public name (PEP 562)."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'spear.agent' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
