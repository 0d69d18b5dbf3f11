"""The host's side: deploy functions, call them, watch them."""

from spear.runtimes import ProcessSettings as ProcessSettings
from spear.runtimes import ResourceLimits as ResourceLimits

from ._arguments import Result as Result
from ._deployments import Deployment as Deployment
from ._deployments import DeploymentStatistics as DeploymentStatistics
from ._executions import Execution as Execution
from ._executions import ExecutionStatus as ExecutionStatus
from ._functions import CallOptions as CallOptions
from ._functions import Function as Function
from ._local import LocalAgent as LocalAgent
from ._replicas import Replica as Replica
from ._spearlet import Spearlet as Spearlet
from ._spearlet import SpearletStatistics as SpearletStatistics
from ._spearlet import open_spearlet as open_spearlet
from ._streams import FunctionStream as FunctionStream
