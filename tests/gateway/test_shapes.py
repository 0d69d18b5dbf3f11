"""Raw requests of every shape: their answers, the state of the connection, and the functions that ran.

The table is in ``shapes.py``. Every answer has to keep these rules: its body is framed in one way. It
says ``Connection: close`` if the gateway then closes the connection, and otherwise the next request is
served. An error is JSON with an explanation.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from .helpers import PATIENCE_SECONDS, open_site, wait_until
from .shapes import GROUPS, GUARDED, HEALTH, NONE, PATIENT, SHAPES, SMALL, SMUGGLED, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from random import Random

    from spear.gateway import GatewaySettings

    from .helpers import Site
    from .shapes import Shape

    Cut = Callable[[bytes], Iterable[bytes]]
    Sites = dict[GatewaySettings, Site]

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [\x20-\x7e]*")
HEADER = re.compile(rb"([a-z0-9-]+): ?([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)", re.IGNORECASE)

REQUIRED = {401: "www-authenticate", 405: "allow", 426: "upgrade"}
"""Headers that an answer with this status must have (RFC 9110)."""


@attrs.frozen
class Answer:
    """An answer as it arrived.

    Attributes:
        status: the number.
        headers: values by lower-case name.
        body: the body without its framing.
        is_last: whether the answer says that the connection is closed after it.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    is_last: bool


class Malformed(Exception):
    """An answer is not HTTP, or is cut off."""


@attrs.define
class Reader:
    """A strict reader of answers from a socket."""

    stream: trio.SocketStream
    data: bytearray = attrs.field(factory=bytearray)

    async def more(self) -> bool:
        """Receive more. Return False at the end."""
        try:
            part = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:  # the answer before a reset must be complete all the same
            return False
        self.data += part
        return bool(part)

    async def until(self, mark: bytes) -> bytes | None:
        """Return the bytes before a mark, or None at the end of the stream."""
        while mark not in self.data:
            if not await self.more():
                if self.data:
                    raise Malformed(f"cut off: {bytes(self.data[-100:])!r}")
                return None
        found, _, rest = self.data.partition(mark)
        self.data = bytearray(rest)
        return bytes(found)

    async def exactly(self, size: int) -> bytes:
        while len(self.data) < size:
            if not await self.more():
                raise Malformed(f"cut off {size - len(self.data)} bytes before the end of a body")
        found = bytes(self.data[:size])
        del self.data[:size]
        return found

    async def rest(self) -> bytes:
        while await self.more():
            pass
        found, self.data = bytes(self.data), bytearray()
        return found

    async def answer(self, *, is_head: bool, is_old: bool) -> Answer | None:
        """Read one answer, or return None if the connection is closed instead.

        Args:
            is_head: whether it answers HEAD.
            is_old: whether it answers HTTP/1.0.
        """
        head = await self.until(b"\r\n\r\n")
        if head is None:
            return None
        first, *lines = head.split(b"\r\n")
        found = STATUS_LINE.fullmatch(first)
        if not found:
            raise Malformed(f"status line {first[:100]!r}")
        status = int(found[1])
        headers: dict[str, str] = {}
        for line in lines:
            field = HEADER.fullmatch(line)
            if not field:
                raise Malformed(f"header line {line!r}")
            name = field[1].decode().lower()
            if name in headers:
                raise Malformed(f"two headers {name}")
            headers[name] = field[2].decode()
        if status < 200:
            if headers.keys() & {"content-length", "transfer-encoding", "connection"}:
                raise Malformed(f"headers of {status}: {headers}")
            return Answer(status, headers, b"", is_last=False)
        connection = headers.get("connection", "").lower()
        is_last = connection == "close" or (is_old and connection != "keep-alive")
        body = await self._body(status, headers, is_last=is_last, is_head=is_head, is_old=is_old)
        return Answer(status, headers, body, is_last)

    async def _body(
        self, status: int, headers: dict[str, str], *, is_last: bool, is_head: bool, is_old: bool
    ) -> bytes:
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if length is not None and not (length.isdecimal() and coding is None and status != 204):
            raise Malformed(f"framing of {status}: {headers}")
        if coding is not None and (coding != "chunked" or is_old):
            raise Malformed(f"Transfer-Encoding: {coding}")
        if is_head or status in (204, 304):
            return b""
        if length is not None:
            return await self.exactly(int(length))
        if coding is None:
            if not is_last:
                raise Malformed("a body without an end")
            return await self.rest()
        body = b""
        while True:
            size = int(await self.until(b"\r\n") or b"", 16)
            body += await self.exactly(size)
            if await self.exactly(2) != b"\r\n":
                raise Malformed("a chunk without an end")
            if not size:
                return body


