"""Instances of functions: starting them, watching them, stopping them."""

from ._abc import InstanceBody as InstanceBody
from ._abc import InstanceMetrics as InstanceMetrics
from ._abc import InstanceSpec as InstanceSpec
from ._abc import Runtime as Runtime
from ._abc import RuntimeCapabilities as RuntimeCapabilities
from ._abc import RuntimeSettings as RuntimeSettings
from ._abc import RuntimeStatistics as RuntimeStatistics
from ._instance import Instance as Instance
from ._instance import InstanceHealth as InstanceHealth
from ._logs import LogLine as LogLine
from ._process import ProcessRuntime as ProcessRuntime
from ._process_settings import ProcessSettings as ProcessSettings
from ._process_settings import ResourceLimits as ResourceLimits
from ._process_zygote import Zygote as Zygote
from ._process_zygote import ZygoteStatistics as ZygoteStatistics
from ._states import InstanceEvent as InstanceEvent
from ._states import InstanceState as InstanceState
