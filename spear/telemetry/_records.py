"""Records of events and calls, which instruments receive.

The records live here, and not in the packages that make them, because telemetry imports none of these.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spear._ids import InstanceId

OutputName: TypeAlias = Literal["stdout", "stderr"]

ConnectionEventKind: TypeAlias = Literal[
    "connected", "authenticated", "disconnected", "heartbeat_lost", "authentication_failed"
]

DeploymentEventKind: TypeAlias = Literal[
    "starting", "ready", "scaled", "restarted", "given_up", "failed", "stopping", "stopped"
]


class InstanceState(enum.Enum):
    """A state of an instance."""

    CREATED = "created"  # nothing of the instance runs yet
    STARTING = "starting"  # the instance runs, and has yet to log in
    READY = "ready"  # the instance takes calls
    UNHEALTHY = "unhealthy"  # the instance runs, but its channel is lost
    DRAINING = "draining"  # the instance finishes its calls, and takes no new ones
    STOPPING = "stopping"  # the instance was told to end, or is being killed
    EXITED = "exited"  # the instance runs no more
    FAILED = "failed"  # the instance could not be started
    DELETED = "deleted"  # the host holds no socket, directory or descriptor of the instance


@final
@attrs.frozen
class InstanceEvent:
    """A change of an instance's state.

    Attributes:
        instance_id: the instance.
        state: the new state.
        time: seconds of Trio's clock at the change; not to be compared with :attr:`LogLine.time`.
        reason: the reason for the change; may be empty.
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
        number: the number of the line, counted for both outputs of the instance together.
        stream: the output to which the line was written.
        time: when the host read the line, in seconds since the epoch.
        text: the line, shortened if it was too long, with control characters escaped.
    """

    number: int
    stream: OutputName
    time: float
    text: str


@final
@attrs.frozen
class ConnectionEvent:
    """An event of a connection.

    Attributes:
        kind: what has happened to the connection.
        instance: the instance at its other end; None while the instance is not known.
        connection: the number of the connection, counted by the manager.
        reason: the reason, if something went wrong; else empty.
    """

    kind: ConnectionEventKind
    instance: InstanceId | None
    connection: int
    reason: str = ""


@final
@attrs.frozen
class DeploymentEvent:
    """An event of a deployment.

    Attributes:
        deployment: the deployment's name.
        kind: ``starting``; ``ready``, all of its first replicas take calls; ``scaled``, another number
            of replicas is wanted; ``restarted``, every replica has been replaced; ``given_up``, a
            replica was restarted too often; ``failed``, its first replicas did not start; ``stopping``;
            ``stopped``.
        replicas: the number of replicas that are wanted now.
        reason: the reason for the event; may be empty.
    """

    deployment: str
    kind: DeploymentEventKind
    replicas: int
    reason: str = ""


@final
class CallRecord:
    """A call of a function of a deployment: one object from the call's start to its end.

    Attributes:
        deployment: the deployment's name.
        function: the function's name.
        is_stream: whether the caller has opened a stream.
        session: the session that the caller named, if any.
        key: the idempotency key that the caller named, if any.
        metadata: the map that the caller sends with the call, if any.
        carrier: texts that instruments add to the metadata while the call starts, for the instance to
            read, such as a trace context.
        instance: the instance that has got the call; None while the call waits for one. Changes if the
            call is repeated at another instance.
        seconds: seconds from the call to its end, waiting included; 0 until then.
        failure: the exception that ended the call, if any; ``trio.Cancelled`` if the caller gave up.
            The exception's traceback holds what the call's frames hold, so it should not be kept.
    """

    __slots__ = (
        "carrier", "deployment", "failure", "function", "instance", "is_stream", "key", "metadata",
        "seconds", "session",
    )  # fmt: skip

    def __init__(
        self,
        deployment: str,
        function: str,
        is_stream: bool = False,
        session: str | None = None,
        key: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        self.deployment = deployment
        self.function = function
        self.is_stream = is_stream
        self.session = session
        self.key = key
        self.metadata = metadata
        self.carrier: dict[str, str] = {}
        self.instance: InstanceId | None = None
        self.seconds = 0.0
        self.failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"<CallRecord {self.deployment}.{self.function}>"
