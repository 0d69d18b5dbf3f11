"""The process runtime: each instance is a process on this machine, spawned or forked."""

from ._command import find_command as find_command
from ._command import launch_command as launch_command
from ._orphans import own_all_children as own_all_children
from ._runtime import ProcessRuntime as ProcessRuntime
from ._runtime import ProcessTemplate as ProcessTemplate
from ._settings import ProcessSettings as ProcessSettings
from ._settings import ResourceLimits as ResourceLimits
from ._settings import StartMethod as StartMethod
from ._zygote import ZygoteStatistics as ZygoteStatistics
