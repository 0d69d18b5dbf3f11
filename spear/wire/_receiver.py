"""The incoming half of a connection: bytes in, frames out, without I/O.

The parser takes bytes in pieces of any size and returns whole frames, with the parts of fragmented
payloads already joined. It must not know the meaning of a frame.

Invariants:

* The same bytes give the same frames and the same error, whether they arrive whole, byte by byte or cut
  at random.
* A length is checked against its cap before any byte that it covers is kept.
* All frames before a fragment have been applied before the fragment is parsed.
* At most ``DIRECT_BYTES`` of an incomplete frame are kept as loose bytes (64 KiB if it has a head); a
  larger payload is received straight into the object that the application will get.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias, final

from spear._errors import RemoteProtocolError
from spear._limits import WireLimits
from spear._segments import Attachment

from ._assembly import Assembly
from ._frames import (
    ARRAY_KIND,
    BYTES_BYTES,
    FRAGMENT,
    HEAD_OFFSET,
    ID,
    LENGTH,
    MORE,
    NULL_BYTES,
    NUMBER,
    PLAIN,
    PLAIN_BYTES,
    PREFIX_BYTES,
    SEGMENT,
    Frame,
    FrameType,
)
from ._heads import Head, HeadValue, Truncated, load_map_untrusted, skip_item_untrusted

DIRECT_BYTES: Final = 16 * 1024

Admit: TypeAlias = Callable[[int, int, int, int, int, Head, int], bool]
"""Called at the first fragment, or when a payload in a segment arrives (the flags tell which), with the
payload's whole size; returns whether to keep the payload. Other payloads are discarded as they arrive."""

MOST_ATTACHED: Final = 2
"""Maximum number of unclaimed descriptors: a read can bring the descriptors of two frames, one that ends
and one that begins."""

_NULL: Final = 0xF6


class FrameTooLarge(RemoteProtocolError):
    """The peer announced a larger frame than it may send; nothing of the frame was kept."""

    code = "frame_too_large"


