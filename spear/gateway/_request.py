"""A request with its response, within the limits of the gateway.

The connection cancels the handler of a request whose client disconnects, so this module does not check
for disconnects. It knows neither paths nor permissions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, TypeAlias, final

import trio

from ._errors import Problem
from ._http1 import CONTINUE, LAST_CHUNK, chunk, response_head
from ._settings import BODY_RATE

if TYPE_CHECKING:
    from ._budget import Budgets
    from ._http1 import RequestHead, RequestParser
    from ._settings import GatewaySettings

Headers: TypeAlias = list[tuple[bytes, bytes]]
MoreHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]

LARGE_BYTES: Final = 64 * 1024
"""Larger response bodies count against the budget for results; the kernel buffers smaller ones."""

_ALWAYS: Final = (b"x-content-type-options", b"nosniff")
_CLOSE: Final = (b"connection", b"close")
_CHUNKED: Final = (b"transfer-encoding", b"chunked")


class Link(Protocol):
    """The interface of a connection to its requests.

    Attributes:
        parser: the parser of the client's bytes.
        is_local: whether the client connected to the control socket.
    """

    parser: RequestParser
    is_local: bool

    @property
    def client(self) -> Hashable:
        """The client, for budgets: clients with equal values share their part of a budget."""

    @property
    def is_closing(self) -> bool:
        """Whether this is the last request of the connection."""

    async def receive(self) -> None:
        """Pass received bytes to the parser; cancel the handler if the client's stream has ended."""

    async def write(self, *data: bytes) -> None:
        """Send bytes; cancel the handler if the client does not take them."""

    async def leave(self) -> NoReturn:
        """Cancel the handler that calls this method."""


