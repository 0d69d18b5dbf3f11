"""Requests as bytes: from h11's client, cut at every place, and bytes that are no request."""

from __future__ import annotations

import random

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spear.gateway._errors import Problem
from spear.gateway._http1 import (
    FRAMING_RATE,
    FREE_FRAMING_BYTES,
    LAST_CHUNK,
    MAX_HEAD_LINES,
    MOST_SKIPPED,
    RequestHead,
    RequestParser,
    chunk,
    response_head,
)

MOST = 1000
NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=10).map(
    lambda name: f"x-{name}"
)
VALUES = st.binary(max_size=20).map(lambda value: value.hex())


def written(
    path: str, headers: list[tuple[str, str]], chunks: list[bytes], *, counted: bool
) -> bytes:
    """Return the bytes that h11's client writes."""
    client = h11.Connection(h11.CLIENT)
    framing = (
        ("content-length", str(sum(map(len, chunks))))
        if counted
        else ("transfer-encoding", "chunked")
    )
    fields = [("host", "a"), *headers, framing]
    data = client.send(h11.Request(method="POST", target=path, headers=fields)) or b""
    for each in chunks:
        data += client.send(h11.Data(data=each)) or b""
    return data + (client.send(h11.EndOfMessage()) or b"")


def read(pieces: list[bytes], most: int = MOST) -> list[tuple[RequestHead, bytes]]:
    """Return the complete requests, and the received part of the last one."""
    parser = RequestParser(most)
    found: list[tuple[RequestHead, bytes]] = []
    body: list[bytes] = []
    head: RequestHead | None = None
    for piece in pieces:
        parser.receive(piece)
        while True:
            if head is None:
                head = parser.next_head_untrusted()
            if head is None:
                break
            while data := parser.next_data_untrusted():
                body.append(data)
            if not parser.is_body_complete:
                break
            found.append((head, b"".join(body)))
            head, body = None, []
    return found


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    """Cut data into pieces."""
    places = sorted(rng.sample(range(len(data)), min(len(data), 5)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(NAMES, VALUES), max_size=3),
            st.lists(st.binary(min_size=1, max_size=40), max_size=3),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    ),
    st.randoms(use_true_random=False),
)
def test_requests_that_h11_writes_are_read_whatever_their_cuts(
    requests: list[tuple[list[tuple[str, str]], list[bytes], bool]], rng: random.Random
) -> None:
    data = b"".join(
        written(f"/{number}?a=b", headers, chunks, counted=counted)
        for number, (headers, chunks, counted) in enumerate(requests)
    )
    for pieces in ([data], [bytes([each]) for each in data], cut(data, rng)):
        found = read(pieces)
        assert len(found) == len(requests)
        for number, ((head, body), (headers, chunks, counted)) in enumerate(
            zip(found, requests, strict=True)
        ):
            assert (head.method, head.target) == ("POST", f"/{number}?a=b")
            assert head.headers[1:-1] == [
                (name.encode(), value.encode()) for name, value in headers
            ]
            assert body == b"".join(chunks)
            assert head.length == (len(body) if counted else -1)
            assert (head.closes, head.upgrades, head.is_http_1_0) == (False, False, False)


START = b"POST / HTTP/1.1\r\nHost: a\r\n"


@given(
    st.binary(max_size=60),
    st.sampled_from([b"", START, START + b"Transfer-Encoding: chunked\r\n\r\n"]),
)
@example(b"Content-Length: 5, 6\r\n\r\n", START)
@example(b"\xff: a\r\n\r\n", START)
@example(b"10000000000000000000000\r\n", START + b"Transfer-Encoding: chunked\r\n\r\n")
def test_s18_whatever_comes_is_a_request_or_a_problem(data: bytes, start: bytes) -> None:
    """All cuts of the data give the same result."""

    def answers(pieces: list[bytes]) -> tuple[int, int | None]:
        parser = RequestParser(MOST)
        heads = 0
        try:
            for piece in pieces:
                parser.receive(piece)
                while True:
                    if parser.is_body_complete:
                        if parser.next_head_untrusted() is None:
                            break
                        heads += 1
                    while parser.next_data_untrusted():
                        pass
                    if not parser.is_body_complete:
                        break
        except Problem as problem:
            return heads, problem.status
        return heads, None

    whole = answers([start + data])
    assert whole == answers([start, *(bytes([each]) for each in data)])
    assert whole[1] in (None, 400, 417, 431)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"X: a\n", "LF alone"),
        (b"X: a\r\n b\r\n", "folded"),
        (b"X: a\r\n\tb\r\n", "folded"),
        (b"X : a\r\n", "illegal header line"),
        (b"X: a\rb\r\n", "illegal header line"),
        (
            b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding cannot be combined",
        ),
        (b"Content-Length: 1\r\nContent-Length: 2\r\n", "conflicting"),
        (b"Content-Length: +1\r\n", "bad Content-Length"),
    ],
)
def test_s18_what_two_readers_may_read_in_two_ways_is_refused(line: bytes, what: str) -> None:
    parser = RequestParser(MOST)
    parser.receive(START + line + b"\r\n")
    with pytest.raises(Problem, match=what) as caught:
        parser.next_head_untrusted()
    assert caught.value.status == 400


