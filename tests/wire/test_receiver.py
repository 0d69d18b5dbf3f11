"""Bytes in, frames out: cuts, limits, fragmented payloads, and the memory of payloads."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from spear import RemoteProtocolError, WireLimits
from spear._limits import KIB, MIB
from spear.testing import Cut
from spear.wire import FRAGMENT, MORE, Frame, FrameType, Head, Receiver, encode_head, pack_prefix
from spear.wire import _receiver as receiver_module
from spear.wire._assembly import uncleared
from spear.wire._frames import PLAIN_BYTES
from spear.wire._heads import load_map_untrusted
from spear.wire._receiver import DIRECT_BYTES

from .helpers import (
    SMALL,
    first_fragment,
    frame,
    further_fragment,
    in_parts,
    open_receiver,
    raw_frame,
    receive,
    request,
)
from .test_heads import peak_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

ITEM = FrameType.STREAM_DATA


def payloads(frames: Iterable[Frame]) -> list[bytes]:
    return [bytes(each[6]) for each in frames]


def refused(data: bytes, cut: Cut, receiver: Receiver | None = None) -> str:
    """Return the error for these bytes, which the receiver must refuse."""
    receiver = receiver or open_receiver(SMALL)
    receive(receiver, cut(data))
    assert isinstance(receiver.error, RemoteProtocolError)
    return str(receiver.error)


class TestWholeFrames:
    """Frames that carry their payload themselves."""

    @pytest.mark.parametrize("size", [0, 1, 100, DIRECT_BYTES, DIRECT_BYTES + 1, 50 * KIB])
    @pytest.mark.parametrize("head", [None, {"k": "v" * 50}])
    def test_they_arrive_however_they_are_cut(self, size: int, head: Head | None, cut: Cut) -> None:
        payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
        data = frame(0x91, 4, 3, 1, 2, payload, head)
        data = frame(0x91) + data + frame(0x92, payload=b"after")
        frames = receive(open_receiver(), cut(data))
        assert frames == [
            (0x91, 0, 0, 0, 0, None, b""),
            (0x91, 4, 3, 1, 2, head, payload),
            (0x92, 0, 0, 0, 0, None, b"after"),
        ]
        assert {type(each) for each in payloads(frames)} == {bytes}

    def test_nothing_is_kept_of_frames_that_are_complete(self, cut: Cut) -> None:
        receiver = open_receiver()
        receive(receiver, cut(frame(0x91, payload=bytes(20 * KIB)) * 2))
        assert receiver.buffered_bytes == 0
        assert receiver.direct is None

    def test_a_head_is_decoded_once_however_slowly_the_payload_drips_in(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A head of 1,024 items takes 0.3 ms; decoding it again for each of the 12,000 bytes after it
        # would keep a core busy with one peer.
        decoded = []

        def count(data: bytes) -> object:
            decoded.append(len(data))
            return load_map_untrusted(data)

        monkeypatch.setattr(receiver_module, "load_map_untrusted", count)
        data = raw_frame(encode_head({"k": "x" * 60_000}), bytes(12_000))
        receiver = open_receiver()
        assert receive(receiver, [data[:-6000]]) == []
        (complete,) = receive(
            receiver, [data[i : i + 1] for i in range(len(data) - 6000, len(data))]
        )
        assert len(complete[6]) == 12_000
        assert len(decoded) == 1


class TestCaps:
    """Lengths are checked before a byte after them is kept."""

    @pytest.mark.parametrize("length", [4097, 64 * KIB, 2**32, 2**63, 2**64 - 1])
    def test_s6_strangers_are_refused_at_eight_bytes(self, length: int, cut: Cut) -> None:
        receiver = Receiver(WireLimits())
        error = refused(length.to_bytes(8, "little"), cut, receiver)
        assert error == f"a frame has {length} bytes; at most 4096 are allowed"

    @pytest.mark.parametrize("above", [1, 2**20, 2**40])
    def test_s6_friends_are_refused_at_eight_bytes(self, above: int, cut: Cut) -> None:
        cap = PLAIN_BYTES + SMALL.max_head_bytes + SMALL.fragment_bytes
        receiver = open_receiver(SMALL)
        receive(receiver, cut(cap.to_bytes(8, "little")))
        assert receiver.error is None
        error = refused((cap + above).to_bytes(8, "little"), cut, open_receiver(SMALL))
        assert error == f"a frame has {cap + above} bytes; at most {cap} are allowed"

    @pytest.mark.parametrize("length", [0, 1, 28])
    def test_s6_frames_below_the_smallest_are_refused(self, length: int, cut: Cut) -> None:
        error = refused(length.to_bytes(8, "little") + bytes(60), cut)
        assert error == f"a frame has {length} bytes; at least {PLAIN_BYTES} are required"

    @pytest.mark.parametrize("length", [4097, 2**32, 2**64 - 1])
    def test_s6_a_claim_costs_no_memory(self, length: int) -> None:
        claim = length.to_bytes(8, "little") + bytes(8)
        receiver = Receiver(WireLimits())
        assert peak_bytes(lambda: receiver.receive_data(claim)) < 64 * KIB

    def test_s6_frames_in_front_of_a_claim_still_count(self, cut: Cut) -> None:
        receiver = open_receiver()
        frames = receive(receiver, cut(frame(0x91, payload=b"good") + b"\xff" * 8))
        assert payloads(frames) == [b"good"]
        assert receiver.error is not None

    def test_a_tls_client_is_told_what_it_is_doing(self, cut: Cut) -> None:
        hello = bytes.fromhex("16030100c8010000c40303")
        assert refused(hello, cut) == "the peer uses TLS, but this connection does not"

    def test_s6_what_is_kept_of_an_incomplete_frame_is_bounded(self) -> None:
        for head in (None, {"k": "x" * 60_000}):
            data = frame(0x91, payload=bytes(200 * KIB), head=head)
            receiver = open_receiver()
            most = 0
            for start in range(0, len(data), 1000):
                receiver.receive_data(data[start : start + 1000])
                most = max(most, receiver.buffered_bytes)
            assert most < (64 * KIB if head else DIRECT_BYTES) + KIB

    def test_after_an_error_nothing_is_read(self, cut: Cut) -> None:
        receiver = open_receiver()
        refused(b"\xff" * 8, cut, receiver)
        with pytest.raises(RemoteProtocolError) as raised:
            receiver.receive_data(frame(0x91))
        assert raised.value is receiver.error


class TestShape:
    """Bytes that are no valid frame are refused as soon as possible."""

    @pytest.mark.parametrize("at", [8, 9, 12, 21, 26])
    @pytest.mark.parametrize("size", [0, 20 * KIB])
    def test_each_fixed_byte_is_checked(self, at: int, size: int, cut: Cut) -> None:
        data = bytearray(frame(0x91, payload=bytes(size)))
        data[at] ^= 0x01
        assert refused(bytes(data[:37]), cut) == "not a Spear frame"

    def test_a_payload_must_be_bytes(self, cut: Cut) -> None:
        data = bytearray(frame(0x91))
        data[32] = 0x7A  # text
        assert refused(bytes(data), cut) == "the lengths of a frame and its payload do not match"

    @pytest.mark.parametrize("change", [-1, 1, 2**31])
    def test_a_payload_must_fill_its_frame(self, change: int, cut: Cut) -> None:
        prefix = pack_prefix(0x91, 0, 0, 0, 0, None, 5)
        data = prefix[:-4] + (5 + change).to_bytes(4, "big") + b"12345"
        assert refused(data, cut) == "the lengths of a frame and its payload do not match"

    @pytest.mark.parametrize("missing", range(1, 6))
    def test_a_frame_needs_a_payload(self, missing: int, cut: Cut) -> None:
        data = frame(0x91, head={"k": "123456"})
        length = len(data) - 8 - missing
        data = length.to_bytes(8, "little") + data[8 : len(data) - missing]
        assert refused(data, cut) == "a frame without a payload"

    def test_a_head_must_end_inside_its_frame(self, cut: Cut) -> None:
        body = frame(0x91)[8:31] + b"\x78\xff" + b"x" * 20
        data = len(body).to_bytes(8, "little") + body
        assert refused(data, cut) == f"a head is incomplete, or longer than {len(body) - 23} bytes"

    def test_a_bad_head_is_named(self, cut: Cut) -> None:
        assert refused(raw_frame(b"\xa1\x01\x02"), cut) == "invalid head: a key is not text"


class TestParts:
    """Payloads in several frames."""

    @pytest.mark.parametrize("sizes", [(1,), (1, 1), (1024, 17 * KIB), (17 * KIB, 17 * KIB, 1)])
    def test_they_are_put_together(self, sizes: tuple[int, ...], cut: Cut) -> None:
        payload = bytes(range(250)) * 150
        parts = in_parts(0x91, 3, payload, *sizes, flags=4)
        frames = receive(open_receiver(SMALL), cut(b"".join(parts)))
        assert frames == [(0x91, 4, 3, 1, 0, None, payload)]
        assert type(frames[0][6]) is bytes

    def test_the_rest_of_the_head_stays(self, cut: Cut) -> None:
        head: Head = {"size": 10, "function": "f"}
        data = frame(0x90, FRAGMENT | MORE | 4, 1, 5, 6, b"12345", head)
        data += further_fragment(1, b"67890", is_last=True)
        assert receive(open_receiver(), cut(data)) == [
            (0x90, 4, 1, 5, 6, {"function": "f"}, b"1234567890")
        ]

    def test_payloads_of_several_calls_take_turns(self, cut: Cut) -> None:
        all_parts = [
            in_parts(0x91, call_id, bytes([call_id]) * 40_000, 2_000, 18_000)
            for call_id in (1, 3, 5)
        ]
        data = b"".join(
            part + frame(ITEM, 0, 7, 1, 0, b"between")
            for turn in zip(*all_parts, strict=True)
            for part in turn
        )
        frames = receive(open_receiver(WireLimits(assembly_bytes=150_000)), cut(data))
        large = [each for each in frames if each[2] != 7]
        assert [(each[2], each[6]) for each in large] == [
            (call_id, bytes([call_id]) * 40_000) for call_id in (1, 3, 5)
        ]
        assert len(frames) == 12

    def test_strangers_send_no_parts(self, cut: Cut) -> None:
        for data in (
            first_fragment(0x82, 0, 4 * MIB, b"x"),
            further_fragment(0, b"x", is_last=True),
            frame(0x82) + first_fragment(0x82, 0, 4 * MIB, b"x"),
        ):
            receiver = Receiver(WireLimits())
            assert peak_bytes(lambda r=receiver, d=data: receive(r, cut(d))) < 64 * KIB  # type: ignore[misc]  # mypy cannot infer a lambda with defaults
            assert str(receiver.error) == "a fragment before the end of the handshake"

    @pytest.mark.parametrize(
        "data",
        [
            frame(0x91, FRAGMENT | MORE, 1, payload=b"x"),
            frame(0x91, FRAGMENT | MORE, 1, payload=b"x", head={"sizes": 5}),
            frame(0x91, FRAGMENT | MORE, 1, payload=b"x", head={"size": "5"}),
            frame(0x91, FRAGMENT | MORE, 1, payload=b"x", head={"size": True}),
            frame(0x91, FRAGMENT | MORE, 1, payload=b"x", head={"size": 5.0}),
            frame(0x91, FRAGMENT | MORE, 1, payload=b"x", head={"size": -5}),
            first_fragment(0x91, 1, 5, b""),
            first_fragment(0x91, 1, 5, b"12345"),
            first_fragment(0x91, 1, 5, b"123456"),
        ],
    )
    def test_a_first_part_says_how_much_will_come(self, data: bytes, cut: Cut) -> None:
        assert refused(data, cut).startswith("a first fragment must have")

    @pytest.mark.parametrize(
        "data",
        [
            further_fragment(1, b"12345", is_last=False),
            further_fragment(1, b"123456", is_last=True),
            further_fragment(1, b"123456", is_last=False),
            further_fragment(1, b"1234", is_last=True),
        ],
    )
    def test_parts_must_add_up(self, data: bytes, cut: Cut) -> None:
        data = first_fragment(0x91, 1, 10, b"12345") + data
        assert refused(data, cut) == "fragments do not match the payload's size (call 1)"

    @pytest.mark.parametrize("is_last", [True, False])
    def test_s9_an_empty_part_is_refused(self, is_last: bool, cut: Cut) -> None:
        data = first_fragment(0x91, 1, 10, b"12345") + further_fragment(1, b"", is_last=is_last)
        assert refused(data, cut) == "an empty fragment (call 1)"

    def test_a_part_of_nothing_is_refused(self, cut: Cut) -> None:
        assert refused(further_fragment(1, b"x", is_last=True), cut) == (
            "a fragment without a first fragment (call 1)"
        )

    def test_a_call_has_one_at_a_time(self, cut: Cut) -> None:
        data = first_fragment(0x91, 1, 10, b"12345") * 2
        assert refused(data, cut) == "two fragmented payloads at once (call 1)"

    def test_the_whole_is_capped_at_its_first_part(self, cut: Cut) -> None:
        size = SMALL.max_message_bytes
        receiver = open_receiver(SMALL)
        receive(receiver, cut(first_fragment(0x91, 1, size, b"x")))
        assert receiver.error is None
        error = refused(first_fragment(0x91, 1, size + 1, b"x"), cut)
        assert error == f"a payload has {size + 1} bytes; at most {size} are allowed"

    def test_all_that_have_begun_are_capped_together(self, cut: Cut) -> None:
        half = SMALL.assembly_bytes // 2
        two = first_fragment(0x91, 1, half, b"x") + first_fragment(0x91, 3, half, b"x")
        receiver = open_receiver(SMALL)
        receive(receiver, cut(two))
        assert receiver.error is None
        assert receiver.buffered_bytes == 2 * half
        error = refused(two + first_fragment(0x91, 5, 2, b"x"), cut)
        assert error == f"incomplete payloads have more than {2 * half} bytes together"

    def test_a_larger_one_may_come_alone(self, cut: Cut) -> None:
        large = first_fragment(0x91, 1, SMALL.assembly_bytes + 1, b"x")
        receiver = open_receiver(SMALL)
        receive(receiver, cut(large))
        assert receiver.error is None
        assert refused(large + first_fragment(0x91, 3, 2, b"x"), cut).startswith(
            "incomplete payloads"
        )

    def test_memory_is_claimed_as_the_bytes_come(self) -> None:
        receiver = open_receiver()
        begun = peak_bytes(lambda: receive(receiver, [first_fragment(0x91, 1, 32 * MIB, b"x")]))
        assert begun < 5 * MIB


class TestUnwanted:
    """Payloads that are refused, abandoned, or not wanted any more."""

    LARGE = bytes(1 * KIB + 3 * 17 * KIB)

    def parts(self) -> list[bytes]:
        return in_parts(0x90, 1, self.LARGE, 1 * KIB, 17 * KIB, 17 * KIB)

    def test_a_refused_payload_is_thrown_away(self, cut: Cut) -> None:
        asked: list[tuple[object, ...]] = []
        receiver = Receiver(SMALL)

        def refuse(*what: object) -> bool:
            asked.append(what)
            return False

        receiver.open(refuse)
        data = b"".join(self.parts()) + frame(0x91, payload=b"after")
        assert payloads(receive(receiver, cut(data))) == [b"after"]
        assert receiver.buffered_bytes == 0
        assert asked == [(0x90, 0, 1, 1, 0, {"size": len(self.LARGE)}, len(self.LARGE))]

    def test_its_call_id_can_come_again_behind_its_last_part(self, cut: Cut) -> None:
        receiver = Receiver(SMALL)
        receiver.open(lambda *_: False)
        receive(receiver, cut(b"".join(self.parts() * 2)))
        assert receiver.error is None
        receive(receiver, cut(self.parts()[0] * 2))
        assert str(receiver.error) == "two fragmented payloads at once (call 1)"

    def test_an_empty_part_of_it_is_refused_all_the_same(self, cut: Cut) -> None:
        receiver = Receiver(SMALL)
        receiver.open(lambda *_: False)
        data = self.parts()[0] + further_fragment(1, b"", is_last=False)
        assert refused(data, cut, receiver) == "an empty fragment (call 1)"

    def test_the_number_of_refused_ones_under_way_is_capped(self, cut: Cut) -> None:
        receiver = Receiver(SMALL)
        receiver.open(lambda *_: False)
        firsts = [first_fragment(0x90, n, 1000, b"x") for n in range(1, 2 * SMALL.max_calls, 2)]
        receive(receiver, cut(b"".join(firsts)))
        assert receiver.error is None
        error = refused(first_fragment(0x90, 99, 1000, b"x"), cut, receiver)
        assert error == "too many refused payloads are still arriving"

    @pytest.mark.parametrize("received", [1, 2, 3])
    def test_what_has_come_can_be_refused_later(self, received: int, cut: Cut) -> None:
        receiver = open_receiver(SMALL)
        parts = self.parts()
        receive(receiver, cut(b"".join(parts[:received])))
        assert receiver.is_assembling(1)
        receiver.refuse(1)
        assert receiver.assembling_bytes == 0
        assert receiver.buffered_bytes == 0
        rest = b"".join(parts[received:]) + frame(0x91, payload=b"after")
        assert payloads(receive(receiver, cut(rest))) == [b"after"]

    @pytest.mark.parametrize("missing", [1, 15 * KIB])
    def test_it_can_be_refused_in_the_middle_of_a_part(self, missing: int, cut: Cut) -> None:
        for count in (2, 3, 4):  # the last of these fragments is the last of all
            receiver = open_receiver(SMALL)
            parts = self.parts()
            data, rest = b"".join(parts[:count]), b"".join(parts[count:])
            receive(receiver, cut(data[:-missing]))
            receiver.refuse(1)
            assert receiver.direct is None
            rest = data[-missing:] + rest
            assert receive(receiver, cut(rest + frame(0x91)))[0][0] == 0x91
            # The payload is forgotten: its id may be used again, and its last fragment has arrived.
            error = refused(further_fragment(1, b"x", is_last=True), cut, receiver)
            assert error == "a fragment without a first fragment (call 1)"

    def test_refusing_what_is_not_there_does_nothing(self) -> None:
        receiver = open_receiver(SMALL)
        receiver.refuse(1)
        receive(receiver, self.parts())
        assert receiver.error is None

    def test_a_payload_that_was_given_up_is_forgotten(self, cut: Cut) -> None:
        receiver = open_receiver(SMALL)
        assert not receiver.abandon(1)
        parts = self.parts()
        receive(receiver, cut(b"".join(parts[:2])))
        assert receiver.abandon(1)
        assert not receiver.abandon(1)
        assert receiver.buffered_bytes == 0
        assert len(receive(receiver, cut(b"".join(parts)))) == 1

    def test_a_refused_payload_that_was_given_up_is_forgotten(self, cut: Cut) -> None:
        receiver = Receiver(SMALL)
        receiver.open(lambda *_: False)
        receive(receiver, cut(self.parts()[0]))
        assert receiver.abandon(1)
        assert not receiver.abandon(1)

    def test_no_room_is_lost_to_payloads_that_were_not_wanted(self, cut: Cut) -> None:
        receiver = open_receiver(SMALL)
        first = first_fragment(0x90, 1, SMALL.assembly_bytes, b"x")
        for _ in range(3):
            receive(receiver, cut(first))
            receiver.abandon(1)
            receive(receiver, cut(first))
            receiver.refuse(1)
            receiver.abandon(1)
        assert receiver.error is None


class TestPause:
    """Frames in front of a fragment are returned before the fragment is examined."""

    def test_whether_a_fragment_is_welcome_is_asked_after_the_frames_in_front(
        self, cut: Cut
    ) -> None:
        seen: list[str] = []
        receiver = Receiver(SMALL)

        def admit(*_: object) -> bool:
            seen.append("asked")
            return True

        receiver.open(admit)
        parts = in_parts(ITEM, 1, bytes(2000), 1000)
        data = request(1) + parts[0] + request(3) + parts[1] + request(5)
        for piece in cut(data):
            frames = receiver.receive_data(piece)
            while True:
                seen += [f"{each[0]:#x} {each[2]}" for each in frames]
                if not receiver.paused:
                    break
                frames = receiver.resume()
        assert seen == ["0x90 1", "asked", "0x90 3", "0x95 1", "0x90 5"]

    def test_it_pauses_at_once(self) -> None:
        receiver = open_receiver(SMALL)
        frames = receiver.receive_data(
            request(1) + first_fragment(ITEM, 1, 2000, b"x") + request(3)
        )
        assert [each[2] for each in frames] == [1]
        assert receiver.paused
        assert [each[2] for each in receiver.resume()] == [3]
        assert not receiver.paused

    def test_bytes_that_arrive_meanwhile_come_behind(self) -> None:
        receiver = open_receiver(SMALL)
        parts = in_parts(ITEM, 1, b"12345", 1)
        receiver.receive_data(request(1) + parts[0])
        assert receiver.paused
        assert payloads(receiver.receive_data(parts[1])) == [b"12345"]

    def test_a_violation_behind_the_pause_is_found_behind_it(self, cut: Cut) -> None:
        receiver = open_receiver(SMALL)
        frames = receive(receiver, cut(request(1) + first_fragment(ITEM, 1, 1, b"") + request(3)))
        assert [each[2] for each in frames] == [1]
        assert receiver.error is not None


def admit_for(receiver: Receiver, *_: object) -> bool:
    return receiver.error is None


def receive_directly(receiver: Receiver, data: bytes) -> list[Frame]:
    """Feed bytes like a socket: into the payload's memory if there is any, in pieces of 32 KiB."""
    frames = []
    while data:
        target = receiver.direct
        if target is None:
            # A few bytes, so that the next head is found before the payload is read loosely.
            frames += receiver.receive_data(data[:2048])
            data = data[2048:]
        else:
            count = min(len(target), len(data), 32 * KIB)
            target[:count] = data[:count]
            del target
            data = data[count:]
            frames += receiver.received_direct(count)
    return frames


