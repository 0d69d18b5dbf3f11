"""Memory that two processes share: made, sealed, checked, mapped, and passed through a Unix socket.

A *memory file* is a file without a name (memfd_create(2)). Its descriptor travels beside the bytes of a
Unix socket, and its seals are kept by the kernel: a reader of one that can neither shrink nor grow never
dies of SIGBUS, and one sealed against writing never changes again.

This module does not know what is in such memory, nor who may have it for how long.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import sys
import weakref
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, final

from spear._forks import close, own
from spear._limits import MAX_WHOLE, shown
from spear._segments import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from mmap import mmap
    from types import TracebackType

MOST_READ_BYTES: Final = 1024 * 1024 * 1024
"""One call of the system reads less than twice that."""

_STAT_BLOCK_BYTES: Final = 512
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_F_SEAL_FUTURE_WRITE: Final = 0x10  # <linux/fcntl.h>, Linux 5.1; Python has no name for it

_INT: Final = Struct("i")
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_INT.size)
"""Room for one descriptor; a second one may fit into the padding."""


# Plain numbers: calculating with the flags of `socket` costs 7 us, which is more than a read.
_CLOSE_ON_EXEC: Final = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_TRUNCATED: Final = int(socket.MSG_CTRUNC)
_RIGHTS: Final = (int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS))


def can_share_memory() -> bool:
    """Whether this system has memory files with seals."""
    return hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")


@final
class Descriptor:
    """A file descriptor that is closed with the last object that has it.

    Attributes:
        fileno: its number; -1 if it is closed.
    """

    __slots__ = ("fileno",)

    def __init__(self, fileno: int) -> None:
        self.fileno = own(fileno) if fileno >= 0 else fileno

    def close(self) -> None:
        """Close it now."""
        fileno, self.fileno = self.fileno, -1
        if fileno >= 0:
            close(fileno)

    def __del__(self) -> None:
        self.close()


class MemoryFile(Segment):
    """A segment that has a descriptor.

    Attributes:
        descriptor: of its memory.
        file_bytes: the size of that; at least the payload's.
    """

    __slots__ = ("descriptor", "file_bytes")

    descriptor: Descriptor
    file_bytes: int


def make_memory_file(size: int) -> tuple[Descriptor, mmap]:
    """A new memory file of this size, and the only mapping that can ever write to it.

    Raises:
        OSError: there is not enough memory, or no descriptor.
    """
    # The kernel refuses to map much more than there is, but fills such a file until it has to kill.
    _map(-1, size, is_private=True).close()
    descriptor = Descriptor(os.memfd_create("spear", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    # All of it now: touching a page for which there is no memory ends the process by SIGBUS.
    os.posix_fallocate(descriptor.fileno, 0, size)
    mapping = _map(descriptor.fileno, size, to_write=True)
    fcntl.fcntl(descriptor.fileno, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    with suppress(OSError):  # an old kernel; then nothing but manners keeps the peer from writing
        fcntl.fcntl(descriptor.fileno, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
    return descriptor, mapping


def _map(fileno: int, size: int, *, to_write: bool = False, is_private: bool = False) -> mmap:
    # Here, because every function's process imports this module, and few have a use for that one.
    import mmap

    flags, protection = mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
    if is_private:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    elif not to_write:
        # Linux before 6.7 refuses shared mappings of what is sealed against writing, even to read.
        flags, protection = mmap.MAP_PRIVATE, mmap.PROT_READ
    if sys.version_info >= (3, 13):
        return mmap.mmap(fileno, size, flags, protection, trackfd=False)
    return mmap.mmap(fileno, size, flags, protection)


def _make_memory(size: int) -> tuple[Descriptor, mmap]:
    """A memory file; or memory that cannot be handed over, where the system has none or refuses them."""
    if can_share_memory():
        try:
            return make_memory_file(size)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):  # what a seccomp filter answers
                raise
    return Descriptor(-1), _map(-1, size, to_write=True)


# -- ours ---------------------------------------------------------------------------------------------


@final
class SharedBuffer(MemoryFile):
    """Memory that is handed to another process instead of being copied.

    Fill :attr:`view`, then pass the buffer as the only argument of a call, or return it from a function.
    The receiver gets a read-only ``memoryview`` of the same memory. Where memory cannot be handed over
    (another machine, TLS), its bytes are sent instead, as far as ``max_message_bytes`` allows.

    What a function hands over is sealed: it cannot be written to any more. A host may write to its buffer
    again when the call is over; a function that has kept a view of it sees that.

    The memory is freed when neither process uses it any more. Leaving a ``with`` block, or
    :meth:`close`, gives up this process's share at once.

    Args:
        size: in bytes. The memory is taken at once, which takes 0.4 s for a GiB, and filled with zeros.

    Raises:
        ValueError: the size is no whole number, or below 1.
        MemoryError: there is not so much.
    """

    __slots__ = ("_is_sealed", "_mapping", "_size", "_view")

    def __init__(self, size: int) -> None:
        if type(size) is not int or size < 1:
            raise ValueError(f"a SharedBuffer holds at least one byte, not {shown(size)}")
        if size > MAX_WHOLE:
            raise MemoryError(f"cannot make a SharedBuffer of {shown(size)} bytes")
        self._size = self.file_bytes = size
        self._is_sealed = False
        try:
            self.descriptor, self._mapping = _make_memory(size)
        except OSError as error:
            raise MemoryError(
                f"cannot make a SharedBuffer of {size} bytes: {error.strerror}"
            ) from error
        self._view: memoryview | None = memoryview(self._mapping)

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        state = " closed" if self._view is None else " sent" if self._is_sealed else ""
        return f"<SharedBuffer {self._size} bytes{state}>"

    @property
    def view(self) -> memoryview:
        """The memory; writable, until it is sealed. Raises ValueError if it is closed."""
        if self._view is None:
            raise ValueError("this SharedBuffer is closed")
        return self._view

    def as_view(self) -> memoryview:
        """The memory, read-only."""
        return self.view.toreadonly()

    def as_bytes(self) -> bytes:
        """A copy of what is in it."""
        return bytes(self.view)

    def seal(self) -> None:
        """Make the memory read-only for all processes, for ever.

        Raises:
            BufferError: a writable view of it still exists.
        """
        if self._is_sealed or self.descriptor.fileno < 0:
            return
        self.view.release()
        try:
            self._mapping.close()
        except BufferError:
            self._view = memoryview(self._mapping)
            raise
        fileno = self.descriptor.fileno
        fcntl.fcntl(fileno, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
        self._is_sealed = True
        self._mapping = _map(fileno, self._size)
        self._view = memoryview(self._mapping)

    def close(self) -> None:
        """Give up the memory. What others have of it, also in this process, stays valid."""
        view, self._view = self._view, None
        if view is not None:
            self.descriptor = Descriptor(-1)  # a call that is being sent has the other one
            with suppress(BufferError):  # freed with the last view, then
                view.release()
                self._mapping.close()

    def __enter__(self) -> SharedBuffer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


# -- a peer's -----------------------------------------------------------------------------------------


class Condition(NamedTuple):
    """The kernel's description of a file that a peer has passed.

    Attributes:
        size: of the file, in bytes.
        held_bytes: the most memory that the file can hold as long as its descriptor is open.
        is_fixed: it cannot shrink or grow.
        is_final: it can never be written to again.
        is_whole: all of its memory is there: reading it takes no more.
    """

    size: int
    held_bytes: int
    is_fixed: bool
    is_final: bool
    is_whole: bool


def examine(fileno: int) -> Condition:
    """Look at what a peer has passed, and free what the file holds beyond its end.

    Raises ValueError if it is not a memory file of ordinary pages.
    """
    found = os.fstat(fileno)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is not a memory file")
    try:
        seals = fcntl.fcntl(fileno, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ValueError("it is not a memory file") from error
    if os.fstatvfs(fileno).f_bsize != _PAGE_BYTES:
        # Such a mapping can only be unmapped in whole huge pages, so a view of a part would never go.
        raise ValueError("it is a memory file of huge pages")
    fixed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    is_fixed = seals & fixed == fixed
    size, is_trimmed = found.st_size, is_fixed and _trim(fileno, found.st_size)
    allocated = os.fstat(fileno).st_blocks * _STAT_BLOCK_BYTES
    return Condition(
        size,
        size if is_trimmed else size + allocated,
        is_fixed,
        bool(seals & fcntl.F_SEAL_WRITE),
        is_trimmed and allocated >= size,
    )


def _trim(fileno: int, size: int) -> bool:
    """Free what a fixed file holds beyond its end; False if the descriptor does not allow that.

    fallocate(2) can put memory there before the file is sealed. In st_blocks that memory makes up for
    memory that is missing before the end. SEEK_HOLE and mincore(2) are no help: for both of them, memory
    that was never written to is a hole.
    """
    try:
        os.ftruncate(fileno, size)  # to the size that it has, which no seal forbids
    except OSError:
        return False
    return True


@final
class BorrowedFile(MemoryFile):
    """A segment that a peer has handed to us.

    Args:
        descriptor: of its memory, which must be fixed; and whole and final if it can be viewed.
        file_bytes: the size of that.
        size: bytes of payload at its beginning.
        is_final: no process can change it any more.
        on_end: called once, when we do not use it any more; perhaps in another thread, or while garbage
            is being collected.
        can_be_viewed: whether a view is safe; otherwise a view is one of a copy.
    """

    __slots__ = ("_can_be_viewed", "_on_end", "_size", "is_final")

    def __init__(
        self,
        descriptor: Descriptor,
        file_bytes: int,
        size: int,
        on_end: Callable[[], None],
        *,
        is_final: bool,
        can_be_viewed: bool,
    ) -> None:
        self.is_final = is_final
        self.descriptor = descriptor
        self.file_bytes = file_bytes
        self._size = size
        self._on_end: Callable[[], None] | None = on_end
        self._can_be_viewed = can_be_viewed

    def __len__(self) -> int:
        return self._size

    def as_view(self) -> memoryview:
        """The payload where it lies; it is ours as long as a view of it lives. Call this once."""
        if not self._can_be_viewed:
            return memoryview(self.as_bytes())
        on_end = self._expect_unused()
        try:
            mapping = _map(self.descriptor.fileno, self._size)
        except OSError:  # no descriptor is left, or no address space
            return memoryview(self.as_bytes())
        weakref.finalize(mapping, on_end).atexit = False
        self._on_end = None
        self.descriptor = Descriptor(-1)  # a call that hands it on has the other one
        return memoryview(mapping)

    def as_bytes(self) -> bytes:
        """A copy of the payload. Raises OSError."""
        # Not through a mapping: that has a page fault for each 64 KiB, and holds the interpreter's lock.
        self._expect_unused()
        fileno, size = self.descriptor.fileno, self._size
        parts = [
            os.pread(fileno, min(MOST_READ_BYTES, size - start), start)
            for start in range(0, size, MOST_READ_BYTES)
        ]
        self.close()
        return b"".join(parts)  # one part is not copied

    def _expect_unused(self) -> Callable[[], None]:
        if self._on_end is None:
            raise ValueError("this segment has been looked at, or copied, before")
        return self._on_end

    def close(self) -> None:
        """We do not use it any more."""
        self.descriptor = Descriptor(-1)  # likewise
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    def __del__(self) -> None:
        self.close()


# -- on their way ---------------------------------------------------------------------------------------


def send_with_descriptor(sock: socket.socket, data: bytes, fileno: int) -> int:
    """Send the beginning of ``data``, and a descriptor with its first byte, without waiting."""
    return sock.sendmsg([data], [(*_RIGHTS, _INT.pack(fileno))])


def receive_with_descriptors(
    sock: socket.socket, size: int
) -> tuple[bytes, list[Descriptor], bool]:
    """Read without waiting: bytes, the descriptors beside them, and whether some of these are lost."""
    data, ancillary, flags, _ = sock.recvmsg(size, _ANCILLARY_BYTES, _CLOSE_ON_EXEC)
    return data, descriptors_in(ancillary) if ancillary else [], bool(flags & _TRUNCATED)


def descriptors_in(ancillary: Sequence[tuple[int, int, bytes]]) -> list[Descriptor]:
    """The descriptors that have come beside the bytes of one read."""
    return [
        Descriptor(number)
        for level, kind, data in ancillary
        if (level, kind) == _RIGHTS
        for (number,) in _INT.iter_unpack(data[: len(data) - len(data) % _INT.size])
    ]
