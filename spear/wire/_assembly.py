"""A payload on its way into its final place.

Large payloads are as fast as the memory they arrive in: it should not be cleared before it is filled, nor
be given back to the system between two of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import final

from ._frames import Frame
from ._heads import Head


@cache
def keep_freed_memory() -> None:
    """Have the C library keep the memory of large payloads for the next one.

    It returns what it frees in large blocks to the system at once, and the next payload then costs a
    page fault for each 4 KiB: a third of the rate of 1 MiB payloads. Having once freed a block of nearly
    32 MiB, glibc keeps up to 64 MiB (mallopt(3), M_TRIM_THRESHOLD); elsewhere this does nothing. The
    block itself is never touched, so it costs no memory.
    """
    bytes(31 * 1024 * 1024)


@cache
def uncleared() -> Callable[[int], bytes]:
    """What makes ``bytes`` of a size that hold whatever the memory held before.

    With ``bytes(size)``, which clears it, 1 MiB arrives at six sevenths of the rate. The function is the
    one that C programs have for this (``PyBytes_FromStringAndSize`` with NULL). To find it takes 2 ms,
    once.
    """
    try:
        from ctypes import c_char_p, c_ssize_t, py_object, pythonapi
    except ImportError:  # pragma: no cover  # an interpreter without libffi
        return bytes
    make = pythonapi.PyBytes_FromStringAndSize
    make.argtypes = c_char_p, c_ssize_t
    make.restype = py_object

    def uncleared_bytes(size: int) -> bytes:
        made: bytes = make(None, size)
        return made

    return uncleared_bytes


@final
class Assembly:
    """A payload being received into its final place.

    ``BytesIO`` gives a writable view of what it holds, and hands out the same memory as ``bytes``
    without a copy once the view is released. For 1 MiB that saves a copy of 0.1 ms, and the user gets
    ``bytes`` whatever the size. tests/wire/test_receiver.py fails if a copy appears. Nobody sees it
    before it is full.
    """

    __slots__ = (
        "_claimed",
        "_file",
        "a",
        "b",
        "call_id",
        "filled",
        "flags",
        "head",
        "size",
        "type",
    )

    # Memory is claimed in steps, so that a peer which claims 32 MiB must first send 28.
    STEP = 4 * 1024 * 1024

    def __init__(self, fields: tuple[int, int, int, int, int, Head | None], size: int) -> None:
        keep_freed_memory()
        self.type, self.flags, self.call_id, self.a, self.b, self.head = fields
        self.size = size
        self.filled = 0
        self._claimed = min(size, self.STEP)
        self._file = BytesIO(uncleared()(self._claimed))

    def make_room(self) -> None:
        """See that :meth:`target` has somewhere to point to."""
        if self.filled == self._claimed:
            self._claimed = min(self.size, self.filled + self.STEP)
            self._file.seek(self._claimed - 1)
            self._file.write(b"\0")

    def target(self, count: int) -> memoryview:
        """Where the next bytes go, at most ``count`` of them.

        While this view lives, the memory cannot grow, nor be handed out without a copy. None is kept
        here: a BytesIO that the garbage collector finds with a view on it complains (CPython 3.13).
        """
        return self._file.getbuffer()[self.filled : self.filled + count]

    def finish(self) -> Frame:
        """The frame that it was the payload of."""
        payload = self._file.getvalue()
        return self.type, self.flags, self.call_id, self.a, self.b, self.head, payload
