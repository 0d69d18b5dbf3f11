"""Instances of functions: starting them, watching them, stopping them."""

from ._abc import InstanceTemplate as InstanceTemplate
from ._abc import Runtime as Runtime
from ._abc import RuntimeCapabilities as RuntimeCapabilities
from ._abc import RuntimeStatistics as RuntimeStatistics
from ._abc import TemplateSpec as TemplateSpec
from ._body import InstanceBody as InstanceBody
from ._body import InstanceMetrics as InstanceMetrics
from ._body import InstanceSpec as InstanceSpec
from ._body import RuntimeSettings as RuntimeSettings
from ._health import InstanceHealth as InstanceHealth
from ._instance import Instance as Instance
from ._instance import Launch as Launch
from ._instance import host_instance as host_instance
from ._logs import LogBook as LogBook
from ._logs import OnLine as OnLine
from ._registry import RuntimeRegistry as RuntimeRegistry
from ._states import OnEvent as OnEvent
from .process import ProcessRuntime as ProcessRuntime
from .process import ProcessSettings as ProcessSettings
from .process import ProcessTemplate as ProcessTemplate
from .process import ResourceLimits as ResourceLimits
from .process import StartMethod as StartMethod
from .process import ZygoteStatistics as ZygoteStatistics
from .process import find_command as find_command
from .process import launch_command as launch_command
from .process import own_all_children as own_all_children