@final
class Request:
    """A request with its response, or the handshake of a WebSocket.

    Once the request is handled, :meth:`release` must be called.

    Attributes:
        method: The method as the client wrote it; methods are case-sensitive.
        path: The path as the client sent it, not percent-decoded. Of a URL, the part after its host.
        query: The part of the target after the question mark; empty if there is none.
        headers: Values by lower-case name. The values of a repeated header are joined by ``", "``.
            ``host`` is the host of the target if the target is a URL.
        repeated: The names of repeated headers.
        is_http_1_0: Whether the client speaks HTTP/1.0 rather than 1.1.
        wants_socket: Whether the client asks for a WebSocket.
        is_local: Whether the client connected to the control socket.
        client: The client, for budgets: equal values share one.
        extra: Headers that every response gets, errors included.
        id: The request id, for logs and the client.
        status: The status of the response; 0 before it begins, 101 for a WebSocket.
        is_ended: Whether the whole response has been sent.
        is_open_ended: Whether a stream or a WebSocket has begun, whose end the client does not know.
        closes: Whether the connection is closed after the response. Final once the response has begun.
    """

    __slots__ = (
        "_budgets", "_head", "_held", "_is_evicted", "_link", "_reading", "_settings", "client",
        "closes", "extra", "headers", "id", "is_ended", "is_http_1_0", "is_local", "is_open_ended",
        "method", "path", "query", "repeated", "status", "wants_socket",
    )  # fmt: skip

    def __init__(
        self, head: RequestHead, link: Link, settings: GatewaySettings, budgets: Budgets
    ) -> None:
        self._head = head
        self._link = link
        self._settings = settings
        self._budgets = budgets
        self._held = 0  # bytes of the budget for bodies
        self._reading: trio.CancelScope | None = None  # cancels reading the body
        self._is_evicted = False  # whether reading was cancelled to make room
        self.method = head.method
        self.is_http_1_0 = head.is_http_1_0
        self.wants_socket = head.upgrades
        self.is_local = link.is_local
        self.client = link.client
        headers = dict(head.headers)
        self.repeated: frozenset[bytes] = frozenset()
        if len(headers) < len(head.headers):
            headers, self.repeated = _joined(head.headers)
        self.headers: dict[bytes, bytes] = headers
        target, _, self.query = head.target.partition("?")
        scheme, is_absolute, rest = target.partition("://")
        if is_absolute and "/" not in scheme:  # the form that proxies use: http://host/path
            host, _, path = rest.partition("/")
            target = f"/{path}"
            headers[b"host"] = host.encode()
        self.path = target
        self.extra: Headers = []
        self.id = ""
        self.status = 0
        self.is_ended = False
        self.is_open_ended = False
        self.closes = False

    # -- the body -----------------------------------------------------------------------------

    @property
    def has_body(self) -> bool:
        """Whether the request says that it has a body."""
        return self._head.length != 0

    async def body(self, verify: Callable[[bytes], None] | None = None) -> bytes:
        """Return the whole body; empty if there is none, or at a second call.

        The bytes count against the budget for bodies until :meth:`release`, or until the function from
        :meth:`hand_over` is called. If the client disconnects meanwhile, the handler is cancelled.

        Args:
            verify: Called with the whole body, if that is needed to verify the caller. Raises Problem to
                refuse the caller. Before this call, the bytes count against the budget for unverified
                callers.

        Raises:
            Problem: the body is malformed (400), too slow (408), too large (413) or compressed (415); or
                a budget is exhausted (503); or ``verify`` has raised it.
        """
        if verify is None:
            return await self._read(self._take)
        try:
            body = await self._read(self._take_unverified)
            verify(body)
        finally:
            self._budgets.unverified.give(self._evict)
        self._take(len(body))
        return body

    def _take(self, size: int) -> None:
        self._budgets.bodies.take(size, self.client)
        self._held += size

    def _take_unverified(self, size: int) -> None:
        self._budgets.unverified.take(size, self._evict)

    def _evict(self) -> None:
        assert self._reading is not None  # reading and verifying are not interrupted by other tasks
        self._is_evicted = True
        self._reading.cancel()

    def release(self) -> None:
        """Give back the bytes that the body holds of its budget. May be called twice."""
        if self._held:
            self._budgets.bodies.give(self._held, self.client)
            self._held = 0

    def hand_over(self) -> Callable[[], None]:
        """Keep the body's bytes counted; return a function that gives them back, to be called once."""
        held, self._held = self._held, 0
        return partial(self._budgets.bodies.give, held, self.client)

    async def _read(self, take: Callable[[int], None]) -> bytes:
        parser, most = self._link.parser, self._settings.max_body_bytes
        if parser.is_body_complete:
            return b""
        self._expect_plain()
        if self._head.length > most:
            raise _too_large(most)
        if b"expect" in self.headers and not self.is_http_1_0 and not parser.is_body_begun:
            await self._link.write(CONTINUE)
        if parser.has_body:  # most bodies arrive together with their heads
            take(self._head.length)
            return parser.next_data_untrusted()
        parts: list[bytes] = []
        size = 0
        patience = self._settings.body_seconds
        begun = trio.current_time()
        with trio.CancelScope(deadline=begun + patience) as self._reading:
            while not parser.is_body_complete:
                part = parser.next_data_untrusted()
                size += len(part)
                if size > most:
                    raise _too_large(most)
                if part:
                    take(len(part))
                    parts.append(part)
                    if self._head.length < 0:  # one read can contain many chunks
                        await trio.lowlevel.checkpoint()
                elif not parser.is_body_complete:
                    self._reading.deadline = begun + patience + size / BODY_RATE
                    await self._link.receive()
        if self._is_evicted:
            raise Problem(
                503, "Busy", "the bodies of unverified callers exceed their limit: try again later"
            )
        if self._reading.cancelled_caught:
            seconds = trio.current_time() - begun
            raise Problem(408, "SlowRequest", f"the body did not arrive within {seconds:.0f} s")
        return b"".join(parts)

    def _expect_plain(self) -> None:
        coding = self.headers.get(b"content-encoding", b"identity").lower()
        if coding not in (b"identity", b""):
            shown = coding.decode("latin-1")[:50]
            raise Problem(
                415,
                "UnsupportedMediaType",
                f"Content-Encoding {shown!r} is not supported: send the body without encoding",
                headers=((b"accept-encoding", b"identity"),),
            )

    # -- the response -------------------------------------------------------------------------

    async def respond(
        self, status: int, body: bytes, kind: bytes, headers: MoreHeaders = ()
    ) -> None:
        """Send the whole response.

        Args:
            status: the HTTP status.
            body: the body; may be empty.
            kind: the ``Content-Type``; empty if the body is empty.
            headers: further headers.

        Raises:
            Problem: the body exceeds 64 KiB, and large responses that clients have not read yet fill the
                budget for results (507, ``delivered`` is "yes").
        """
        if len(body) <= LARGE_BYTES:
            await self._respond(status, body, kind, headers)
            return
        with self._budgets.results.taking(len(body), self.client):
            await self._respond(status, body, kind, headers)

    async def _respond(self, status: int, body: bytes, kind: bytes, headers: MoreHeaders) -> None:
        more = [] if status == 204 else [(b"content-length", b"%d" % len(body))]
        if kind:
            more.append((b"content-type", kind))
        head = self._begin(status, (*more, *headers))
        if self.method == "HEAD":
            body = b""
        if len(body) > LARGE_BYTES:
            await self._link.write(head, body)
        else:
            await self._link.write(head + body)
        self.is_ended = True

    async def begin(self, status: int, kind: bytes, headers: MoreHeaders = ()) -> None:
        """Begin a response of unknown length: :meth:`send` its parts, then :meth:`end` it.

        If the handler returns before :meth:`end`, the connection is closed, so the client can tell.
        """
        more = [(b"content-type", kind), *headers]
        if self.is_http_1_0:
            self.closes = True  # closing the connection ends the body
        else:
            more.append(_CHUNKED)
        self.is_open_ended = True
        await self._link.write(self._begin(status, more))

    def _begin(self, status: int, headers: MoreHeaders) -> bytes:
        """Return the head of the response, after deciding whether the connection is closed afterwards."""
        parser = self._link.parser
        self.closes = (
            self.closes
            or self._head.closes
            or self._link.is_closing
            or not (parser.is_body_complete or parser.skip_body_untrusted())
        )
        last = (_CLOSE,) if self.closes else ()
        head = response_head(status, (_ALWAYS, *self.extra, *headers, *last))
        self.status = status
        return head

    async def send(self, data: bytes) -> None:
        """Send one more part."""
        if self.method != "HEAD":
            await self._link.write(data if self.is_http_1_0 else chunk(data))

    async def end(self) -> None:
        """End the response that :meth:`begin` began."""
        if self.method != "HEAD" and not self.is_http_1_0:
            await self._link.write(LAST_CHUNK)
        self.is_ended = True


def _joined(
    headers: Iterable[tuple[bytes, bytes]],
) -> tuple[dict[bytes, bytes], frozenset[bytes]]:
    """Return (values by name, names of repeated headers)."""
    joined: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    for name, value in headers:
        if name in joined:
            repeated.add(name)
            joined[name] += b", " + value
        else:
            joined[name] = value
    return joined, frozenset(repeated)


def _too_large(most: int) -> Problem:
    message = f"the body has more than {most} bytes: send less, or raise the host's max_body_bytes"
    return Problem(413, "TooLarge", message)
