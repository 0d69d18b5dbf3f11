"""The memory runtime: agents inside the host's process, for tests and functions that share memory."""

from ._agent import CrashingAgent as CrashingAgent
from ._agent import LocalAgent as LocalAgent
from ._runtime import MemoryRuntime as MemoryRuntime
from ._runtime import MemorySettings as MemorySettings