def faults_of(answer: Answer, *, has_body: bool) -> list[str]:
    """Return the faults that an answer has independently of its request."""
    faults = []
    if "date" not in answer.headers:
        faults.append(f"{answer.status} has no Date")
    needed = REQUIRED.get(answer.status)
    if needed and needed not in answer.headers:
        faults.append(f"{answer.status} without {needed}")
    if answer.status >= 400 and has_body:
        try:
            error = json.loads(answer.body)["error"]
            if not (error["kind"] and error["message"] and error["delivered"]):
                faults.append(f"says nothing: {error}")
            # A request that the parser refused has no id, and reached no function.
            if answer.status == 400 and "request_id" not in error and error["delivered"] != "no":
                faults.append(f"delivered: {error}")
        except (ValueError, KeyError, TypeError):
            faults.append(f"{answer.status} is no JSON error: {answer.body[:100]!r}")
    return faults


def calls(site: Site) -> int:
    """The number of functions called so far."""
    functions = site.spearlet.deployments["probe"].statistics().functions
    return sum(each.calls for each in functions.values())


@attrs.define
class Visit:
    """A client that sends a shape and reads the answers.

    Attributes:
        site: the site that gets the requests.
        shape: the shape to send.
        cut: cuts each write into the pieces that are sent.
        faults: the faults found.
        statuses: statuses of the answers, 100 included.
    """

    site: Site
    shape: Shape
    cut: Cut
    reader: Reader
    faults: list[str] = attrs.field(factory=list)
    statuses: list[int] = attrs.field(factory=list)
    _heard: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(0))
    _is_sent: trio.Event = attrs.field(factory=trio.Event)

    async def send(self) -> None:
        """Send everything; a gateway that has closed meanwhile does not take the rest."""
        stream = self.reader.stream
        try:
            for part in self.shape.sent:
                if part is None:
                    await self._heard.acquire()
                    continue
                for piece in self.cut(part):
                    await stream.send_all(piece)
                    if piece is not part:
                        await trio.testing.wait_all_tasks_blocked()  # until the gateway has read it
            if self.shape.ends:
                await stream.send_eof()
        except trio.BrokenResourceError:
            pass
        self._is_sent.set()

    async def read(self) -> None:
        """Read all answers, and check each."""
        shape = self.shape
        if shape.is_late:
            await self._is_sent.wait()
        is_old = b" HTTP/1.0\r\n" in b"".join(part or b"" for part in shape.sent[:1])
        last: Answer | None = None
        for index, right in enumerate(shape.answers):
            is_head = index in shape.heads
            last = await self._next(is_head=is_head, is_old=is_old)
            status = NONE if last is None else last.status
            if status not in right:
                said = "" if last is None else f": {last.body[:300]!r}"
                self.faults.append(f"answer {index} is {status}, not {sorted(right)}{said}")
            if last is None:
                break
            self.faults += faults_of(last, has_body=not is_head)
            if last.is_last and index + 1 < len(shape.answers):
                self.faults.append(f"answer {index} closes: {last.body[:300]!r}")
                break
        if last and shape.body is not None and last.body != shape.body:
            self.faults.append(f"body {last.body[:200]!r}, not {shape.body[:200]!r}")
        if self.statuses.count(100) not in shape.continues:
            self.faults.append(f"{self.statuses.count(100)} answers 100")
        await self._end(last)

    async def _next(self, *, is_head: bool, is_old: bool) -> Answer | None:
        while True:
            answer = await self.reader.answer(is_head=is_head, is_old=is_old)
            if answer is None:
                return None
            self.statuses.append(answer.status)
            self._heard.release()
            if answer.status >= 200:
                return answer

    async def _end(self, last: Answer | None) -> None:
        """Check that the connection stays or ends, as the last answer says."""
        if last is None or last.is_last or self.shape.ends:
            rest = await self.reader.rest()
            if rest:
                self.faults.append(f"more came at the end: {rest[:300]!r}")
            if self.shape.stays:
                self.faults.append("is closed")
            return
        await self._is_sent.wait()
        # After a refused body, this is read as a request only if the body is complete.
        await self.reader.stream.send_all(request(HEALTH, "X-Request-Id: the-next-one"))
        answer = await self.reader.answer(is_head=False, is_old=False)
        if answer is None:
            self.faults.append("is closed without Connection: close")
        elif answer.headers.get("x-request-id") != "the-next-one":
            self.faults.append(f"the next request gets {answer.status} {answer.body[:100]!r}")
        elif self.shape.stays is False:
            self.faults.append("stays open")


