"""What instruments are given: records of what has happened.

The records live here, and not in the packages that make them, because this package must not import those.
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
    """Where an instance stands."""

    CREATED = "created"  # an idea: nothing of it runs yet
    STARTING = "starting"  # it runs, and has yet to log in
    READY = "ready"  # it takes calls
    UNHEALTHY = "unhealthy"  # it runs, but its channel is lost
    DRAINING = "draining"  # it finishes the calls it has, and takes no new ones
    STOPPING = "stopping"  # it was told to end, or is being killed
    EXITED = "exited"  # it runs no more
    FAILED = "failed"  # it could not even be started
    DELETED = "deleted"  # the host holds no socket, directory or descriptor of it


@final
@attrs.frozen
class InstanceEvent:
    """An instance came into another state.

    Attributes:
        instance_id: which one.
        state: the state it is in now.
        time: when, in seconds of Trio's clock; not to be compared with that of a :class:`LogLine`.
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


@final
@attrs.frozen
class DeploymentEvent:
    """Something happened to a deployment.

    Attributes:
        deployment: its name.
        kind: ``starting``; ``ready``, all of its first replicas take calls; ``scaled``, another number
            of replicas is wanted; ``restarted``, every replica has been replaced; ``given_up``, a
            replica was restarted too often; ``failed``, its first replicas did not start; ``stopping``;
            ``stopped``.
        replicas: how many replicas are wanted now.
        reason: why, if there is something to say.
    """

    deployment: str
    kind: DeploymentEventKind
    replicas: int
    reason: str = ""


@final
class CallRecord:
    """A call of a function of a deployment: one object from its start to its end.

    Attributes:
        deployment: the deployment's name.
        function: the function's name.
        is_stream: whether the caller has opened a stream.
        session: the session that the caller named, if any.
        key: the idempotency key that the caller named, if any.
        metadata: what the caller sends along, if anything.
        carrier: texts that instruments add to the metadata while the call starts, for the instance to
            find: trace context, for one.
        instance: the instance that has got the call; None while it waits for one. Another one if the
            call is repeated.
        seconds: from the call to its end, waiting included; 0 until then.
        failure: what the call ended with, if not with a result; ``trio.Cancelled`` if its caller gave
            up. Its traceback holds what the call's frames hold, so it should not be kept.
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