def test_a_head_without_an_end_takes_no_more_than_its_limit() -> None:
    parser = RequestParser(MOST)
    parser.receive(START + b"X: ")
    for _ in range(MOST - len(START + b"X: ")):
        assert parser.next_head_untrusted() is None
        parser.receive(b"x")
    assert parser.next_head_untrusted() is None
    parser.receive(b"x")
    with pytest.raises(Problem, match=f"the limit is {MOST} bytes") as caught:
        parser.next_head_untrusted()
    assert caught.value.status == 431


def test_s18_a_head_has_so_many_lines_and_no_more() -> None:
    lines = (MAX_HEAD_LINES - 2) * b"a:b\r\n"
    ((head, _),) = read([START + lines + b"\r\n"], 32 * 1024)
    assert len(head.headers) == MAX_HEAD_LINES - 1
    with pytest.raises(Problem, match=f"the limit is {MAX_HEAD_LINES} lines") as caught:
        read([START + lines + b"a:b\r\n\r\n"], 32 * 1024)
    assert caught.value.status == 431


def test_each_connection_header_counts() -> None:
    for lines in (b"Connection: close\r\nConnection: x\r\n", b"Connection: x, Close\r\n"):
        ((head, _),) = read([START + lines + b"\r\n"])
        assert head.closes


def test_what_cannot_be_a_request_is_refused_before_its_end() -> None:
    parser = RequestParser(MOST)
    parser.receive(b"\x16\x03\x01")  # the beginning of a TLS connection
    with pytest.raises(Problem, match="illegal request line"):
        parser.next_head_untrusted()


def test_one_empty_line_before_a_request_means_nothing() -> None:
    ((head, _),) = read([bytes([each]) for each in b"\r\n" + START + b"\r\n"])
    assert head.target == "/"
    with pytest.raises(Problem, match="no request line"):
        read([b"\r\n\r\n" + START + b"\r\n"])


@pytest.mark.parametrize("extension", [0, 1, FRAMING_RATE, 30])
def test_s18_chunks_may_cost_no_more_than_so_many_times_their_data(extension: int) -> None:
    parser = RequestParser(32 * 1024)
    parser.receive(START + b"Transfer-Encoding: chunked\r\n\r\n")
    assert parser.next_head_untrusted() is not None
    one = b"1;%b\r\nx\r\n" % (extension * b"y")
    count = 2 * FREE_FRAMING_BYTES
    try:
        for _ in range(count):
            parser.receive(one)
            assert parser.next_data_untrusted() == b"x"
            assert parser.next_data_untrusted() == b""
        allowed = True
    except Problem as problem:
        assert problem.status == 400  # noqa: PT017  # either may be refused
        allowed = False
    assert allowed == (len(one) - 1 <= FRAMING_RATE)


def test_trailers_belong_to_their_body_and_mean_nothing() -> None:
    data = START + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"ab")
    both = read([data + b"0\r\nX-Checksum: 1\r\n\r\n" + data + LAST_CHUNK])
    assert [body for _, body in both] == [b"ab", b"ab"]
    assert all(b"x-checksum" not in dict(head.headers) for head, _ in both)


def test_what_is_left_of_a_body_can_be_dropped_when_it_has_come() -> None:
    for framing, rest in (
        (b"Content-Length: 2\r\n\r\n", b"b"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\n", b"b\r\n0\r\n\r\n"),
    ):
        parser = RequestParser(MOST)
        parser.receive(START + framing + b"a")
        assert parser.next_head_untrusted() is not None
        assert not parser.skip_body_untrusted()
        parser.receive(rest + START + b"\r\n")
        assert parser.skip_body_untrusted()
        assert parser.next_head_untrusted() is not None
    parser = RequestParser(MOST)
    parser.receive(START + b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n")
    assert parser.next_head_untrusted() is not None
    assert not parser.skip_body_untrusted()


def test_s18_a_body_of_many_chunks_is_not_dropped() -> None:
    """Dropping such a body takes 1/3 s per 64 KiB, before the client has shown a token."""
    for count, is_dropped in ((MOST_SKIPPED - 1, True), (MOST_SKIPPED, False)):
        parser = RequestParser(MOST)
        parser.receive(START + b"Transfer-Encoding: chunked\r\n\r\n" + count * chunk(b"x"))
        parser.receive(LAST_CHUNK)
        assert parser.next_head_untrusted() is not None
        assert parser.skip_body_untrusted() == is_dropped


@given(st.lists(st.tuples(NAMES, VALUES), max_size=4), st.sampled_from([200, 202, 404, 499, 599]))
def test_h11_reads_the_heads_of_our_responses(headers: list[tuple[str, str]], status: int) -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    fields = [(name.encode(), value.encode()) for name, value in headers]
    client.receive_data(response_head(status, [*fields, (b"content-length", b"2")]) + b"ab")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == status
    assert [
        each for each in response.headers if each[0] not in (b"date", b"content-length")
    ] == fields
    assert dict(response.headers)[b"date"].endswith(b" GMT")
    assert client.next_event() == h11.Data(data=b"ab")


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"\r\n"])
def test_a_response_cannot_be_split_by_a_value(value: bytes) -> None:
    with pytest.raises(ValueError, match="line break"):
        response_head(200, [(b"x", value)])
