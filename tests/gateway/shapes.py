"""Raw requests of every shape, good and bad, and a gateway's required reaction to each: a table.

RFC 9110 and RFC 9112 decide. Where they leave a choice, the table takes the strict one, because requests
can be smuggled when two programs read the same bytes differently. ``test_shapes.py`` sends the requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from spear.gateway import GatewaySettings

from .helpers import TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable

KIB = 1024
MIB = 1024 * KIB

NONE: Final = 0
"""In place of a status: the connection is closed without an answer."""

PATIENT = GatewaySettings(head_seconds=1000, idle_seconds=1000, body_seconds=1000)
"""Settings with which no connection ends by a timeout."""

GUARDED = attrs.evolve(PATIENT, token=TOKEN)
SMALL = attrs.evolve(PATIENT, max_body_bytes=1000)


@attrs.frozen(kw_only=True)
class Shape:
    """A request, or several, as raw bytes, with the required results.

    Attributes:
        name: a few words.
        sent: the writes of the client; None waits for the next answer.
        answers: the allowed statuses of each answer but 100.
        stays: whether the connection stays open; None if the gateway may choose, and says so.
        runs: number of functions called.
        body: body of the last answer, or None for any.
        ends: whether the client shuts down its sending side after its last write.
        heads: indices of the answers to HEAD, which have no body.
        continues: allowed numbers of answers 100.
        is_late: whether the client reads nothing before its last write.
        settings: settings of the gateway.
    """

    name: str
    sent: tuple[bytes | None, ...]
    answers: tuple[frozenset[int], ...]
    stays: bool | None
    runs: int = 0
    body: bytes | None = None
    ends: bool = False
    heads: tuple[int, ...] = ()
    continues: tuple[int, ...] = (0,)
    is_late: bool = False
    settings: GatewaySettings = PATIENT

    @property
    def size(self) -> int:
        """Number of bytes sent."""
        return sum(len(part or b"") for part in self.sent)


def request(start: str, *lines: str, host: str | None = "localhost", body: bytes = b"") -> bytes:
    """Return a request with a start line and header lines."""
    fields = lines if host is None else (f"Host: {host}", *lines)
    return "\r\n".join((start, *fields, "", "")).encode("latin-1") + body


HEALTH = "GET /healthz HTTP/1.1"
ECHO = "POST /v1/functions/echo/call HTTP/1.1"
COUNT = "POST /v1/functions/count/call HTTP/1.1"
NOTHING = "POST /v1/functions/nothing/call HTTP/1.1"
BYTES = "Content-Type: application/octet-stream"
CHUNKED = "Transfer-Encoding: chunked"

HELLO = b"5\r\nhello\r\n0\r\n\r\n"
"""A chunked body."""

SMUGGLED = request(COUNT, "Content-Length: 0")
"""A call that must not run: it is placed where a faulty gateway would read the next request."""


def health(*lines: str) -> bytes:
    return request(HEALTH, *lines)


def echo(*lines: str, body: bytes = b"") -> bytes:
    return request(ECHO, BYTES, *lines, body=body)


def chunked(body: bytes) -> bytes:
    return echo(CHUNKED, body=body)


def refused(name: str, sent: bytes, *statuses: int) -> Shape:
    """Return a request that ends its connection: no function runs, and later bytes are ignored."""
    right = frozenset(statuses or {400})
    return Shape(name=name, sent=(sent, SMUGGLED), answers=(right,), stays=False)


def told(name: str, sent: bytes, *statuses: int, settings: GatewaySettings = PATIENT) -> Shape:
    """Return a well-formed request that is refused; the connection may stay open or be closed."""
    return Shape(
        name=name, sent=(sent,), answers=(frozenset(statuses),), stays=None, settings=settings
    )


def good(
    name: str,
    *sent: bytes,
    answers: Iterable[int] = (200,),
    runs: int = 0,
    body: bytes | None = None,
    stays: bool | None = True,
    ends: bool = False,
) -> Shape:
    """Return requests that are answered, and that keep their connection by default."""
    return Shape(
        name=name, sent=sent, answers=tuple(frozenset({each}) for each in answers), runs=runs,
        body=body, stays=stays, ends=ends,
    )  # fmt: skip


def echoed(name: str, sent: bytes, body: bytes = b"hello") -> Shape:
    """Return a call whose body arrives."""
    return good(name, sent, runs=1, body=body)


def either(shape: Shape, *statuses: int) -> Shape:
    """Return the shape, which may also be refused, and then runs no function."""
    return attrs.evolve(shape, answers=(frozenset({200, *statuses}),), stays=None, body=None)


# -- ends of bodies ------------------------------------------------------------------------------

LENGTHS = (
    echoed("content-length", echo("Content-Length: 5", body=b"hello")),
    good("no length and no body", echo(), runs=1, body=b""),
    echoed("content-length with a leading zero", echo("Content-Length: 05", body=b"hello")),
    echoed("content-length among spaces", echo("Content-Length:    5  ", body=b"hello")),
    echoed("content-length behind a tab", echo("Content-Length:\t5", body=b"hello")),
    echoed("content-length without a space", echo("Content-Length:5", body=b"hello")),
    refused("content-length twice, equal", echo("Content-Length: 5", "Content-Length: 5",
        body=b"hello")),
    refused("content-length twice, different", echo("Content-Length: 5", "Content-Length: 0",
        body=b"hello")),
    refused("content-length three times", echo(*3 * ["Content-Length: 5"], body=b"hello")),
    refused("content-length as an equal list", echo("Content-Length: 5, 5", body=b"hello")),
    refused("content-length as a different list", echo("Content-Length: 5, 6", body=b"hello")),
    refused("content-length with a plus", echo("Content-Length: +5", body=b"hello")),
    refused("content-length in hexadecimal", echo("Content-Length: 0x5", body=b"hello")),
    refused("content-length with a space inside", echo("Content-Length: 5 5", body=b"hello")),
    refused("content-length below zero", echo("Content-Length: -5", body=b"hello")),
    refused("content-length minus zero", echo("Content-Length: -0")),
    refused("content-length with an underscore", echo("Content-Length: 0_5", body=b"hello")),
    refused("content-length with a fraction", echo("Content-Length: 5.0", body=b"hello")),
    refused("content-length in other digits", echo("Content-Length: \xb2", body=b"he")),
    refused("content-length in quotes", echo('Content-Length: "5"', body=b"hello")),
    refused("content-length of a word", echo("Content-Length: five", body=b"hello")),
    refused("content-length empty", echo("Content-Length:", body=b"hello")),
    refused("content-length of 20 digits", echo(f"Content-Length: {20 * '9'}", body=b"hello"), 413),
    refused("content-length of 400 digits", echo(f"Content-Length: {400 * '9'}"), 400, 413),
    refused("content-length of 5,000 digits", echo(f"Content-Length: {5000 * '9'}"), 400, 413),
    refused("content-length with a space before the colon", echo("Content-Length : 5",
        body=b"hello")),
    refused("content-length with a tab before the colon", echo("Content-Length\t: 5",
        body=b"hello")),
    refused("content-length folded", echo("Content-Length:\r\n 5", body=b"hello")),
    refused("content-length and transfer-encoding", echo("Content-Length: 5", CHUNKED, body=HELLO)),
    refused("transfer-encoding and content-length", echo(CHUNKED, "Content-Length: 5", body=HELLO)),
    refused("transfer-encoding and content-length 0", echo(CHUNKED, "Content-Length: 0",
        body=HELLO)),
    refused("transfer-encoding twice", echo(CHUNKED, CHUNKED, body=HELLO)),
    refused("transfer-encoding twice, one unknown", echo(CHUNKED, "Transfer-Encoding: x",
        body=HELLO)),
    refused("transfer-encoding chunked, chunked", echo("Transfer-Encoding: chunked, chunked",
        body=HELLO)),
    refused("transfer-encoding xchunked", echo("Transfer-Encoding: xchunked", body=HELLO)),
    refused("transfer-encoding chunked, identity", echo("Transfer-Encoding: chunked, identity",
        body=HELLO)),
    refused("transfer-encoding identity, chunked", echo("Transfer-Encoding: identity, chunked",
        body=HELLO)),
    refused("transfer-encoding identity", echo("Transfer-Encoding: identity", body=HELLO)),
    refused("transfer-encoding gzip, chunked", echo("Transfer-Encoding: gzip, chunked",
        body=HELLO)),
    refused("transfer-encoding gzip", echo("Transfer-Encoding: gzip", body=HELLO)),
    refused("transfer-encoding empty", echo("Transfer-Encoding:", body=HELLO)),
    refused("transfer-encoding with a comma behind", echo("Transfer-Encoding: chunked,",
        body=HELLO)),
    refused("transfer-encoding with a parameter", echo("Transfer-Encoding: chunked;q=1",
        body=HELLO)),
    refused("transfer-encoding in quotes", echo('Transfer-Encoding: "chunked"', body=HELLO)),
    refused("transfer-encoding behind a vertical tab", echo("Transfer-Encoding: \x0bchunked",
        body=HELLO)),
    refused("transfer-encoding behind a no-break space", echo("Transfer-Encoding: \xa0chunked",
        body=HELLO)),
    refused("transfer-encoding with a space before the colon", echo("Transfer-Encoding : chunked",
        body=HELLO)),
    refused("transfer-encoding with a tab before the colon", echo("Transfer-Encoding\t: chunked",
        body=HELLO)),
    refused("transfer-encoding folded", echo("Transfer-Encoding:\r\n chunked", body=HELLO)),
    refused("transfer-encoding behind a folded line", echo("X-A: b", " Transfer-Encoding: chunked",
        body=HELLO)),
    echoed("transfer-encoding in capitals", echo("Transfer-Encoding: CHUNKED", body=HELLO)),
    echoed("transfer-encoding among spaces", echo("Transfer-Encoding:  chunked ", body=HELLO)),
    echoed("transfer-encoding behind a tab", echo("Transfer-Encoding:\tchunked", body=HELLO)),
    attrs.evolve(refused("transfer_encoding is another header", echo("Transfer_Encoding: chunked",
        body=HELLO)), answers=(frozenset({200}), frozenset({400})), runs=1),
    refused("transfer-encoding in HTTP/1.0", request(ECHO.replace("1.1", "1.0"), BYTES, CHUNKED,
        body=HELLO)),
    refused("transfer-encoding in HTTP/1.0 kept alive", request(ECHO.replace("1.1", "1.0"), BYTES,
        CHUNKED, "Connection: keep-alive", body=HELLO)),
)  # fmt: skip

# -- lines ---------------------------------------------------------------------------------------

LINES = (
    refused("bare LF everywhere", b"GET /healthz HTTP/1.1\nHost: localhost\n\n"),
    refused("bare LF behind the request line", b"GET /healthz HTTP/1.1\nHost: localhost\r\n\r\n"),
    refused("bare LF behind a header", b"GET /healthz HTTP/1.1\r\nHost: localhost\nX-A: b\r\n\r\n"),
    refused("bare LF behind the last header", b"GET /healthz HTTP/1.1\r\nHost: localhost\n\r\n"),
    refused("bare LF as the empty line", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\n"),
    refused("bare CR behind the request line", b"GET /healthz HTTP/1.1\rHost: localhost\r\n\r\n"),
    refused("bare CR behind a header", b"GET /healthz HTTP/1.1\r\nHost: localhost\rX-A: b\r\n\r\n"),
    refused("two CRs before LF", b"GET /healthz HTTP/1.1\r\r\nHost: localhost\r\n\r\n"),
    refused("CR in a value", health("X-A: b\rc")),
    refused("CR at the end of a value", health("X-A: b\r")),
    refused("CR in a name", health("X\r-A: b")),
    refused("NUL in a value", health("X-A: b\0c")),
    refused("NUL in a name", health("X\0-A: b")),
    refused("NUL in the target", request("GET /health\0z HTTP/1.1")),
    refused("NUL in the method", request("G\0ET /healthz HTTP/1.1")),
    refused("a folded header", health("X-A: b", " c")),
    refused("a folded header with a tab", health("X-A: b", "\tc")),
    refused("a folded header of nothing", health("X-A:", " ")),
    refused("a space before the first header",
        b"GET /healthz HTTP/1.1\r\n Host: localhost\r\n\r\n"),
    refused("a line of white space before the headers",
        b"GET /healthz HTTP/1.1\r\n \r\nHost: localhost\r\n\r\n"),
    good("CRLF before a request", b"\r\n" + health()),
    refused("two CRLFs before a request", b"\r\n\r\n" + health()),
    refused("many CRLFs before a request", 1000 * b"\r\n" + health()),
    refused("LF before a request", b"\n" + health()),
    refused("CR before a request", b"\r" + health()),
    refused("a space before a request", b" " + health()),
    good("CRLF between requests", echo("Content-Length: 5", body=b"hello"), b"\r\n" + health(),
        answers=(200, 200), runs=1),
    refused("tabs in the request line", request("GET\t/healthz\tHTTP/1.1")),
    refused("two spaces in the request line", request("GET  /healthz HTTP/1.1")),
    refused("two spaces before the version", request("GET /healthz  HTTP/1.1")),
    refused("a space behind the version", request("GET /healthz HTTP/1.1 ")),
    refused("no-break spaces in the request line", request("GET\xa0/healthz\xa0HTTP/1.1")),
    refused("form feeds in the request line", request("GET\x0c/healthz\x0cHTTP/1.1")),
    refused("a method alone", b"GET\r\n\r\n"),
)  # fmt: skip

# -- versions, and bytes that are not HTTP -------------------------------------------------------

VERSIONS = (
    *(refused(f"version {version!r}", request(f"GET /healthz {version}")) for version in
        ("HTTP/1.2", "HTTP/1.9", "HTTP/1.10", "HTTP/1.", "HTTP/1", "HTTP/01.1", "HTTP/1.1.1",
        "HTTP/1,1", "HTTP/+1.1", "HTTP/0.9", "HTTP/2.0", "HTTP/2", "HTTP/3.0", "HTTP/11",
        "http/1.1", "HTTPS/1.1", "HTTP /1.1", "HTTP/ 1.1", "RTSP/1.0", "ICY", "HTTP/\xb9.1")),
    refused("HTTP/0.9", b"GET /healthz\r\n\r\n"),
    refused("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)),
    refused("TLS", bytes.fromhex("16030100c8010000c40303") + bytes(range(189))),
    refused("SSH", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    refused("the PROXY protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + health()),
    refused("the PROXY protocol, version 2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12) +
        health()),
    refused("JSON", b'{"method": "echo"}\r\n\r\n'),
    refused("a response", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    refused("a text", b"hello world\r\n\r\n"),
    refused("zeros", bytes(64) + b"\r\n\r\n"),
    refused("UTF-16", health().decode().encode("utf-16")),
    refused("a byte order mark", b"\xef\xbb\xbf" + health()),
)  # fmt: skip

# -- chunks --------------------------------------------------------------------------------------


def many_chunks(count: int, extension: bytes = b"") -> bytes:
    return count * (b"1%b\r\nx\r\n" % extension) + b"0\r\n\r\n"


CHUNKS = (
    echoed("one chunk", chunked(HELLO)),
    echoed("several chunks", chunked(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")),
    echoed("2,000 chunks", chunked(many_chunks(2000)), 2000 * b"x"),
    echoed("no chunk but the last", chunked(b"0\r\n\r\n"), b""),
    echoed("a chunk that looks like the last", chunked(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
        b"0\r\n\r\n"),
    echoed("a size in capitals", chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), b"0123456789"),
    echoed("a size in small letters", chunked(b"a\r\n0123456789\r\n0\r\n\r\n"), b"0123456789"),
    echoed("a size with leading zeros", chunked(b"0005\r\nhello\r\n0\r\n\r\n")),
    echoed("a last chunk of three zeros", chunked(b"5\r\nhello\r\n000\r\n\r\n")),
    echoed("a chunk extension", chunked(b"5;a=b\r\nhello\r\n0\r\n\r\n")),
    echoed("a chunk extension without a value", chunked(b"5;a\r\nhello\r\n0;last\r\n\r\n")),
    echoed("a quoted chunk extension", chunked(b'5;a="b; \\"c"\r\nhello\r\n0\r\n\r\n')),
    either(echoed("a chunk extension behind a space", chunked(b"5 ;a=b\r\nhello\r\n0\r\n\r\n")),
        400),
    either(echoed("a space behind a size", chunked(b"5 \r\nhello\r\n0\r\n\r\n")), 400),
    either(echoed("a size of 40 zeros and a digit", chunked(40 * b"0" + HELLO)), 400),
    refused("a chunk extension of 40 KiB", chunked(b"5;" + 40 * KIB * b"a" + HELLO[1:]), 400, 413,
        431),
    refused("a chunk extension of 1 MiB", chunked(b"5;" + MIB * b"a"), 400, 413, 431),
    refused("1 MiB of short chunk extensions", chunked(many_chunks(10_000, b";" + 100 * b"a")),
        400, 413, 431),
    refused("LF in a chunk extension", chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n")),
    # h11 accepts control characters there, and only CR LF as the end of a line.
    either(echoed("CR in a chunk extension", chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n")), 400),
    either(echoed("NUL in a chunk extension", chunked(b"5;a\0b\r\nhello\r\n0\r\n\r\n")), 400),
    *(refused(f"a chunk size of {size!r}", chunked(size + HELLO[1:])) for size in (b"", b"xyz",
        b"0x5", b"+5", b"-5", b" 5", b"\t5", b"5 5", b"0_5", b"5h", b"h5", b"5.0", b"5,", b'"5"',
        b"=5", b"\xb2", b"5\0", b"\x0b5", b";a=b", 21 * b"f", 400 * b"f")),
    refused("a chunk size without an end", chunked(64 * KIB * b"0"), 400, 413, 431),
    refused("LF behind a chunk size", chunked(b"5\nhello\r\n0\r\n\r\n")),
    refused("CR behind a chunk size", chunked(b"5\rhello\r\n0\r\n\r\n")),
    refused("LF behind a chunk", chunked(b"5\r\nhello\n0\r\n\r\n")),
    refused("CR behind a chunk", chunked(b"5\r\nhello\r0\r\n\r\n")),
    refused("nothing behind a chunk", chunked(b"5\r\nhello0\r\n\r\n")),
    refused("two letters behind a chunk", chunked(b"5\r\nhelloXX0\r\n\r\n")),
    refused("a chunk longer than its size", chunked(b"3\r\nhello\r\n0\r\n\r\n")),
    refused("a chunk shorter than its size", chunked(b"8\r\nhello\r\n0\r\n\r\n\r\n\r\n")),
    refused("LF behind the last chunk", chunked(b"5\r\nhello\r\n0\n\n")),
    refused("LF as the end of a chunked body", chunked(b"5\r\nhello\r\n0\r\n\n")),
    echoed("a trailer", chunked(HELLO[:-2] + b"X-Sum: 1\r\n\r\n")),
    echoed("several trailers", chunked(HELLO[:-2] + b"X-A: 1\r\nX-B: 2\r\n\r\n")),
    *(either(echoed(f"{line.split(b':')[0].decode()} as a trailer", chunked(HELLO[:-2] + line +
        b"\r\n\r\n")), 400) for line in (b"Content-Length: 99", b"Transfer-Encoding: chunked",
        b"Host: example.com", b"Trailer: X-A", b"Content-Type: application/json",
        b"Content-Encoding: gzip", b"Connection: close", b"Expect: 1")),
    refused("a trailer without a colon", chunked(HELLO[:-2] + b"X-Sum\r\n\r\n")),
    refused("a trailer with a space before the colon", chunked(HELLO[:-2] + b"X-Sum : 1\r\n\r\n")),
    # Trailers are ignored, so their contents do not matter, if all parsers agree on their end.
    either(echoed("a folded trailer", chunked(HELLO[:-2] + b"X-Sum: 1\r\n 2\r\n\r\n")), 400),
    refused("NUL in a trailer", chunked(HELLO[:-2] + b"X-Sum: \0\r\n\r\n")),
    refused("LF behind a trailer", chunked(HELLO[:-2] + b"X-Sum: 1\n\r\n")),
    refused("a request in the place of a trailer", chunked(HELLO[:-2] + SMUGGLED)),
    refused("40 KiB of trailers", chunked(HELLO[:-2] + 4 * KIB * b"X-A: 123\r\n" + b"\r\n"), 400,
        413, 431),
    refused("1 MiB of a trailer", chunked(HELLO[:-2] + b"X-A: " + MIB * b"a"), 400, 413, 431),
    told("chunks of more than a body may have", chunked(b"3e9\r\n" + bytes(1001) +
        b"\r\n0\r\n\r\n"), 413, settings=SMALL),
    attrs.evolve(echoed("chunks of as much as a body may have", chunked(b"3e8\r\n" + bytes(1000) +
        b"\r\n0\r\n\r\n"), bytes(1000)), settings=SMALL),
)  # fmt: skip

# -- targets -------------------------------------------------------------------------------------

TARGETS = (
    *(good(f"target {target}", request(f"GET {target} HTTP/1.1")) for target in ("/healthz?",
        "/healthz?a=b?c/d:e@f", "/healthz?%zz", "http://localhost/healthz",
        "HTTP://LOCALHOST/healthz", "https://localhost/healthz", "http://localhost:1/healthz",
        "http://[::1]:1/healthz", "http://127.0.0.1/healthz?a=b", "http://localhost",
        "http://localhost?a")),
    *(refused(f"target {target!r}", request(f"GET {target} HTTP/1.1")) for target in ("",
        "healthz", "../healthz", "?a=b", "*", "localhost:80", "localhost", "http://",
        "http:///healthz", "http:/healthz", "http:healthz", "http://a@localhost/healthz",
        "http://a:b@localhost/healthz", "http://localhost:x/healthz", "http://local host/healthz",
        "http://[::1/healthz", "ftp://localhost/healthz", "file:///healthz", "javascript:alert(1)",
        "/healthz#a", "/#", "#", "http://localhost/healthz#a", "/health z", "/health\x01z",
        "/health\x7fz", "/h\xe9", "/\xc3\xa9")),
    *(told(f"target {target}", request(f"GET {target} HTTP/1.1"), 404) for target in ("//healthz",
        "//localhost/healthz", "/healthz/", "/HEALTHZ", "/healthz;a=b", "/nothing",
        f"/{20 * KIB * 'a'}", "/http://localhost/healthz")),
    *(told(f"target {target}", request(f"GET {target} HTTP/1.1"), 400, 404) for target in
        ("/../healthz", "/./healthz", "/v1/../healthz", "/healthz/..", "/healthz%00", "/%", "/%zz",
        "/%2e%2e/healthz", "/<b>", '/"', "/\\healthz", "/^", "/{a}", "/|")),
    *(told(f"call of {name}", request(f"POST /v1/functions/{name}/call HTTP/1.1",
        "Content-Length: 0"), 400, 404) for name in ("count%00", "%00count", "%ff", "count%2Fcall",
        "count%0d%0a", "..", "%2e", "", "count%20")),
    good("a name with percent signs", request(COUNT.replace("count", "c%6Funt"),
        "Content-Length: 0"), runs=1),
    refused("a target of 40 KiB", request(f"GET /{40 * KIB * 'a'} HTTP/1.1"), 414, 431),
    refused("a target without an end", b"GET /" + MIB * b"a", 414, 431),
    told("an absolute target elsewhere", request("GET http://example.com/healthz HTTP/1.1"), 403),
    told("an absolute target that ends like ours",
        request("GET http://notlocalhost/healthz HTTP/1.1"), 403),
    good("an absolute target here, and a host elsewhere",
        request("GET http://localhost/healthz HTTP/1.1", host="example.com")),
    refused("an absolute target without a host", request("GET http://localhost/healthz HTTP/1.1",
        host=None)),
    told("CONNECT", request("CONNECT localhost:80 HTTP/1.1", host="localhost:80"), 400, 405, 501),
    told("CONNECT to a path", request("CONNECT /healthz HTTP/1.1"), 400, 405, 501),
    told("OPTIONS of the server", request("OPTIONS * HTTP/1.1"), 200, 204),
    refused("POST of the server", request("POST * HTTP/1.1", "Content-Length: 0")),
)  # fmt: skip

# -- hosts ---------------------------------------------------------------------------------------

HOSTS = (
    *(good(f"host {host}", request(HEALTH, host=host)) for host in ("localhost", "LocalHost",
        "localhost:80", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:80", "shop.localhost",
        "  localhost  ")),
    refused("no host", request(HEALTH, host=None)),
    refused("two hosts, equal", health("Host: localhost")),
    refused("two hosts, different", health("Host: example.com")),
    *(told(f"host {host!r}", request(HEALTH, host=host), 400, 403) for host in ("", "example.com",
        "localhost.example.com", "localhost, localhost", "localhost,example.com", "a@localhost",
        "example.com@localhost", "localhost@example.com", "localhost:a", "localhost:80:80",
        "localhost:-1", "localhost:+80", "[::1", "::1", "[::1]a", "[localhost]", "local host",
        "localhost/", "localhost/a", "localhost?", "localhost#", "http://localhost",
        "localhost\\a", "*", ".", "localhost%00", "0.0.0.0", "2130706433",
        "\xe9.localhost.example.com")),
    refused("NUL in the host", request(HEALTH, host="localhost\0")),
)  # fmt: skip

# -- methods -------------------------------------------------------------------------------------

METHODS = (
    *(told(f"{method} where it does not belong", request(f"{method} /healthz HTTP/1.1"), 405, 501)
        for method in ("TRACE", "PATCH", "DELETE", "POST", "get", "Get", "PROPFIND", "M-SEARCH",
        "PRI", "X", 300 * "A")),
    refused("a method of 40 KiB", request(f"{40 * KIB * 'A'} /healthz HTTP/1.1"), 400, 405, 414,
        431, 501),
    refused("a method with a bracket", request("GE(T /healthz HTTP/1.1")),
    refused("a method with a colon", request("GET: /healthz HTTP/1.1")),
    refused("a method with a slash", request("GET/ /healthz HTTP/1.1")),
    refused("a method in quotes", request('"GET" /healthz HTTP/1.1')),
    refused("a method beyond ASCII", request("G\xcbT /healthz HTTP/1.1")),
    refused("no method", request(" /healthz HTTP/1.1")),
    attrs.evolve(good("HEAD", request("HEAD /healthz HTTP/1.1")), heads=(0,)),
    attrs.evolve(told("HEAD of nothing", request("HEAD /nothing HTTP/1.1"), 404), heads=(0,)),
    attrs.evolve(told("HEAD of a call", request("HEAD /v1/functions/echo/call HTTP/1.1"), 405),
        heads=(0,)),
    attrs.evolve(good("HEAD, and GET behind it", request("HEAD /healthz HTTP/1.1") + health(),
        answers=(200, 200)), heads=(0,)),
    told("OPTIONS of a path", request("OPTIONS /healthz HTTP/1.1"), 200, 204),
    told("OPTIONS of a call", request("OPTIONS /v1/functions/echo/call HTTP/1.1"), 200, 204),
    good("GET with a body", health(f"Content-Length: {len(SMUGGLED)}") + SMUGGLED, stays=None),
    good("GET with chunks", health(CHUNKED) + HELLO, stays=None),
    told("DELETE with a body", request("DELETE /healthz HTTP/1.1",
        f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED), 405),
    attrs.evolve(good("HEAD with a body", request("HEAD /healthz HTTP/1.1",
        f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED), stays=None), heads=(0,)),
    told("a body for no function", request(NOTHING, f"Content-Length: {len(SMUGGLED)}",
        body=SMUGGLED), 404),
    told("chunks for no function", request(NOTHING, CHUNKED, body=HELLO), 404),
    told("a body from a stranger", request(ECHO, f"Content-Length: {len(SMUGGLED)}",
        body=SMUGGLED), 401, settings=GUARDED),
    told("a body from a page of another site", request(ECHO, "Origin: http://example.com",
        f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED), 403),
)  # fmt: skip

# -- headers -------------------------------------------------------------------------------------

HEADERS = (
    good("a header without a value", health("X-A:")),
    good("a header with tabs in its value", health("X-A: b\tc")),
    good("a header beyond ASCII", health("X-A: caf\xe9")),
    good("a header in UTF-8", health("X-A: \xc3\xa9")),
    good("a header twice", health("X-A: b", "X-A: c")),
    good("names of all characters", health("!#$%&'*+-.^_`|~09azAZ: b")),
    either(good("a control character in a value", health("X-A: b\x01c")), 400),
    either(good("DEL in a value", health("X-A: b\x7fc")), 400),
    either(good("1,000 headers", health(*(f"X{n}: {n}" for n in range(1000)))), 431),
    refused("an empty name", health(": b")),
    refused("no colon", health("X-A")),
    refused("a colon alone", health(":")),
    refused("a space in a name", health("X A: b")),
    refused("a space before a colon", health("X-A : b")),
    refused("a tab before a colon", health("X-A\t: b")),
    *(refused(f"{mark!r} in a name", health(f"X{mark}A: b")) for mark in
        '(),/;<=>?@[\\]{}"\x7f\xe9\x01'),
    refused("a header of 40 KiB", health(f"X-A: {40 * KIB * 'a'}"), 431),
    refused("headers of 40 KiB", health(*1024 * [f"X-A: {35 * 'a'}"]), 431),
    refused("a name of 40 KiB", health(f"{40 * KIB * 'a'}: b"), 431),
    refused("headers without an end", health()[:-2] + 64 * KIB * b"X-A: 1234567890\r\n", 431),
    told("two content types", echo("Content-Type: application/json", "Content-Length: 2",
        body=b"[]"), 400),
    told("two timeouts", echo("Spear-Timeout: 1", "Spear-Timeout: 2"), 400),
    told("two tokens, the right one first", request(COUNT, f"Authorization: Bearer {TOKEN}",
        "Authorization: Bearer x", "Content-Length: 0"), 400, 401, settings=GUARDED),
    told("two tokens, the right one last", request(COUNT, "Authorization: Bearer x",
        f"Authorization: Bearer {TOKEN}", "Content-Length: 0"), 400, 401, settings=GUARDED),
    attrs.evolve(good("a token", request(COUNT, f"Authorization: Bearer {TOKEN}",
        "Content-Length: 0"), runs=1), settings=GUARDED),
    attrs.evolve(told("a token as a trailer", request(COUNT, CHUNKED,
        body=b"0\r\nAuthorization: Bearer %b\r\n\r\n" % TOKEN.encode()), 401), settings=GUARDED),
)  # fmt: skip

# -- Expect --------------------------------------------------------------------------------------

EXPECT = "Expect: 100-continue"


def expecting(name: str, head: bytes, *statuses: int, settings: GatewaySettings = PATIENT) -> Shape:
    """Return a request whose body is not wanted, so that the client gets no 100."""
    right = frozenset(statuses)
    return Shape(name=name, sent=(head,), answers=(right,), stays=False, settings=settings)


EXPECTATIONS = (
    Shape(name="a body that waits for 100", sent=(echo(EXPECT, "Content-Length: 5"), None,
        b"hello"), answers=(frozenset({200}),), continues=(1,), stays=True, runs=1, body=b"hello"),
    Shape(name="chunks that wait for 100", sent=(echo(EXPECT, CHUNKED), None, HELLO),
        answers=(frozenset({200}),), continues=(1,), stays=True, runs=1, body=b"hello"),
    Shape(name="100-Continue in capitals", sent=(echo(EXPECT.upper(), "Content-Length: 5"), None,
        b"hello"), answers=(frozenset({200}),), continues=(1,), stays=True, runs=1, body=b"hello"),
    Shape(name="two bodies that wait for 100", sent=2 * (echo(EXPECT, "Content-Length: 5"), None,
        b"hello", None), answers=2 * (frozenset({200}),), continues=(2,), stays=True, runs=2,
        body=b"hello"),
    Shape(name="a body that does not wait for 100", sent=(echo(EXPECT, "Content-Length: 5",
        body=b"hello"),), answers=(frozenset({200}),), continues=(0, 1), stays=True, runs=1,
        body=b"hello"),
    Shape(name="no body that could wait for 100", sent=(health(EXPECT),),
        answers=(frozenset({200}),), continues=(0, 1), stays=True),
    Shape(name="an empty body that waits for 100", sent=(echo(EXPECT, "Content-Length: 0"),),
        answers=(frozenset({200}),), continues=(0, 1), stays=True, runs=1),
    Shape(name="a body of HTTP/1.0 that waits for 100", sent=(request(ECHO.replace("1.1", "1.0"),
        BYTES, EXPECT, "Content-Length: 5", body=b"hello"),), answers=(frozenset({200}),),
        stays=None, runs=1, body=b"hello"),
    expecting("a body for no function waits for 100", request(NOTHING, EXPECT,
        "Content-Length: 5"), 404),
    expecting("chunks for no function wait for 100", request(NOTHING, EXPECT, CHUNKED), 404),
    expecting("a body for no path waits for 100", request("POST /nothing HTTP/1.1", EXPECT,
        "Content-Length: 5"), 404),
    expecting("a body for GET waits for 100", request("PUT /healthz HTTP/1.1", EXPECT,
        "Content-Length: 5"), 405),
    expecting("a body of a stranger waits for 100", echo(EXPECT, "Content-Length: 5"), 401,
        settings=GUARDED),
    expecting("a large body waits for 100", echo(EXPECT, f"Content-Length: {33 * MIB}"), 413),
    expecting("a body from another site waits for 100", echo(EXPECT, "Origin: http://example.com",
        "Content-Length: 5"), 403),
    expecting("a compressed body waits for 100", echo(EXPECT, "Content-Encoding: gzip",
        "Content-Length: 5"), 415),
    expecting("a body with two lengths waits for 100", echo(EXPECT, "Content-Length: 5", CHUNKED),
        400),
    told("another expectation", health("Expect: a-pony"), 417),
    told("another expectation besides", health("Expect: 100-continue, a-pony"), 417),
    told("another expectation of a call", echo("Expect: 200-ok", "Content-Length: 5",
        body=b"hello"), 417),
)  # fmt: skip

# -- persistent and closed connections -----------------------------------------------------------

CONNECTIONS = (
    good("Connection: close", health("Connection: close"), stays=False),
    good("Connection: Close", health("Connection: Close"), stays=False),
    good("Connection: keep-alive, close", health("Connection: keep-alive, close"), stays=False),
    good("Connection twice, one close", health("Connection: keep-alive", "Connection: close"),
        stays=False),
    good("close of a call", echo("Content-Length: 5", "Connection: close", body=b"hello"), runs=1,
        stays=False),
    good("close of a chunked call", echo(CHUNKED, "Connection: close", body=HELLO), runs=1,
        stays=False),
    good("a request behind one that closes", health("Connection: close") + SMUGGLED, stays=False),
    good("Connection: keep-alive", health("Connection: keep-alive")),
    good("Connection: anything", health("Connection: anything")),
    good("Connection without a value", health("Connection:")),
    good("Connection: closed", health("Connection: closed")),
    good("Connection with empty elements", health("Connection: , keep-alive,,")),
    good("Connection: content-length", echo("Connection: content-length", "Content-Length: 5",
        body=b"hello"), runs=1),
    good("Proxy-Connection", health("Proxy-Connection: close")),
    good("Keep-Alive", health("Keep-Alive: timeout=1, max=1")),
    good("TE", health("TE: trailers, deflate;q=0.5", "Connection: TE")),
    good("an upgrade to nothing known", health("Connection: upgrade", "Upgrade: anything/1")),
    good("an upgrade to h2c", health("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk")),
    good("an upgrade to TLS", health("Connection: upgrade", "Upgrade: TLS/1.2, HTTP/1.1")),
    good("an upgrade without Connection", health("Upgrade: websocket")),
    good("an upgrade of a call", echo("Connection: upgrade", "Upgrade: websocket",
        "Content-Length: 5", body=b"hello"), runs=1, body=b"hello"),
    told("a socket without an upgrade", request("GET /v1/functions/echo/socket HTTP/1.1"), 426),
    told("a socket with half an upgrade", request("GET /v1/functions/echo/socket HTTP/1.1",
        "Upgrade: websocket"), 426),
    told("an upgrade without a key", request("GET /v1/functions/echo/socket HTTP/1.1",
        "Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"), 400),
    good("HTTP/1.0", request("GET /healthz HTTP/1.0"), stays=False),
    good("HTTP/1.0 without a host", request("GET /healthz HTTP/1.0", host=None), stays=False),
    good("HTTP/1.0 and a call", request(ECHO.replace("1.1", "1.0"), BYTES, "Content-Length: 5",
        body=b"hello"), runs=1, body=b"hello", stays=False),
    good("HTTP/1.0 and close", request("GET /healthz HTTP/1.0", "Connection: close"), stays=False),
    good("HTTP/1.0 kept alive", request("GET /healthz HTTP/1.0", "Connection: keep-alive"),
        stays=None),
    good("HTTP/1.0 and a request behind it", request("GET /healthz HTTP/1.0") + SMUGGLED,
        stays=False),
    good("HTTP/1.0 and a stream", request("POST /v1/functions/blobs/stream HTTP/1.0",
        "Content-Length: 0"), runs=1, stays=False),
    good("a stream", request("POST /v1/functions/blobs/stream HTTP/1.1", "Content-Length: 0"),
        runs=1),
    told("HTTP/1.0 of two hosts", request("GET /healthz HTTP/1.0", "Host: localhost"), 400),
)  # fmt: skip

# -- several requests at once --------------------------------------------------------------------

PIPELINES = (
    good("three in one write", 3 * SMUGGLED, answers=3 * [200], runs=3, body=b"3"),
    good("three in three writes", SMUGGLED, SMUGGLED, SMUGGLED, answers=3 * [200], runs=3,
        body=b"3"),
    good("50 in one write", 50 * SMUGGLED, answers=50 * [200], runs=50, body=b"50"),
    good("a body glued to a head", 2 * echo("Content-Length: 5", body=b"hello"), answers=(200,
        200), runs=2, body=b"hello"),
    good("chunks glued to a head", 2 * chunked(HELLO), answers=(200, 200), runs=2, body=b"hello"),
    good("a body of 1 MiB glued to a head", 2 * echo(f"Content-Length: {MIB}", body=bytes(MIB)),
        answers=(200, 200), runs=2, body=bytes(MIB)),
    good("a trailer glued to a head", chunked(HELLO[:-2] + b"X-A: b\r\n\r\n") + SMUGGLED,
        answers=(200, 200), runs=2, body=b"1"),
    good("one for no path between others", SMUGGLED + request("GET /nothing HTTP/1.1") + SMUGGLED,
        answers=(200, 404, 200), runs=2, body=b"2"),
    good("one with bad arguments between others", SMUGGLED + request(ECHO,
        "Content-Type: application/json", "Content-Length: 3", body=b"[1,") + SMUGGLED,
        answers=(200, 400, 200), runs=2, body=b"2"),
    good("one that fails between others", SMUGGLED + request(COUNT.replace("count", "boom"),
        "Content-Length: 0") + SMUGGLED, answers=(200, 500, 200), runs=3, body=b"2"),
    good("one that closes between others", SMUGGLED + request(COUNT, "Content-Length: 0",
        "Connection: close") + SMUGGLED, answers=(200, 200), runs=2, body=b"2", stays=False),
    attrs.evolve(refused("garbage behind one", SMUGGLED + b"garbage\r\n\r\n"),
        answers=(frozenset({200}), frozenset({400})), runs=1),
    attrs.evolve(refused("zeros behind one", SMUGGLED + bytes(100) + b"\r\n\r\n"),
        answers=(frozenset({200}), frozenset({400})), runs=1),
    attrs.evolve(refused("a body longer than said", echo("Content-Length: 3",
        body=b"hello\r\n\r\n")), answers=(frozenset({200}), frozenset({400})), runs=1),
    attrs.evolve(refused("bad chunks behind one", SMUGGLED + chunked(b"xyz\r\n")),
        answers=(frozenset({200}), frozenset({400})), runs=1),
    attrs.evolve(refused("two lengths behind one", SMUGGLED + echo("Content-Length: 5", CHUNKED)),
        answers=(frozenset({200}), frozenset({400})), runs=1),
    attrs.evolve(refused("a large head behind one", SMUGGLED + health(f"X-A: {40 * KIB * 'a'}")),
        answers=(frozenset({200}), frozenset({431})), runs=1),
)  # fmt: skip

# -- clients that shut down their sending side ----------------------------------------------------


def cut_off(name: str, *sent: bytes, runs: int = 0) -> Shape:
    """Return a request that ends too early."""
    answers = (*runs * (frozenset({200}),), frozenset({NONE, 400}))
    return Shape(name=name, sent=sent, answers=answers, stays=False, ends=True, runs=runs)


HALF_CLOSED = (
    good("half-closed behind GET", health(), ends=True, stays=False),
    good("half-closed behind a call", SMUGGLED, ends=True, stays=False, runs=1, body=b"1"),
    good("half-closed behind a body", echo("Content-Length: 5", body=b"hello"), ends=True,
        stays=False, runs=1, body=b"hello"),
    good("half-closed behind chunks", chunked(HELLO), ends=True, stays=False, runs=1,
        body=b"hello"),
    good("half-closed behind 1 MiB", echo(f"Content-Length: {MIB}", body=bytes(MIB)), ends=True,
        stays=False, runs=1, body=bytes(MIB)),
    good("half-closed behind three", 3 * SMUGGLED, answers=3 * [200], ends=True, stays=False,
        runs=3, body=b"3"),
    good("half-closed behind a stream", request("POST /v1/functions/blobs/stream HTTP/1.1",
        "Content-Length: 0"), ends=True, stays=False, runs=1),
    good("half-closed behind HTTP/1.0", request("GET /healthz HTTP/1.0"), ends=True, stays=False),
    good("half-closed behind garbage", b"garbage\r\n\r\n", answers=[400], ends=True, stays=False),
    cut_off("half-closed before anything"),
    cut_off("half-closed in a request line", b"GET /heal"),
    cut_off("half-closed in the headers", health()[:-4]),
    cut_off("half-closed before the last LF", health()[:-1]),
    cut_off("half-closed behind bare CRs", b"GET /healthz HTTP/1.1\rHost: localhost\r\r"),
    cut_off("half-closed before a body", echo("Content-Length: 5")),
    cut_off("half-closed in a body", echo("Content-Length: 5", body=b"hell")),
    cut_off("half-closed in a chunk", chunked(b"5\r\nhell")),
    cut_off("half-closed behind a chunk", chunked(b"5\r\nhello\r\n")),
    cut_off("half-closed in the last chunk", chunked(b"5\r\nhello\r\n0\r\n")),
    cut_off("half-closed in a trailer", chunked(HELLO[:-2] + b"X-A: b\r\n")),
    cut_off("half-closed in a chunk of 17 digits", chunked(17 * b"f" + b"\r\nhello")),
    cut_off("half-closed in a second request", SMUGGLED + SMUGGLED[:-1], runs=1),
)  # fmt: skip

# -- bodies that are refused before they arrive ---------------------------------------------------

LARGE = 4 * MIB


def unwanted(name: str, head: bytes, *statuses: int, settings: GatewaySettings = PATIENT) -> Shape:
    """Return a large unwanted body: its client reads only at the end, and still gets the refusal."""
    return Shape(
        name=name, sent=(head, bytes(LARGE)), answers=(frozenset(statuses),), stays=None, is_late=True,
        settings=settings,
    )  # fmt: skip


LENGTH = f"Content-Length: {LARGE}"

REFUSED_EARLY = (
    unwanted("4 MiB for no function", request(NOTHING, LENGTH), 404),
    unwanted("4 MiB for no path", request("POST /nothing HTTP/1.1", LENGTH), 404),
    unwanted("4 MiB for GET", request("POST /healthz HTTP/1.1", LENGTH), 405),
    unwanted("4 MiB of a stranger", echo(LENGTH), 401, settings=GUARDED),
    unwanted("4 MiB of another site", echo(LENGTH, "Origin: http://example.com"), 403),
    unwanted("4 MiB where 1,000 bytes may be", echo(LENGTH), 413, settings=SMALL),
    unwanted("4 MiB, compressed", echo(LENGTH, "Content-Encoding: gzip"), 415),
    unwanted("4 MiB in two lengths", echo(LENGTH, CHUNKED), 400),
    unwanted("4 MiB that are not expected", echo(LENGTH, "Expect: a-pony"), 417),
    unwanted("4 MiB in one bad chunk", echo(CHUNKED, body=b"xyz\r\n"), 400),
    unwanted("4 MiB of garbage", b"garbage\r\n\r\n", 400),
)

GROUPS = {
    "lengths": LENGTHS,
    "lines": LINES,
    "versions": VERSIONS,
    "chunks": CHUNKS,
    "targets": TARGETS,
    "hosts": HOSTS,
    "methods": METHODS,
    "headers": HEADERS,
    "expectations": EXPECTATIONS,
    "connections": CONNECTIONS,
    "pipelines": PIPELINES,
    # An answer 100 is a way to find out whether the client still reads.
    "half-closed": tuple(attrs.evolve(each, continues=(0, 1, 2, 3)) for each in HALF_CLOSED),
    "refused early": REFUSED_EARLY,
}

SHAPES = tuple(shape for group in GROUPS.values() for shape in group)
