"""The host's API: deploy functions, call them, watch them."""

from ._answers import Answer as Answer
from ._answers import FunctionDescription as FunctionDescription
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
from ._log_feed import FollowedLines as FollowedLines
from ._log_feed import InstanceLine as InstanceLine
from ._programs import Target as Target
from ._replicas import Replica as Replica
from ._settings import DeploymentSettings as DeploymentSettings
from ._settings import HealthPolicy as HealthPolicy
from ._settings import RestartPolicy as RestartPolicy
from ._settings import Scale as Scale
from ._spearlet import Spearlet as Spearlet
from ._spearlet import SpearletState as SpearletState
from ._spearlet import SpearletStatistics as SpearletStatistics
from ._spearlet import open_spearlet as open_spearlet
