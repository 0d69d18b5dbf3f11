"""Spear for programs without an event loop: scripts, Flask, notebooks.

The same API as ``spear``, without ``await``: a spearlet runs in a thread of its own, and every method
waits for it. Errors and settings are those of ``spear``.
"""

from ._functions import Execution as Execution
from ._functions import Function as Function
from ._functions import FunctionStream as FunctionStream
from ._functions import MapResults as MapResults
from ._functions import as_completed as as_completed
from ._remote import RemoteDeployment as RemoteDeployment
from ._remote import RemoteHost as RemoteHost
from ._remote import connect as connect
from ._spearlet import DeployedProgram as DeployedProgram
from ._spearlet import Deployment as Deployment
from ._spearlet import Spearlet as Spearlet
from ._spearlet import open_spearlet as open_spearlet
from ._typed import CallableWithItem as CallableWithItem
from ._typed import TypedFunction as TypedFunction
from ._typed import TypedStream as TypedStream
from ._typed import typed_function as typed_function
from ._typed import typed_stream as typed_stream