@final
class Receiver:
    """The incoming half of a connection.

    Attributes:
        paused: whether the parser waits. The frames returned last decide how the bytes after them are
            handled: apply them, then call :meth:`resume`.
        assembling_bytes: total size of the fragmented payloads that are being received.
        error: the framing error of the peer, if any; every further call raises it.
    """

    __slots__ = (
        "_admit", "_assemblies", "_assembly", "_attached", "_limits", "_max_body",
        "_missing", "_refused", "_tail", "assembling_bytes", "error", "paused",
    )  # fmt: skip

    def __init__(self, limits: WireLimits) -> None:
        self._limits = limits
        self._admit: Admit | None = None  # None before the handshake: no fragments are accepted
        self._max_body = limits.handshake_frame_bytes
        self._tail = b""  # the beginning of an incomplete frame
        # The payload being received now, and the number of its missing bytes. If the assembly is None,
        # missing bytes are discarded as they arrive.
        self._assembly: Assembly | None = None
        self._missing = 0
        self._assemblies: dict[int, Assembly] = {}  # call id -> fragmented payload
        self.assembling_bytes = 0
        self._attached: deque[Attachment] | None = None  # descriptors received with unparsed bytes
        # Call ids whose remaining fragments are discarded. (An empty dict takes 150 bytes less than an
        # empty set.)
        self._refused: dict[int, None] = {}
        self.paused = False
        self.error: RemoteProtocolError | None = None

    def open(self, admit: Admit) -> None:
        """Raise the caps from those before the handshake to those for an authenticated peer."""
        self._admit = admit
        limits = self._limits
        self._max_body = PLAIN_BYTES + limits.max_head_bytes + limits.fragment_bytes

    def attach(self, attachment: Attachment) -> None:
        """Take a descriptor that arrived with the next bytes. Raises RemoteProtocolError for too many."""
        if self._attached is None:
            self._attached = deque()
        self._attached.append(attachment)
        if len(self._attached) > MOST_ATTACHED:
            raise RemoteProtocolError("file descriptors arrived without frames that use them")

    def detach(self) -> None:
        """Drop the descriptors that arrived and were not claimed: no frame will claim them."""
        self._attached = None

    def abandon(self, call_id: int) -> bool:
        """Drop a partly received payload that its sender gave up; return True if there was one."""
        if call_id in self._refused:
            self._refused.pop(call_id, None)
            return True
        assembly = self._assemblies.get(call_id)
        if assembly is None:
            return False
        self._drop(assembly)
        return True

    def refuse(self, call_id: int) -> None:
        """Discard this call's fragmented payload: the part received, and the rest as it arrives."""
        assembly = self._assemblies.get(call_id)
        if assembly is not None:
            missing = self._missing if assembly is self._assembly else 0
            self._drop(assembly)
            if assembly.filled + missing < assembly.size:  # otherwise its last frame has begun
                self._refused[call_id] = None

    def is_assembling(self, call_id: int) -> bool:
        """Return whether a fragmented payload of this call is being received."""
        return call_id in self._assemblies

    @property
    def buffered_bytes(self) -> int:
        """Bytes held for incomplete frames; fragmented payloads count with their whole size."""
        return len(self._tail) + self.assembling_bytes

    def receive_data(self, data: bytes) -> list[Frame]:
        """Parse bytes that arrived; return the frames that they complete.

        Frames before a violation are still returned, with :attr:`error` set.

        Raises:
            RemoteProtocolError: an earlier call found a violation.
        """
        if self.error is not None:
            raise self.error
        self.paused = False
        frames: list[Frame] = []
        try:
            if self._missing:
                data = self._fill_untrusted(data, frames)
            if self._tail:
                data = self._tail + data
                self._tail = b""
            self._parse_untrusted(data, frames)
        except RemoteProtocolError as error:
            self.error = error
        return frames

    def resume(self) -> list[Frame]:
        """Parse the input after the frames at which :attr:`paused` was set."""
        return self.receive_data(b"")

    @property
    def direct(self) -> memoryview | None:
        """The buffer for the next bytes, or None if it is not known yet.

        After receiving into the buffer, release the view and call :meth:`received_direct`. If there is no
        buffer, pass received bytes to :meth:`receive_data`.
        """
        return None if self._assembly is None else self._assembly.target(self._missing)

    def received_direct(self, count: int) -> list[Frame]:
        """Record that ``count`` bytes were received into :attr:`direct`; return completed frames."""
        frames: list[Frame] = []
        assembly = self._assembly
        assert assembly is not None  # there would be no `direct` without it
        assembly.filled += count
        self._missing -= count
        if self._missing:
            assembly.make_room()
        else:
            self._end_payload(assembly, frames)
        return frames

    # -- parsing ------------------------------------------------------------------------------

    def _parse_untrusted(self, data: bytes, frames: list[Frame]) -> None:
        # The one hot loop of the receiving side: a plain, whole frame costs 0.5 us. Every other frame
        # goes to _parse_one_untrusted.
        unpack_length, unpack = LENGTH.unpack_from, PLAIN.unpack_from
        append = frames.append
        max_body = self._max_body
        position, end = 0, len(data)
        while end - position >= PREFIX_BYTES + PLAIN_BYTES:
            (length,) = unpack_length(data, position)
            start = position + PREFIX_BYTES
            stop = start + length
            kind, type_, flags, id_, call_id, a_, a, b_, b, null, size = unpack(data, start)
            if (
                stop <= end
                and null == NULL_BYTES
                and size == length - PLAIN_BYTES
                and kind == ARRAY_KIND
                and id_ == ID
                and a_ == NUMBER
                and b_ == NUMBER
                and not flags & FRAGMENT
                and length <= max_body
            ):
                append((type_, flags, call_id, a, b, None, data[start + PLAIN_BYTES : stop]))
                position = stop
            else:
                behind = self._parse_one_untrusted(data, position, frames)
                if behind is None:
                    break
                position = behind
        else:
            if end - position >= PREFIX_BYTES:
                self._check_length_untrusted(LENGTH.unpack_from(data, position)[0])
        if position < end:
            self._tail = data[position:]

    def _check_length_untrusted(self, length: int) -> None:
        if length < PLAIN_BYTES:
            raise RemoteProtocolError(
                f"a frame has {length} bytes; at least {PLAIN_BYTES} are required"
            )
        if length > self._max_body:
            if length & 0xFFFF == 0x0316:  # a record of type handshake, version 3.x
                raise RemoteProtocolError("the peer uses TLS, but this connection does not")
            raise FrameTooLarge(f"a frame has {length} bytes; at most {self._max_body} are allowed")

    def _parse_one_untrusted(self, data: bytes, position: int, frames: list[Frame]) -> int | None:
        """Parse any frame, the one at ``position``; return the offset after it.

        Returns None if more bytes are needed first, or if the frames before it must be applied first.
        """
        length: int = LENGTH.unpack_from(data, position)[0]
        self._check_length_untrusted(length)
        start = position + PREFIX_BYTES
        stop, end = start + length, len(data)
        kind, type_, flags, id_, call_id, a_, a, b_, b, _, _ = PLAIN.unpack_from(data, start)
        if (kind, id_, a_, b_) != (ARRAY_KIND, ID, NUMBER, NUMBER):
            raise RemoteProtocolError("not a Spear frame")
        if flags & FRAGMENT:
            if self._admit is None:
                raise RemoteProtocolError("a fragment before the end of the handshake")
            if frames:
                # Whether the fragment is admitted depends on the frames before it: apply them first.
                self.paused = True
                return None
        parsed = self._parse_head_untrusted(data, start + HEAD_OFFSET, stop)
        if parsed is None:
            return None
        head, behind_head = parsed
        begin = behind_head + BYTES_BYTES
        if begin > stop:
            raise RemoteProtocolError("a frame without a payload")
        if begin > end:
            return None
        size = int.from_bytes(data[behind_head + 1 : begin], "big")
        if data[behind_head] != 0x5A or begin + size != stop:
            raise RemoteProtocolError("the lengths of a frame and its payload do not match")
        fields = (type_, flags, call_id, a, b, head)
        if flags & (FRAGMENT | MORE) == SEGMENT and type_ != FrameType.BODY:
            if size:
                raise RemoteProtocolError(f"a frame has a payload and a segment (call {call_id})")
            self._claim_untrusted(fields, frames)
            return stop
        if stop > end and size <= DIRECT_BYTES and head is None:
            # A frame with a head gets its buffer at once, so that its head is decoded only once, however
            # slowly the rest arrives.
            return None
        if not flags & FRAGMENT and stop <= end:
            frames.append((*fields, data[begin:stop]))
            return stop
        self._assembly = self._place_untrusted(fields, size)
        self._missing = size
        rest = self._fill_untrusted(data[begin:stop], frames)
        assert not rest
        return min(stop, end)

    def _parse_head_untrusted(
        self, data: bytes, begin: int, stop: int
    ) -> tuple[Head | None, int] | None:
        if data[begin] == _NULL:
            return None, begin + 1
        # Scan only when the longest possible head has arrived: a scan for every single byte would cost us
        # more than it costs the sender.
        most = min(stop, begin + self._limits.max_head_bytes)
        if len(data) < most:
            return None
        raw = data[begin:most]
        try:
            size = skip_item_untrusted(raw, 0)
            return load_map_untrusted(raw[:size]), begin + size
        except Truncated as error:
            raise RemoteProtocolError(
                f"a head is incomplete, or longer than {len(raw)} bytes"
            ) from error
        except ValueError as error:
            raise RemoteProtocolError(f"invalid head: {error}") from error

    # -- payloads in parts ------------------------------------------------------------------------

    def _place_untrusted(
        self, fields: tuple[int, int, int, int, int, Head | None], size: int
    ) -> Assembly | None:
        """Return the assembly for a frame's payload of ``size`` bytes; None to discard the payload."""
        type_, flags, call_id = fields[:3]
        if not flags & FRAGMENT:
            return Assembly(fields, size)
        if type_ == FrameType.BODY:
            if size == 0:
                raise RemoteProtocolError(f"an empty fragment (call {call_id})")
            assembly = self._assemblies.get(call_id)
            if assembly is None:
                if call_id not in self._refused:
                    raise RemoteProtocolError(
                        f"a fragment without a first fragment (call {call_id})"
                    )
                if not flags & MORE:
                    self._refused.pop(call_id, None)
                return None
            missing = assembly.size - assembly.filled
            if size > missing or (size < missing) != bool(flags & MORE):
                raise RemoteProtocolError(
                    f"fragments do not match the payload's size (call {call_id})"
                )
            return assembly
        return self._begin_untrusted(fields, size)

    def _begin_untrusted(
        self, fields: tuple[int, int, int, int, int, Head | None], size: int
    ) -> Assembly | None:
        """Begin a fragmented payload, of which ``size`` bytes are in its first frame."""
        type_, flags, call_id, a, b, head = fields
        total: HeadValue = head.get("size") if head is not None else None
        if head is None or type(total) is not int or not 0 < size < total or not flags & MORE:
            raise RemoteProtocolError(
                "a first fragment must have the payload's size and a part of the payload"
            )
        limits = self._limits
        if total > limits.max_message_bytes:
            raise RemoteProtocolError(
                f"a payload has {total} bytes; at most {limits.max_message_bytes} are allowed"
            )
        if call_id in self._assemblies or call_id in self._refused:
            raise RemoteProtocolError(f"two fragmented payloads at once (call {call_id})")
        if self._assemblies and self.assembling_bytes + total > limits.assembly_bytes:
            raise RemoteProtocolError(
                f"incomplete payloads have more than {limits.assembly_bytes} bytes together"
            )
        flags &= ~(FRAGMENT | MORE)
        assert self._admit is not None  # there would be no fragment without it
        if not self._admit(type_, flags, call_id, a, b, head, total):
            if len(self._refused) >= limits.max_calls:
                raise RemoteProtocolError("too many refused payloads are still arriving")
            self._refused[call_id] = None
            return None
        rest = {key: value for key, value in head.items() if key != "size"}
        assembly = Assembly((type_, flags, call_id, a, b, rest or None), total)
        self._assemblies[call_id] = assembly
        self.assembling_bytes += total
        return assembly

    def _claim_untrusted(
        self, fields: tuple[int, int, int, int, int, Head | None], frames: list[Frame]
    ) -> None:
        """Take a payload in a segment, whose descriptor has arrived with the frame."""
        type_, flags, call_id, a, b, head = fields
        head = head or {}
        size, number = head.get("size"), head.get("segment")
        if type(size) is not int or type(number) is not int or size < 1 or number < 0:
            raise RemoteProtocolError("a segment must have a number and a size")
        if call_id in self._assemblies or call_id in self._refused:
            raise RemoteProtocolError(f"two payloads at once (call {call_id})")
        if not self._attached:
            raise RemoteProtocolError("a segment without a file descriptor")
        try:
            segment = self._attached.popleft().claim(number, size)
        except ValueError as error:
            raise RemoteProtocolError(f"unusable segment: {error}") from error
        assert self._admit is not None  # there would be no fragment without it
        # A segment that is not admitted is released when it is garbage.
        if self._admit(type_, flags, call_id, a, b, head, size):
            rest = {key: value for key, value in head.items() if key not in ("size", "segment")}
            frames.append((type_, flags & ~SEGMENT, call_id, a, b, rest or None, segment))

    def _fill_untrusted(self, data: bytes, frames: list[Frame]) -> bytes:
        """Copy bytes into the payload that is being received; return the bytes after it."""
        assembly = self._assembly
        take = min(self._missing, len(data))
        self._missing -= take
        if assembly is None:
            return data[take:]
        done = 0
        while done < take:
            assembly.make_room()
            with assembly.target(take - done) as target:
                count = len(target)
                target[:] = data[done : done + count]
            assembly.filled += count
            done += count
        if self._missing:
            assembly.make_room()
        else:
            self._end_payload(assembly, frames)
        return data[take:]

    def _end_payload(self, assembly: Assembly, frames: list[Frame]) -> None:
        """End a frame's payload, and append the whole frame if this was its last part."""
        self._assembly = None
        if assembly.filled < assembly.size:
            return
        if self._assemblies.get(assembly.call_id) is assembly:
            del self._assemblies[assembly.call_id]
            self.assembling_bytes -= assembly.size
        frames.append(assembly.finish())

    def _drop(self, assembly: Assembly) -> None:
        del self._assemblies[assembly.call_id]
        self.assembling_bytes -= assembly.size
        if self._assembly is assembly:  # discard its missing bytes as they arrive
            self._assembly = None
