"""The host's side: deploy functions, call them, watch them."""

from spear.runtimes import ProcessSettings as ProcessSettings
from spear.runtimes import ResourceLimits as ResourceLimits

from ._answers import Answer as Answer
from ._answers import FunctionDescription as FunctionDescription
from ._arguments import Result as Result
from ._autoscaler import ScalingDecision as ScalingDecision
from ._bound import BoundCall as BoundCall
from ._bound import OnEnd as OnEnd
from ._counters import FunctionStatistics as FunctionStatistics
from ._deployment_status import DeploymentHealth as DeploymentHealth
from ._deployment_status import DeploymentState as DeploymentState
from ._deployment_status import DeploymentStatistics as DeploymentStatistics
from ._deployments import Deployment as Deployment
from ._execution_table import Executions as Executions
from ._executions import Execution as Execution
from ._executions import ExecutionStatus as ExecutionStatus
from ._functions import Function as Function
from ._host import CallRecord as CallRecord
from ._local import LocalAgent as LocalAgent
from ._log_feed import FollowedLines as FollowedLines
from ._log_feed import InstanceLine as InstanceLine
from ._options import CallOptions as CallOptions
from ._replicas import Replica as Replica
from ._settings import DeploymentSettings as DeploymentSettings
from ._settings import HealthPolicy as HealthPolicy
from ._settings import RestartPolicy as RestartPolicy
from ._settings import Scale as Scale
from ._settings import SchedulingPolicy as SchedulingPolicy
from ._sources import OpenRuntime as OpenRuntime
from ._sources import Target as Target
from ._spearlet import Spearlet as Spearlet
from ._spearlet import SpearletState as SpearletState
from ._spearlet import SpearletStatistics as SpearletStatistics
from ._spearlet import open_spearlet as open_spearlet
from ._streams import FunctionStream as FunctionStream