def whole(part: bytes) -> Iterable[bytes]:
    return (part,)


def bytewise(part: bytes) -> Iterable[bytes]:
    return (part[index : index + 1] for index in range(len(part)))


async def faults_in(sites: Sites, shape: Shape, cut: Cut = whole) -> list[str]:
    """Send a shape, and return the faults of the answers."""
    site = sites[shape.settings]
    site.probe.calls = 0
    before = calls(site)
    port = int(site.gateway.urls[0].rpartition(":")[2])
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    visit = Visit(site, shape, cut, Reader(stream))
    try:
        with trio.move_on_after(PATIENCE_SECONDS / 3) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(visit.send)
                await visit.read()
                nursery.cancel_scope.cancel()  # a refused body need not be sent to its end
    except* (Malformed, trio.BrokenResourceError) as group:
        visit.faults += [repr(each) for each in group.exceptions]
    finally:
        await trio.aclose_forcefully(stream)
    if scope.cancelled_caught:
        visit.faults.append(f"hangs, after {visit.statuses}")
    ran = calls(site) - before
    if ran != shape.runs and not (shape.stays is None and visit.statuses[-1:] != [200] and not ran):
        visit.faults.append(f"{ran} functions ran, not {shape.runs}")
    return [f"{shape.name}: {fault}" for fault in visit.faults]


def expect_none(faults: list[str]) -> None:
    """Fail with all faults, so that one failing shape does not hide the others."""
    if faults:
        raise AssertionError("\n".join(faults))


@asynccontextmanager
async def open_sites() -> AsyncIterator[Sites]:
    """Open a gateway for each of the settings of shapes. At the end none may hold anything."""
    async with AsyncExitStack() as stack:
        sites = {
            settings: await stack.enter_async_context(open_site(settings))
            for settings in (PATIENT, GUARDED, SMALL)
        }
        yield sites
        for site in sites.values():
            await wait_until(lambda site=site: not site.gateway.statistics().connections)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
