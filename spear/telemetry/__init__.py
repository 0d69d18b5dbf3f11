"""Telemetry of a host: instruments, and the records that they receive."""

from ._instruments import Instrument as Instrument
from ._instruments import Instruments as Instruments
from ._loading import find_instrument as find_instrument
from ._loading import load_instrument as load_instrument
from ._records import CallRecord as CallRecord
from ._records import ConnectionEvent as ConnectionEvent
from ._records import ConnectionEventKind as ConnectionEventKind
from ._records import DeploymentEvent as DeploymentEvent
from ._records import DeploymentEventKind as DeploymentEventKind
from ._records import InstanceEvent as InstanceEvent
from ._records import InstanceState as InstanceState
from ._records import LogLine as LogLine
from ._records import OutputName as OutputName
