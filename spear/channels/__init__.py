"""Channels between a host and its instances: calls, streams and messages over any transport.

Names are loaded when they are first used: a function's process has no use for what a host needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear._lazy import lazily

if TYPE_CHECKING:
    from ._calls import CallStream as CallStream
    from ._calls import InboundCall as InboundCall
    from ._calls import Metadata as Metadata
    from ._channel import CommunicationChannel as CommunicationChannel
    from ._connect import connect_channel as connect_channel
    from ._connect import open_memory_channels as open_memory_channels
    from ._extensions import open_extension as open_extension
    from ._factory import ChannelConfig as ChannelConfig
    from ._factory import CommunicationFactory as CommunicationFactory
    from ._factory import open_communication_factory as open_communication_factory
    from ._handlers import Service as Service
    from ._handshake import Login as Login
    from ._heartbeat import machine_clock as machine_clock
    from ._interrupts import call_unprotected as call_unprotected
    from ._interrupts import named_block as named_block
    from ._interrupts import notify as notify
    from ._interrupts import notify_all as notify_all
    from ._interrupts import protected_block as protected_block
    from ._interrupts import protected_class as protected_class
    from ._interrupts import protected_exit as protected_exit
    from ._manager import ConnectionManager as ConnectionManager
    from ._manager import Endpoint as Endpoint
    from ._manager import ManagerStatistics as ManagerStatistics
    from ._manager import open_connection_manager as open_connection_manager
    from ._nursery import open_private_nursery as open_private_nursery
    from ._nursery import run_to_its_end as run_to_its_end
    from ._peer import ThreadedFunctions as ThreadedFunctions
    from ._reports import OnProgress as OnProgress
    from ._response import ExecutionResponse as ExecutionResponse
    from ._statistics import ChannelStatistics as ChannelStatistics
    from ._statistics import LatencyHistogram as LatencyHistogram
    from ._strategy import CommunicationStrategy as CommunicationStrategy
    from ._strategy import default_strategy as default_strategy
    from ._strategy import expect_strategy as expect_strategy
    from ._strategy import place_of as place_of
    from ._strategy import read_strategies as read_strategies
    from ._timers import Timers as Timers
    from ._timers import open_timers as open_timers
    from .segments import SharedBuffer as SharedBuffer

_HOMES = {
    "CallStream": "._calls",
    "ChannelConfig": "._factory",
    "ChannelStatistics": "._statistics",
    "CommunicationChannel": "._channel",
    "CommunicationFactory": "._factory",
    "CommunicationStrategy": "._strategy",
    "ConnectionManager": "._manager",
    "Endpoint": "._manager",
    "ExecutionResponse": "._response",
    "InboundCall": "._calls",
    "LatencyHistogram": "._statistics",
    "Login": "._handshake",
    "ManagerStatistics": "._manager",
    "Metadata": "._calls",
    "OnProgress": "._reports",
    "Service": "._handlers",
    "ThreadedFunctions": "._peer",
    "Timers": "._timers",
    "call_unprotected": "._interrupts",
    "SharedBuffer": ".segments",
    "connect_channel": "._connect",
    "default_strategy": "._strategy",
    "expect_strategy": "._strategy",
    "machine_clock": "._heartbeat",
    "named_block": "._interrupts",
    "notify": "._interrupts",
    "notify_all": "._interrupts",
    "open_communication_factory": "._factory",
    "open_connection_manager": "._manager",
    "open_extension": "._extensions",
    "open_memory_channels": "._connect",
    "open_private_nursery": "._nursery",
    "open_timers": "._timers",
    "place_of": "._strategy",
    "protected_block": "._interrupts",
    "protected_class": "._interrupts",
    "protected_exit": "._interrupts",
    "read_strategies": "._strategy",
    "run_to_its_end": "._nursery",
}

__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)
