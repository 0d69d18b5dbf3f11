"""Shared memory of two processes: make, seal, check and map it, and pass it through a Unix socket.

A *memory file* is a file without a name (memfd_create(2)). Its descriptor travels beside the bytes of a
Unix socket. The kernel enforces its seals: reading a file that can neither shrink nor grow never causes
SIGBUS, and a file that is sealed against writing never changes again.

This module knows neither the contents of such memory, nor how long a process may use it.
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
from io import BytesIO
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, final

import trio

from spear._forks import close, own
from spear._limits import MAX_WHOLE, shown
from spear._segments import STEP_BYTES, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from mmap import mmap
    from types import TracebackType

MOST_READ_BYTES: Final = 1024 * 1024 * 1024
"""Most bytes that are read by one system call, which cannot read 2 GiB."""

_STAT_BLOCK_BYTES: Final = 512
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_F_SEAL_FUTURE_WRITE: Final = 0x10  # <linux/fcntl.h>, Linux 5.1; Python has no name for it

_INT: Final = Struct("i")
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_INT.size)
"""Buffer space for one descriptor; a second one may fit into the padding."""


# Plain numbers: calculating with the flags of `socket` costs 7 us, which is more than a read.
_CLOSE_ON_EXEC: Final = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_TRUNCATED: Final = int(socket.MSG_CTRUNC)
_RIGHTS: Final = (int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS))


def can_share_memory() -> bool:
    """Return whether this system has memory files with seals."""
    return hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")


@final
class Descriptor:
    """A file descriptor that is closed with the last reference to this object.

    Attributes:
        fileno: the descriptor's number; -1 if it is closed.
    """

    __slots__ = ("fileno",)

    def __init__(self, fileno: int) -> None:
        self.fileno = own(fileno) if fileno >= 0 else fileno

    def close(self) -> None:
        """Close the descriptor now."""
        fileno, self.fileno = self.fileno, -1
        if fileno >= 0:
            close(fileno)

    def __del__(self) -> None:
        self.close()


class MemoryFile(Segment):
    """A segment that has a descriptor.

    Attributes:
        descriptor: the descriptor of the file.
        file_bytes: the size of the file; at least the payload's.
    """

    __slots__ = ("descriptor", "file_bytes")

    descriptor: Descriptor
    file_bytes: int


def make_memory_file(size: int) -> tuple[Descriptor, mmap]:
    """Make a memory file of this size; return it with the only mapping that can ever write to it.

    Raises:
        OSError: there is not enough memory, or no descriptor.
    """
    descriptor = open_memory_file(size)
    # Allocate all of it now: touching a page without memory kills the process by SIGBUS.
    os.posix_fallocate(descriptor.fileno, 0, size)
    return descriptor, fix_memory_file(descriptor, size)


def open_memory_file(size: int) -> Descriptor:
    """Return an empty memory file, for a size that is possible at all. Raises OSError."""
    # The kernel refuses a mapping that is far too large, but fills a file until it has to kill processes.
    _map(-1, size, is_private=True).close()
    return Descriptor(os.memfd_create("spear", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))


def fix_memory_file(descriptor: Descriptor, size: int) -> mmap:
    """Seal the size of an allocated file; return the only mapping that can ever write to the file."""
    mapping = _map(descriptor.fileno, size, to_write=True)
    fcntl.fcntl(descriptor.fileno, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    with suppress(OSError):  # an old kernel, which cannot keep the peer from writing
        fcntl.fcntl(descriptor.fileno, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
    return mapping


def make_private_memory(size: int) -> mmap:
    """Return memory of this process alone. Raises OSError."""
    import mmap  # see _map()

    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _map(fileno: int, size: int, *, to_write: bool = False, is_private: bool = False) -> mmap:
    # Imported here, because every function's process imports this module, and few need mmap.
    import mmap

    flags, protection = mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
    if is_private:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    elif not to_write:
        # Linux before 6.7 refuses shared mappings of files sealed against writing, even to read.
        flags, protection = mmap.MAP_PRIVATE, mmap.PROT_READ
    if sys.version_info >= (3, 13):
        return mmap.mmap(fileno, size, flags, protection, trackfd=False)
    return mmap.mmap(fileno, size, flags, protection)


def _make_memory(size: int) -> tuple[Descriptor, mmap]:
    """Return a memory file; or plain memory, if the system has no memory files or refuses them."""
    if can_share_memory():
        try:
            return make_memory_file(size)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):  # a seccomp filter
                raise
    return Descriptor(-1), _map(-1, size, to_write=True)


# -- our memory ---------------------------------------------------------------------------------------


@final
class SharedBuffer(MemoryFile):
    """A buffer whose memory is handed to another process instead of being copied.

    Fill :attr:`view`, then pass the buffer as the only argument of a call, or return it from a function.
    The receiver gets a read-only ``memoryview`` of the same memory. Where memory cannot be handed over
    (another machine, TLS), its bytes are sent instead, up to ``max_message_bytes``.

    A buffer that a function hands over is sealed: it cannot be written to any more. A host may write to
    its buffer again when the call is over; a function that has kept a view of it sees the change.

    The memory is freed when neither process uses it any more. Leaving a ``with`` block, or
    :meth:`close`, gives up this process's share at once.

    Args:
        size: in bytes. The memory is allocated at once, which takes 0.4 s for a GiB, and zeroed.

    Raises:
        ValueError: the size is not a whole number, or below 1.
        MemoryError: there is not enough memory.
    """

    __slots__ = ("_is_sealed", "_mapping", "_size", "_view")

    def __init__(self, size: int) -> None:
        if type(size) is not int or size < 1:
            raise ValueError(
                f"the size of a SharedBuffer must be a whole number of at least 1, not {shown(size)}"
            )
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
        """A view of the memory; writable until :meth:`seal`. Raises ValueError after :meth:`close`."""
        if self._view is None:
            raise ValueError("this SharedBuffer is closed")
        return self._view

    def as_view(self) -> memoryview:
        """Return a read-only view of the memory."""
        return self.view.toreadonly()

    def as_bytes(self) -> bytes:
        """Return a copy of the contents."""
        return bytes(self.view)

    def seal(self) -> None:
        """Make the memory read-only for all processes, permanently.

        Does nothing if the buffer is closed, or its memory cannot be shared.

        Raises:
            BufferError: a view of the memory, writable or read-only, still exists.
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
        """Give up the memory. It stays valid for views in this process, and for a peer that has it."""
        view, self._view = self._view, None
        if view is not None:
            self.descriptor = Descriptor(-1)  # a call that is being sent keeps the old one
            with suppress(BufferError):  # views exist; the last one frees the memory
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