async def test_s18_requests_of_every_shape_get_what_is_right(
    group: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_sites() as sites:
        faults = [each for shape in GROUPS[group] for each in await faults_in(sites, shape)]
    faults += [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    expect_none(faults)


FRAGILE = [
    "content-length", "content-length and transfer-encoding", "transfer-encoding twice",
    "transfer_encoding is another header", "CRLF before a request", "two CRLFs before a request",
    "CRLF between requests", "bare LF everywhere", "bare LF as the empty line", "a folded header",
    "CR in a value", "HTTP/0.9", "HTTP/2 with prior knowledge", "TLS", "several chunks",
    "a quoted chunk extension", "LF behind a chunk size", "LF behind a chunk",
    "two letters behind a chunk", "a chunk longer than its size", "several trailers",
    "a request in the place of a trailer", "no host", "two hosts, equal", "HEAD, and GET behind it",
    "GET with a body", "a body that waits for 100", "chunks that wait for 100",
    "a body that does not wait for 100", "close of a chunked call", "three in one write",
    "a body glued to a head", "chunks glued to a head", "garbage behind one", "half-closed in a body",
    "half-closed behind chunks",
]  # fmt: skip
"""Shapes that are easily misread when they arrive in pieces."""


@pytest.mark.slow
async def test_s18_shapes_that_come_byte_by_byte_get_the_same_answers() -> None:
    shapes = {shape.name: shape for shape in SHAPES}
    async with open_sites() as sites:
        faults = [
            each for name in FRAGILE for each in await faults_in(sites, shapes[name], bytewise)
        ]
    expect_none(faults)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
async def test_s18_shapes_that_come_in_pieces_get_the_same_answers(
    group: str, seed: Random
) -> None:
    def at_random(part: bytes) -> Iterable[bytes]:
        cuts = sorted({0, len(part), *(seed.randrange(len(part) + 1) for _ in range(3))})
        return [part[start:end] for start, end in pairwise(cuts)]

    async with open_sites() as sites:
        faults = [
            each for shape in GROUPS[group] for each in await faults_in(sites, shape, at_random)
        ]
    expect_none(faults)


SLOW = request("POST /v1/functions/wait/call HTTP/1.1", "Content-Length: 0")


@asynccontextmanager
async def open_reader() -> AsyncIterator[tuple[Site, Reader]]:
    """Open a site, and a connection to it."""
    async with open_site(PATIENT) as site:
        port = int(site.gateway.urls[0].rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            yield site, Reader(stream)


async def final_answer(reader: Reader) -> Answer:
    """Read answers until one that is not 100."""
    while True:
        answer = await reader.answer(is_head=False, is_old=False)
        assert answer is not None, "closed without an answer"
        if answer.status != 100:
            return answer


async def test_s18_answers_come_in_the_order_of_pipelined_requests() -> None:
    """The second function is quick; the first one waits."""
    async with open_reader() as (site, reader):
        await reader.stream.send_all(SLOW + SMUGGLED)
        await site.probe.begun.wait()
        site.probe.release.set()
        assert (await final_answer(reader)).body == b'"released"'
        assert (await final_answer(reader)).body == b"1"


async def test_a_half_closed_client_gets_the_answer_of_a_slow_function() -> None:
    async with open_reader() as (site, reader):
        await reader.stream.send_all(SLOW)
        await site.probe.begun.wait()
        await reader.stream.send_eof()
        await trio.testing.wait_all_tasks_blocked(0.05)  # so that the gateway sees it
        site.probe.release.set()
        assert (await final_answer(reader)).body == b'"released"'


async def test_a_client_that_half_closes_while_it_reads_gets_the_rest() -> None:
    size = 16 << 20
    line = "POST /v1/functions/twice/call HTTP/1.1"
    headers = ("Content-Type: application/octet-stream", f"Content-Length: {size}")
    async with open_reader() as (_, reader):
        await reader.stream.send_all(request(line, *headers, body=bytes(size)))
        begun = await reader.stream.receive_some(12)
        assert begun == b"HTTP/1.1 200"
        await reader.stream.send_eof()
        await trio.testing.wait_all_tasks_blocked(0.05)  # so that the gateway sees it
        received = 0
        while part := await reader.stream.receive_some(1 << 20):
            received += len(part)
        assert received > 2 * size


def test_the_table_is_one() -> None:
    names = [shape.name for shape in SHAPES]
    assert len(set(names)) == len(names) >= 166
    assert set(FRAGILE) <= set(names)
