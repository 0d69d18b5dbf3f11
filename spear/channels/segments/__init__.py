"""Memory that is handed to the other end of a connection instead of being copied.

A payload in such memory is a *segment* (``spear._segments``). Its descriptor travels beside the bytes of
a Unix socket; ``docs/wire.md`` says what the two ends may rely on. Only this package deals with
descriptors, mappings and the kernel's flags. The rest of ``spear.channels`` uses one
:class:`SegmentHandover` for each connection.
"""

from ._handover import NO_SEGMENTS as NO_SEGMENTS
from ._handover import SegmentHandover as SegmentHandover
from ._handover import SocketHandover as SocketHandover
from ._lending import LEAST_SHARED_BYTES as LEAST_SHARED_BYTES
from ._lending import Lent as Lent
from ._lending import PlacedPayload as PlacedPayload
from ._lending import SegmentLender as SegmentLender
from ._memory_files import SharedBuffer as SharedBuffer
from ._pool import MOST_AT_ONCE as MOST_AT_ONCE
from ._pool import WORTH_KEEPING as WORTH_KEEPING