# -- a peer's memory ----------------------------------------------------------------------------------


class Condition(NamedTuple):
    """A description, by the kernel, of a file that a peer has passed.

    Attributes:
        size: the size of the file, in bytes.
        held_bytes: the most memory that the file can hold as long as its descriptor is open.
        is_fixed: whether the file can neither shrink nor grow.
        is_final: whether the file can never be written to again.
        is_whole: whether all of the file's memory is allocated, so that reading it takes no more.
    """

    size: int
    held_bytes: int
    is_fixed: bool
    is_final: bool
    is_whole: bool


def examine(fileno: int) -> Condition:
    """Describe a file that a peer has passed, and free memory that the file holds beyond its end.

    Raises ValueError if it is not a memory file of ordinary pages.
    """
    found = os.fstat(fileno)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("the file is not a memory file")
    try:
        seals = fcntl.fcntl(fileno, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ValueError("the file is not a memory file") from error
    if os.fstatvfs(fileno).f_bsize != PAGE_BYTES:
        # Memory of huge pages can only be unmapped in whole pages, so a view of a part would never go.
        raise ValueError("the file is a memory file of huge pages, which are not supported")
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
    """Free memory beyond the end of a fixed file; return False if the descriptor does not allow that.

    fallocate(2) can put memory there before the file is sealed. In st_blocks, that memory hides that
    memory is missing before the end. SEEK_HOLE and mincore(2) are no help: for both of them, memory
    that was never written to is a hole.
    """
    try:
        os.ftruncate(fileno, size)  # to its present size, which no seal forbids
    except OSError:
        return False
    return True


def _private_memory(size: int) -> memoryview:
    return memoryview(make_private_memory(size))


@final
class BorrowedFile(MemoryFile):
    """A segment that a peer has handed to us.

    Args:
        descriptor: the descriptor of the file, which must be fixed; see :class:`Condition`.
        file_bytes: the size of the file.
        size: bytes of payload at the beginning of the file.
        is_final: whether no process can change the file any more.
        on_end: called once, when we do not use the segment any more; perhaps in another thread, or while
            garbage is being collected.
        can_be_viewed: whether a view of the file is safe; if not, :meth:`as_view` makes a copy.
        take_memory: returns memory for a large copy.
    """

    __slots__ = ("_can_be_viewed", "_copy", "_on_end", "_size", "_take_memory", "is_final")

    def __init__(
        self,
        descriptor: Descriptor,
        file_bytes: int,
        size: int,
        on_end: Callable[[], None],
        *,
        is_final: bool,
        can_be_viewed: bool,
        take_memory: Callable[[int], memoryview] = _private_memory,
    ) -> None:
        self.is_final = is_final
        self._take_memory = take_memory
        self._copy: memoryview | None = None
        self.descriptor = descriptor
        self.file_bytes = file_bytes
        self._size = size
        self._on_end: Callable[[], None] | None = on_end
        self._can_be_viewed = can_be_viewed

    def __len__(self) -> int:
        return self._size

    def as_view(self) -> memoryview:
        """Return a view of the payload; the segment is in use while the view lives. Call this once."""
        if self._copy is not None:
            return self._copy
        if not self._can_be_viewed:
            return memoryview(self.as_bytes())
        on_end = self._expect_unused()
        try:
            mapping = _map(self.descriptor.fileno, self._size)
        except OSError:  # no descriptor is left, or no address space
            return memoryview(self.as_bytes())
        weakref.finalize(mapping, on_end).atexit = False
        self._on_end = None
        self.descriptor = Descriptor(-1)  # a call that forwards the segment keeps the old one
        return memoryview(mapping)

    def as_bytes(self) -> bytes:
        """Return a copy of the payload, and release the segment. Raises OSError."""
        if self._copy is not None:
            made = self._copy.obj
            return made if type(made) is bytes else bytes(self._copy)
        # Without a mapping, which has a page fault for each 64 KiB, and holds the interpreter's lock.
        self._expect_unused()
        fileno, size = self.descriptor.fileno, self._size
        parts = [
            os.pread(fileno, min(MOST_READ_BYTES, size - start), start)
            for start in range(0, size, MOST_READ_BYTES)
        ]
        self.close()
        return b"".join(parts)  # does not copy a single part

    async def settle(self, *, as_bytes: bool) -> None:
        """Copy a large payload that has to be copied, so that taking it takes no time.

        If cancelled, the payload is as before. A checkpoint if there is a copy to make. Raises OSError.

        Args:
            as_bytes: whether :meth:`as_bytes` is called next; otherwise :meth:`as_view`.
        """
        is_small = self._size <= STEP_BYTES or self._on_end is None
        if is_small or (self._can_be_viewed and not as_bytes):
            return
        if as_bytes:
            memory = BytesIO(
                bytes(self._size)
            )  # returns its memory without a copy, as in spear.wire
            target = memory.getbuffer()
        else:
            target = self._take_memory(self._size)
        for _ in self.copy_in_steps(target):
            await trio.lowlevel.checkpoint()
        if as_bytes:
            target.release()
            self._copy = memoryview(memory.getvalue())
        else:
            self._copy = target.toreadonly()
        self.close()

    def copy_in_steps(self, target: memoryview) -> Iterator[None]:
        """Copy the payload to the beginning of ``target``; see :class:`Segment`."""
        if self._copy is not None:
            yield from super().copy_in_steps(target)
            return
        fileno, size = self.descriptor.fileno, self._size
        for start in range(0, size, STEP_BYTES):
            if start:
                yield
            with target[start : min(start + STEP_BYTES, size)] as part:
                if os.preadv(fileno, [part], start) != len(part):
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Iterate over copies of parts of the payload; see :class:`Segment`."""
        if self._copy is not None:
            yield self._copy
            return
        fileno, size = self.descriptor.fileno, self._size
        for start in range(0, size, STEP_BYTES):
            yield os.pread(fileno, min(STEP_BYTES, size - start), start)

    def _expect_unused(self) -> Callable[[], None]:
        if self._on_end is None:
            raise ValueError("this segment was viewed or copied before")
        return self._on_end

    def close(self) -> None:
        """Release the segment, because we do not use it any more."""
        self.descriptor = Descriptor(-1)  # see as_view()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    def __del__(self) -> None:
        self.close()


# -- passing descriptors --------------------------------------------------------------------------------


def send_with_descriptor(sock: socket.socket, data: bytes, fileno: int) -> int:
    """Send without waiting: the beginning of ``data``, and a descriptor with the first byte."""
    return sock.sendmsg([data], [(*_RIGHTS, _INT.pack(fileno))])


def receive_with_descriptors(
    sock: socket.socket, size: int
) -> tuple[bytes, list[Descriptor], bool]:
    """Read without waiting; return the bytes, the descriptors beside them, and whether some are lost."""
    data, ancillary, flags, _ = sock.recvmsg(size, _ANCILLARY_BYTES, _CLOSE_ON_EXEC)
    return data, descriptors_in(ancillary) if ancillary else [], bool(flags & _TRUNCATED)


def descriptors_in(ancillary: Sequence[tuple[int, int, bytes]]) -> list[Descriptor]:
    """Return the descriptors that have arrived beside the bytes of one read."""
    return [
        Descriptor(number)
        for level, kind, data in ancillary
        if (level, kind) == _RIGHTS
        for (number,) in _INT.iter_unpack(data[: len(data) - len(data) % _INT.size])
    ]
