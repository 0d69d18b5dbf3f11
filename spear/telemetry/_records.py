"""What instruments are given: records of what has happened.

The packages that make these records import them from here, because they may not be imported by this one.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import attrs

if TYPE_CHECKING:
    from spear._ids import InstanceId

OutputName: TypeAlias = Literal["stdout", "stderr"]

ConnectionEventKind: TypeAlias = Literal[
    "connected", "authenticated", "disconnected", "heartbeat_lost", "authentication_failed"
]


class InstanceState(enum.Enum):
    """Where an instance stands."""

    CREATED = "created"  # an idea: nothing of it runs yet
    STARTING = "starting"  # it runs, and has yet to log in
    READY = "ready"  # it takes calls
    UNHEALTHY = "unhealthy"  # it runs, but its channel is lost
    DRAINING = "draining"  # it finishes the calls it has, and takes no new ones
    STOPPING = "stopping"  # it was told to end, or is being killed
    EXITED = "exited"  # it runs no more
    FAILED = "failed"  # it could not even be started
    DELETED = "deleted"  # nothing of it is left: no socket, no directory, no descriptor


@final
@attrs.frozen
class InstanceEvent:
    """An instance came into another state.

    Attributes:
        instance_id: which one.
        state: the state it is in now.
        time: of Trio's clock.
        reason: why, if there is something to say.
    """

    instance_id: InstanceId
    state: InstanceState
    time: float
    reason: str = ""


@final
@attrs.frozen
class LogLine:
    """A line that an instance wrote.

    Attributes:
        number: counts the lines of one instance, of both outputs together.
        stream: the output that it wrote to.
        time: when the host read it, in seconds since the epoch.
        text: the line, shortened if it was too long, with control characters escaped.
    """

    number: int
    stream: OutputName
    time: float
    text: str


@final
@attrs.frozen
class ConnectionEvent:
    """Something happened to a connection.

    Attributes:
        kind: what.
        instance: whose connection; None if that is not known.
        connection: its number, counted by the manager.
        reason: why, for what went wrong.
    """

    kind: ConnectionEventKind
    instance: InstanceId | None
    connection: int
    reason: str = ""
