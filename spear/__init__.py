"""Spear: host functions in separate processes, and call them under Trio's structured concurrency.

Hosts and function files import this package. A function file needs little more than ``Agent``, and each
of its processes pays for the import. So a name is loaded when it is first used, and the host's modules
are never loaded in a function's process.

PYTEST_DONT_REWRITE: without this word, pytest warns a program that imports Spear before it runs pytest.
"""

from __future__ import annotations

from spear._lazy import lazily
from spear._version import __version__ as __version__

# Type checkers know this name. Importing typing takes ten times as long as the rest of this module.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from spear._arrays import Array as Array
    from spear._codecs import codec as codec
    from spear._errors import AuthenticationFailed as AuthenticationFailed
    from spear._errors import BrokenEntryPoint as BrokenEntryPoint
    from spear._errors import CallCancelled as CallCancelled
    from spear._errors import CallFailed as CallFailed
    from spear._errors import CannotListen as CannotListen
    from spear._errors import ChannelBroken as ChannelBroken
    from spear._errors import ChannelClosed as ChannelClosed
    from spear._errors import ChannelCreationFailed as ChannelCreationFailed
    from spear._errors import ConfigurationError as ConfigurationError
    from spear._errors import DeadlineExceeded as DeadlineExceeded
    from spear._errors import Delivered as Delivered
    from spear._errors import FunctionRaised as FunctionRaised
    from spear._errors import HostLost as HostLost
    from spear._errors import InvalidArguments as InvalidArguments
    from spear._errors import LocalProtocolError as LocalProtocolError
    from spear._errors import NoHost as NoHost
    from spear._errors import NotFound as NotFound
    from spear._errors import NotInCall as NotInCall
    from spear._errors import Overloaded as Overloaded
    from spear._errors import Rejected as Rejected
    from spear._errors import RemoteProtocolError as RemoteProtocolError
    from spear._errors import SpawnFailed as SpawnFailed
    from spear._errors import SpearError as SpearError
    from spear._errors import UnexpectedResult as UnexpectedResult
    from spear._errors import UnsupportedInstrument as UnsupportedInstrument
    from spear._errors import UnsupportedRuntime as UnsupportedRuntime
    from spear._errors import UnsupportedTransport as UnsupportedTransport
    from spear._errors import WorkerDied as WorkerDied
    from spear._host_limits import HostLimits as HostLimits
    from spear._host_limits import InstanceTimeouts as InstanceTimeouts
    from spear._ids import InstanceId as InstanceId
    from spear._limits import WireLimits as WireLimits
    from spear._retry_policy import RetryPolicy as RetryPolicy
    from spear.agent import Agent as Agent
    from spear.agent import CallContext as CallContext
    from spear.agent import Items as Items
    from spear.agent import LambdaContext as LambdaContext
    from spear.agent import call as call
    from spear.agent import call_once as call_once
    from spear.agent import context as context
    from spear.calls import Execution as Execution
    from spear.calls import ExecutionStatus as ExecutionStatus
    from spear.calls import Function as Function
    from spear.calls import FunctionStream as FunctionStream
    from spear.calls import MapItem as MapItem
    from spear.calls import Result as Result
    from spear.calls import as_completed as as_completed
    from spear.channels import SharedBuffer as SharedBuffer
    from spear.remote import RemoteDeployment as RemoteDeployment
    from spear.remote import RemoteHost as RemoteHost
    from spear.remote import connect as connect
    from spear.runtimes import ProcessSettings as ProcessSettings
    from spear.runtimes import ResourceLimits as ResourceLimits
    from spear.spearlet import Deployment as Deployment
    from spear.spearlet import DeploymentSettings as DeploymentSettings
    from spear.spearlet import HealthPolicy as HealthPolicy
    from spear.spearlet import Replica as Replica
    from spear.spearlet import RestartPolicy as RestartPolicy
    from spear.spearlet import Scale as Scale
    from spear.spearlet import Spearlet as Spearlet
    from spear.spearlet import open_spearlet as open_spearlet
    from spear.telemetry import Instrument as Instrument

_ERRORS = (
    "AuthenticationFailed", "BrokenEntryPoint", "CallCancelled", "CallFailed", "CannotListen",
    "ChannelBroken", "ChannelClosed", "ChannelCreationFailed", "ConfigurationError", "DeadlineExceeded",
    "Delivered", "FunctionRaised", "HostLost", "InvalidArguments", "LocalProtocolError", "NoHost",
    "NotFound", "NotInCall", "Overloaded", "Rejected", "RemoteProtocolError", "SpawnFailed",
    "SpearError", "UnexpectedResult", "UnsupportedInstrument", "UnsupportedRuntime",
    "UnsupportedTransport", "WorkerDied",
)  # fmt: skip

_OF_FUNCTIONS = ("Agent", "CallContext", "Items", "LambdaContext", "call", "call_once", "context")

_OF_CALLERS = (
    "Execution", "ExecutionStatus", "Function", "FunctionStream", "MapItem", "Result", "as_completed",
)  # fmt: skip

_OF_HOSTS = (
    "Deployment", "DeploymentSettings", "HealthPolicy", "Replica", "RestartPolicy", "Scale", "Spearlet",
    "open_spearlet",
)  # fmt: skip

_OF_REMOTE_HOSTS = ("RemoteDeployment", "RemoteHost", "connect")

_OF_RUNTIMES = ("ProcessSettings", "ResourceLimits")

_HOMES = {
    **dict.fromkeys(_ERRORS, "spear._errors"),
    "Array": "spear._arrays",
    "codec": "spear._codecs",
    "HostLimits": "spear._host_limits",
    "InstanceId": "spear._ids",
    "Instrument": "spear.telemetry",
    "InstanceTimeouts": "spear._host_limits",
    "RetryPolicy": "spear._retry_policy",
    "WireLimits": "spear._limits",
    "SharedBuffer": "spear.channels",
    **dict.fromkeys(_OF_FUNCTIONS, "spear.agent"),
    **dict.fromkeys(_OF_CALLERS, "spear.calls"),
    **dict.fromkeys(_OF_HOSTS, "spear.spearlet"),
    **dict.fromkeys(_OF_REMOTE_HOSTS, "spear.remote"),
    **dict.fromkeys(_OF_RUNTIMES, "spear.runtimes"),
}

__all__ = ["__version__", *_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES, packages=("asyncio", "blocking"))
