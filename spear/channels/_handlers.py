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
from spear.wire import CBOR, Connection, ConnectionState, Head, Payload

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
                raise call.cancelled
            payload, is_cbor = await self._handle(call)
            if isinstance(payload, Segment):
                await self._get_ready(payload)
            if self._connection.state is not _CLOSED:
                micros = int((self._clock() - call.started) * 1e6)
                if micros > MAX_MICROS:
                    micros = MAX_MICROS
                try:
                    self._connection.respond(call, payload, CBOR if is_cbor else 0, micros)
                    self._counters.messages_sent += 1
                except LocalProtocolError as error:
                    if error.code == "types_not_supported":
                        raise FunctionRaised(
                            f"{error}: return text, numbers and lists", type_name="TypeError"
                        ) from None
                    # The only other fault is the size of the result.
                    advice = f"{error}; send the result in parts, as a stream"
                    self._fail(call, Rejected(advice, code="result_too_large", delivered="yes"))
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

    async def _get_ready(self, result: Segment) -> None:
        """Wait until a segment can be handed over, if the connection allows it."""
        if self._lender is not None and len(result) >= self._lender.least_bytes:
            await self._lender.get_ready()

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
