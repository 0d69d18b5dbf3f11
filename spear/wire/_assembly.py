"""The buffer that a large payload is received into.

A large payload arrives as fast as its memory can be written, so that memory is neither cleared before it
is filled nor returned to the operating system between two payloads.
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
    """Make the C library keep the memory of freed large payloads for the next one.

    By default, glibc returns a large freed block to the system at once, and the next payload then costs a
    page fault for each 4 KiB: a third of the rate of 1 MiB payloads. Once a block of nearly 32 MiB has
    been freed, glibc keeps up to 64 MiB (mallopt(3), M_TRIM_THRESHOLD). Other C libraries are not
    affected. The block is never touched, so it takes no memory.
    """
    bytes(31 * 1024 * 1024)


@cache
def uncleared() -> Callable[[int], bytes]:
    """Return a function that allocates ``bytes`` of a given size without clearing the memory.

    With ``bytes(size)``, which clears the memory, 1 MiB arrives at six sevenths of the rate. The function
    returned is the C API's ``PyBytes_FromStringAndSize``, called with NULL. Finding it takes 2 ms, once.
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
    """A payload that is being received into its final buffer.

    ``BytesIO`` gives a writable view of its buffer, and returns the same memory as ``bytes`` without a
    copy once the view is released. For 1 MiB this saves a copy, which takes 0.1 ms. A test in
    tests/wire/test_receiver.py fails if a copy appears. The application gets the payload, as ``bytes``,
    only when it is complete.
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

    # The buffer grows in steps, so a peer that announces 32 MiB must send 28 MiB before all is allocated.
    STEP = 4 * 1024 * 1024

    def __init__(self, fields: tuple[int, int, int, int, int, Head | None], size: int) -> None:
        keep_freed_memory()
        self.type, self.flags, self.call_id, self.a, self.b, self.head = fields
        self.size = size
        self.filled = 0
        self._claimed = min(size, self.STEP)
        self._file = BytesIO(uncleared()(self._claimed))

    def make_room(self) -> None:
        """Extend the buffer if it is full, so that :meth:`target` has room."""
        if self.filled == self._claimed:
            self._claimed = min(self.size, self.filled + self.STEP)
            self._file.seek(self._claimed - 1)
            self._file.write(b"\0")

    def target(self, count: int) -> memoryview:
        """Return a view of the buffer for the next bytes, at most ``count`` of them.

        While the view exists, the buffer can neither grow nor be returned without a copy. The assembly
        keeps no view itself: if the garbage collector finds a BytesIO with a view, CPython 3.13 reports
        an error.
        """
        return self._file.getbuffer()[self.filled : self.filled + count]

    def finish(self) -> Frame:
        """Return the complete frame, with its payload."""
        payload = self._file.getvalue()
        return self.type, self.flags, self.call_id, self.a, self.b, self.head, payload
