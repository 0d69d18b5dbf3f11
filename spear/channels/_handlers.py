"""Run the handlers of the peer's calls, and send the peer their results or failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, final

import trio

from spear._errors import (
    CallCancelled,
    CallFailed,
    FunctionRaised,
    LocalProtocolError,
    NotFound,
    Rejected,
)
from spear._segments import Segment
from spear._util import leaves_of, name_of, text_of
from spear.wire import CBOR, Buffer, Bundle, Connection, ConnectionState, Head, Payload

from .segments import PlacedPayload

if TYPE_CHECKING:
    from ._calls import InboundCall
    from ._statistics import Counters
    from .segments import SegmentLender

MAX_MICROS: Final = 0xFFFF_FFFF
"""The longest execution time that a response can report: 72 minutes."""

_CLOSED: Final = ConnectionState.CLOSED
_CLOSING: Final = CallCancelled("the channel is being closed", delivered="yes")


class Service(Protocol):
    """A set of handlers that this end offers to its peer, by function number and name."""

    def refuse(self, function: int, head: Head | None) -> CallFailed | None:
        """Return the reason to refuse a call before its arguments are read; None accepts the call."""

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        """Run a call; return its result's bytes, and whether they are CBOR. May raise CallFailed."""


def _unsupported(error: LocalProtocolError) -> FunctionRaised:
    return FunctionRaised(f"{error}: return text, numbers and lists", type_name="TypeError")


def _too_large(error: LocalProtocolError) -> Rejected:
    advice = f"{error}; send the result in parts, as a stream"
    return Rejected(advice, code="result_too_large", delivered="yes")


@final
class NoService:
    """A service without functions."""

    def refuse(self, function: int, head: Head | None) -> CallFailed | None:
        """Refuse every call."""
        return NotFound("this side of the channel offers no functions")

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        """Raise AssertionError: this service refuses every call before."""
        raise AssertionError("a refused call was handled")  # pragma: no cover


@final
class Handlers:
    """A runner of a service's handlers for one connection.

    Args:
        clock: returns Trio's time.
        lender: hands over results that are segments; None if the connection passes no segments.
        debug: whether to send tracebacks with errors.
    """

    __slots__ = ("_clock", "_connection", "_counters", "_debug", "_handle", "_lender")

    def __init__(
        self,
        service: Service,
        connection: Connection,
        counters: Counters,
        clock: Callable[[], float],
        *,
        lender: SegmentLender | None = None,
        debug: bool,
    ) -> None:
        self._lender = lender
        self._handle = service.handle
        self._connection = connection
        self._counters = counters
        self._clock = clock
        self._debug = debug

    async def run(self, call: InboundCall) -> None:
        """Run one handler, and send the final frame of its call.

        Raises nothing but Cancelled and KeyboardInterrupt, alone or in a group.
        """
        try:
            if call.cancelled is not None:
                call.cancelled.delivered = "no"
                raise call.cancelled
            payload, is_cbor = await self._handle(call)
            if isinstance(payload, Segment):
                payload = await self._placed(payload)
            elif len(payload) > self._connection.peer.max_message_bytes:
                payload = await self._placed_bytes(payload)
            if self._connection.state is not _CLOSED:
                micros = int((self._clock() - call.started) * 1e6)
                if micros > MAX_MICROS:
                    micros = MAX_MICROS
                try:
                    self._connection.respond(call, payload, CBOR if is_cbor else 0, micros)
                    self._counters.messages_sent += 1
                except LocalProtocolError as error:
                    if error.code == "types_not_supported":
                        raise _unsupported(error) from None
                    # The only other fault is the size of the result.
                    self._fail(call, _too_large(error))
            if isinstance(payload, PlacedPayload):
                payload.close()  # unless it was sent
        except CallFailed as failure:
            self._fail(call, failure)
        except trio.Cancelled:
            self._fail(call, call.cancelled or _CLOSING)
            raise
        except BaseException as error:
            leaves = list(leaves_of(error))
            if any(issubclass(type(each), KeyboardInterrupt) for each in leaves):
                raise  # the interrupt ends the process
            cancelled = [each for each in leaves if type(each) is trio.Cancelled]
            if not cancelled:
                self._fail(call, self._raised(error))
            else:
                rest = [each for each in leaves if type(each) is not trio.Cancelled]
                reason = self._raised(rest[0]) if rest else _CLOSING
                self._fail(call, call.cancelled or reason)
                raise BaseExceptionGroup("cancelled", cancelled) from None
        finally:
            call.discard_items()

    async def _placed(self, result: Segment) -> Payload:
        """Return a result in the form in which the connection sends it best; wait until it can be."""
        if isinstance(result, Bundle):
            try:
                self._connection.expect_types()
            except LocalProtocolError as error:
                raise _unsupported(error) from None
        if self._lender is None:
            return result.as_bytes() if isinstance(result, Bundle) else result
        try:
            return await self._lender.place(result, is_result=True)
        except LocalProtocolError as error:
            raise _too_large(error) from None

    async def _placed_bytes(self, result: Buffer) -> Payload:
        """Return a result that is too large for a message in a segment, if possible."""
        if self._lender is None:
            return result
        try:
            return await self._lender.place_bytes(result)
        except LocalProtocolError as error:
            raise _too_large(error) from None

    def _fail(self, call: InboundCall, failure: CallFailed) -> None:
        if self._connection.state is not _CLOSED:
            self._connection.fail(call, failure)
            self._counters.messages_sent += 1

    @trio.lowlevel.enable_ki_protection  # see text_of
    def _raised(self, error: BaseException) -> FunctionRaised:
        """Return the failure that a caller receives for an exception of the handler."""
        trace = None
        if self._debug:
            import traceback

            trace = "".join(traceback.format_exception(error))
        return FunctionRaised(text_of(error), type_name=name_of(error), remote_traceback=trace)
