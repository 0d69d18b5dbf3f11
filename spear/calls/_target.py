"""The callee's side of a call: the target that takes the call, and the instance behind the target.

Protocols only. Channels implement :class:`CallTarget`; connections to remote nodes may do so, too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import trio
    from trio.lowlevel import Abort, RaiseCancelT

    from spear._errors import CallFailed, ChannelBroken, ChannelClosed, DeadlineExceeded, Delivered
    from spear._ids import InstanceId
    from spear.channels import CallStream, ExecutionResponse, Metadata, OnProgress
    from spear.wire import Payload

    from ._attributes import CallAttributes


class StartedRequest(Protocol):
    """A call that has started; its task is about to park."""

    def abort(self, raise_cancel: RaiseCancelT, /) -> Abort:
        """Cancel the call, because its task is cancelled."""


class CallTarget(Protocol):
    """A destination of calls: a channel to an instance, or a connection to a remote node."""

    @property
    def closed(self) -> trio.Event:
        """An event, set when the target is gone for good; a reconnected instance has a new target."""

    @property
    def is_connected(self) -> bool:
        """Whether the target takes new calls: false while it shuts down, and once it is gone."""

    @property
    def has_capacity(self) -> bool:
        """Whether a call that is made now starts at once."""

    @property
    def calls_in_flight(self) -> int:
        """Calls whose handlers have not ended, as far as this side knows."""

    @property
    def max_calls(self) -> int:
        """The most calls that the target takes at a time."""

    def when_free(self, call: Callable[[], None] | None) -> None:
        """Register ``call``, which runs when a slot becomes free and no caller is queued at this target.

        A target has one such function: a new one replaces it.

        Args:
            call: the function, which must neither block nor raise; None removes it.
        """

    def start_request(
        self, function: str, payload: Payload, now: float, deadline: float, *, is_cbor: bool
    ) -> StartedRequest | None:
        """Start a plain call without waiting; return None if :meth:`request` must be used instead.

        The calling task must then await ``trio.lowlevel.wait_task_rescheduled(started.abort)``, before it
        does anything else, for the response. A target that has no faster way always returns None.

        Args:
            function: the function's name.
            payload: the arguments' bytes.
            now: Trio's time.
            deadline: when the call expires, in Trio's time.
            is_cbor: whether the payload is CBOR; if not, it is raw bytes.

        Raises:
            SpearError: as :meth:`request`; the call was not started.
        """

    async def request(
        self,
        function: str,
        payload: Payload = b"",
        *,
        timeout: float | None = None,
        is_cbor: bool = False,
        metadata: Metadata | None = None,
        key: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> ExecutionResponse:
        """Call a function and wait for its result; see :meth:`CommunicationChannel.request`."""

    def open_stream(
        self,
        function: str,
        payload: Payload = b"",
        *,
        timeout: float | None = None,
        is_cbor: bool = False,
        metadata: Metadata | None = None,
        sends_items: bool = False,
        on_progress: OnProgress | None = None,
    ) -> AbstractAsyncContextManager[CallStream]:
        """Call a function that streams; see :meth:`CommunicationChannel.open_stream`."""


class Callee(Protocol):
    """An instance that receives calls through a target. After a reconnection, it has a new target."""

    @property
    def id(self) -> InstanceId:
        """The instance's name, which a replacement keeps, and its incarnation."""

    @property
    def has_ended(self) -> bool:
        """Whether the instance is known to have ended; false if a kill had no effect."""

    async def wait_exited(self) -> object:
        """Wait until the instance has ended, or counts as ended. A checkpoint."""

    async def explain_loss(self, error: ChannelBroken | ChannelClosed) -> CallFailed:
        """Return the failure of a call that was lost with the target. A checkpoint."""


Choice: TypeAlias = "tuple[Callee, CallTarget]"
"""The instance that gets a call, and the instance's present target."""


class Chooser(Protocol):
    """A chooser of an instance for each call: a deployment's pool, or a router of remote nodes."""

    @property
    def clock(self) -> Callable[[], float]:
        """A function that returns Trio's time."""

    @property
    def call_seconds(self) -> float:
        """Seconds for a call whose caller names no timeout."""

    def pick(self, call: CallAttributes) -> Choice | None:
        """Choose an instance with a free slot; None if the call has to wait.

        The caller must start its call before any other task runs: the slot is free until then.
        """

    async def wait_for_capacity(
        self, call: CallAttributes, deadline: float, *, is_accepted: bool = False
    ) -> Choice:
        """Wait for an instance with a free slot. A checkpoint. If cancelled, no slot is taken.

        Args:
            call: the attributes of the call.
            deadline: when the caller gives up, in Trio's time.
            is_accepted: whether the call was accepted before; such a call is not rejected when new calls
                are not accepted any more.

        Raises:
            Overloaded: too many calls are queued.
            DeadlineExceeded: no slot became free in time.
            Rejected: new calls are not accepted any more.
            WorkerDied: there is no instance, and none will start.
        """

    def late(
        self, function: str, begun: float, deadline: float, delivered: Delivered
    ) -> DeadlineExceeded:
        """Return the DeadlineExceeded of a call, with the stall that explains it, if one is known."""