RECEIVING = """
import resource
from spear import WireLimits
from spear.wire import FrameType, Receiver, pack_prefix

SIZE = 1 << 20
head = pack_prefix(int(FrameType.EXECUTION_RESPONSE), 0, 1, 0, 0, None, SIZE)

def receive():
    receiver = Receiver(WireLimits())
    receiver.open(lambda *_: True)
    frames = receiver.receive_data(head)
    while not frames:
        target = receiver.direct
        count = len(target)
        target[:] = bytes(count)
        del target
        frames = receiver.received_direct(count)

for count in 5, 50:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        receive()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


class TestInPlace:
    """Large payloads are received directly into the memory that the application gets."""

    @pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the reuse depends on glibc")
    def test_their_memory_is_used_again(self) -> None:
        """New memory for each payload of 1 MiB would cost hundreds of page faults."""
        command = [sys.executable, "-c", RECEIVING]
        faults = int(subprocess.run(command, capture_output=True, check=True).stdout)
        assert faults < 50 * 16

    @pytest.mark.parametrize("size", [20 * KIB, 100 * KIB])
    def test_a_whole_frame(self, size: int) -> None:
        payload = bytes(range(256)) * (size // 256)
        frames = receive_directly(open_receiver(), frame(0x91, payload=payload) * 3)
        assert payloads(frames) == [payload] * 3

    def test_parts_that_take_turns(self) -> None:
        left = in_parts(0x91, 1, b"l" * 200_000, 1024, 80_000)
        right = in_parts(0x91, 3, b"r" * 150_000, 1024, 80_000)
        data = b"".join(a + b for a, b in zip(left, right, strict=True))
        frames = receive_directly(open_receiver(), data + frame(0x92))
        assert payloads(frames) == [b"l" * 200_000, b"r" * 150_000, b""]

    def test_direct_and_loose_bytes_can_be_mixed(self) -> None:
        payload = bytes(range(256)) * 399
        data = b"".join(in_parts(0x91, 1, payload, 1024, 50_000))
        receiver = open_receiver()
        frames: list[Frame] = []
        turn = 0
        while data:
            turn += 1
            if receiver.direct is None or turn % 2:
                frames += receiver.receive_data(data[:3000])
                data = data[3000:]
            else:
                count = min(700, len(receiver.direct), len(data))
                receiver.direct[:count] = data[:count]
                frames += receiver.received_direct(count)
                data = data[count:]
        assert payloads(frames) == [payload]

    def test_a_half_received_payload_can_be_thrown_away_by_the_garbage_collector(self) -> None:
        # A kept view on its memory made CPython 3.13 complain.
        receiver = open_receiver()
        receiver.open(partial(admit_for, receiver))  # a reference cycle, like a connection's
        data = b"".join(in_parts(0x91, 1, bytes(100_000), 1024, 50_000))
        receive(receiver, [data[:20_000]])
        assert receiver.direct is not None
        del receiver
        gc.collect()  # raises nothing; pytest reports warnings

    @pytest.mark.slow
    @pytest.mark.parametrize("piece", [2048, 64 * KIB, 300 * KIB])
    def test_memory_grows_in_the_middle_of_a_part(self, piece: int) -> None:
        # While there was a view on the memory that had to grow, this ended in a BufferError.
        payload = bytes(range(256)) * (9 * MIB // 256)
        data = b"".join(in_parts(0x91, 1, payload, 1024, *[512 * KIB] * 17))
        pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
        assert payloads(receive(open_receiver(), pieces)) == [payload]
        assert payloads(receive_directly(open_receiver(), data)) == [payload]

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [3 * MIB, 11 * MIB])
    def test_the_finished_payload_is_no_copy(self, size: int) -> None:
        # bytes(size) is the payload's only memory; a copy would need a second one.
        data = frame_parts(size)
        received: list[Frame] = []
        peak = peak_bytes(lambda: received.extend(feed_slowly(open_receiver(), data)))
        assert len(received[0][6]) == size
        assert peak < 1.3 * size

    def test_memory_that_will_be_filled_is_not_cleared(self) -> None:
        size = 300
        kept = [b"x" * (size - number % 2) for number in range(10)]
        del kept  # the next payload reuses this memory
        memory = uncleared()(size)
        assert len(memory) == size
        assert any(memory)

    @pytest.mark.slow
    def test_the_measure_would_notice_a_copy(self) -> None:
        size = 3 * MIB
        data = frame_parts(size)
        views: list[memoryview] = []  # a kept view forces BytesIO to copy

        def receive_and_keep_views() -> None:
            receiver = open_receiver()
            for piece in data:
                receiver.receive_data(piece)
                if receiver.direct is not None:
                    views.append(receiver.direct)

        assert peak_bytes(receive_and_keep_views) > 1.9 * size


def frame_parts(size: int) -> list[bytes]:
    """Return a fragmented payload in pieces of 64 KiB, made before the measurement."""
    parts = in_parts(0x91, 1, bytes(size), *[256 * KIB] * (size // (256 * KIB) - 1))
    return [part[at : at + 64 * KIB] for part in parts for at in range(0, len(part), 64 * KIB)]


def feed_slowly(receiver: Receiver, pieces: list[bytes]) -> list[Frame]:
    frames = []
    for piece in pieces:
        frames += receiver.receive_data(piece)
    return frames
