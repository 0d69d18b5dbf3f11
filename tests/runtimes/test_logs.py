"""The kept output of instances: bounded, readable, harmless."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from spear import HostLimits, InstanceId, Instrument
from spear.runtimes import LogBook
from spear.runtimes._logs import LINE_OVERHEAD_BYTES
from spear.telemetry import Instruments

from .helpers import listening

if TYPE_CHECKING:
    import random

    from spear.telemetry import LogLine, OutputName

ID = InstanceId("process", "worker")
LIMITS = HostLimits(log_line_bytes=20, log_tail_bytes=10 * (LINE_OVERHEAD_BYTES + 20))


def texts(book: LogBook) -> list[str]:
    return [line.text for line in book.lines()]


def fed(*chunks: bytes, limits: HostLimits = LIMITS) -> list[str]:
    book = LogBook(ID, limits)
    tail = book.tail("stdout")
    for chunk in chunks:
        tail.feed(chunk)
    tail.finish()
    return texts(book)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\ntwo", ["one", "two"]),
        (b"\n\n", ["", ""]),
        (b"dos\r\n", ["dos"]),
        (b"a\rb\n", ["b"]),
        (b"\r 10%\r 20%\r\r\n\r\nend\r", [" 20%", "", "end"]),
        (b"x" * 30 + b"\rshort\n", ["short"]),
        (b"tab\there\n", ["tab\there"]),
        ("grün, 木\n".encode(), ["grün, 木"]),
        (b"bad \xff\xc3\n", ["bad \\xff\\xc3"]),
        (b"\x1b[2J\x07\n", ["\\x1b[2J\\x07"]),
        ("\x85\u2028\u2029\n".encode(), ["\\x85\\u2028\\u2029"]),
        (b"x" * 20 + b"\n", ["x" * 20]),
        (b"x" * 21 + b"\n", ["x" * 20 + " … 1 more bytes"]),
        (b"x" * 50, ["x" * 20 + " … 30 more bytes"]),
    ],
)
def test_lines_are_the_same_however_they_arrive(
    data: bytes, lines: list[str], seed: random.Random
) -> None:
    assert fed(data) == lines
    assert fed(*(data[i : i + 1] for i in range(len(data)))) == lines
    cuts = sorted(seed.choices(range(len(data) + 1), k=4))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert fed(*pieces) == lines


def test_only_the_end_is_kept() -> None:
    assert fed(b"".join(b"%20d\n" % number for number in range(100))) == [
        f"{number:20}" for number in range(90, 100)
    ]


def test_one_line_is_kept_even_if_it_is_larger_than_all() -> None:
    limits = HostLimits(log_line_bytes=100, log_tail_bytes=10)
    assert fed(b"x" * 100 + b"\n", limits=limits) == ["x" * 100]


@pytest.mark.slow
@pytest.mark.repetitive
@pytest.mark.parametrize("flood", [b"\n", b"x", b"\x00", b"\xff"])
def test_a_flood_costs_no_memory(flood: bytes) -> None:
    limits = HostLimits()
    book = LogBook(ID, limits)
    chunk = flood * 8192
    tail = book.tail("stderr")
    tracemalloc.start()
    try:
        for _ in range(16):
            tail.feed(chunk)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # One byte may have become an escape of four characters, and each line has its object.
    assert most < 16 * limits.log_tail_bytes


def test_lines_of_both_streams_are_in_the_order_of_reading() -> None:
    book = LogBook(ID, LIMITS)
    for number in range(4):
        book.tail("stdout" if number % 2 else "stderr").feed(b"%d\n" % number)
    assert [(line.stream, line.text) for line in book.lines()] == [
        ("stderr", "0"),
        ("stdout", "1"),
        ("stderr", "2"),
        ("stdout", "3"),
    ]
    assert [line.number for line in book.lines()] == [1, 2, 3, 4]


def test_the_text_has_what_fits_and_what_has_not_ended() -> None:
    book = LogBook(ID, LIMITS)
    tail = book.tail("stderr")
    assert tail.text(10) == ""
    tail.feed(b"first\nsecond\nthi")
    assert tail.text(100) == "first\nsecond\nthi"
    assert tail.text(11) == "second\nthi"
    assert tail.text(10) == "thi"
    assert tail.text(2) == "hi"


def test_each_line_is_logged_with_its_instance() -> None:
    with listening() as lines:
        fed(b"hello\n")
    assert lines.texts == ["process:worker#1 stdout: hello"]


def test_an_observer_that_exits_costs_no_line(caplog: pytest.LogCaptureFixture) -> None:
    def leave(*_: object) -> None:
        raise SystemExit(4)

    book = LogBook(ID, LIMITS, leave)
    tail = book.tail("stdout")
    tail.feed(b"one\ntwo\n")
    assert texts(book) == ["one", "two"]
    assert caplog.messages.count(f"the callback on_line of {ID} raised") == 2


class Unfinished(Instrument):
    """An instrument that records lines and their beginnings."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def line_unfinished(self, instance: InstanceId, stream: OutputName, text: str) -> None:
        assert (instance, stream) == (ID, "stderr")
        self.seen.append(("unfinished", text))

    def line_written(self, instance: InstanceId, line: LogLine) -> None:
        self.seen.append(("line", line.text))


def test_an_unfinished_line_is_shown_as_it_grows() -> None:
    watcher = Unfinished()
    tail = LogBook(ID, LIMITS, instruments=Instruments([watcher])).tail("stderr")
    for chunk in (b"whole\n", b"\r 10%", b"\r 20%", b"", b" \x1b", b"\nnext\n", b"x" * 30):
        tail.feed(chunk)
    tail.finish()
    assert watcher.seen == [
        ("line", "whole"),
        ("unfinished", " 10%"),
        ("unfinished", " 20%"),
        ("unfinished", " 20% \\x1b"),
        ("line", " 20% \\x1b"),
        ("line", "next"),
        ("unfinished", ""),
        ("unfinished", "x" * 20 + " … 10 more bytes"),
        ("line", "x" * 20 + " … 10 more bytes"),
        ("unfinished", ""),
    ]
