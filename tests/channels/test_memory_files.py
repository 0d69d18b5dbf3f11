"""Memory files: the memory that the kernel keeps for them, and the lifetime of descriptors."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
from typing import TYPE_CHECKING

import pytest

import spear
from spear import SharedBuffer
from spear.channels.segments._memory_files import (
    BorrowedFile,
    Descriptor,
    descriptors_in,
    examine,
    make_memory_file,
    receive_with_descriptors,
    send_with_descriptor,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = mmap.PAGESIZE
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


class Ends:
    """A counter of ended buffers."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def borrowed(
    size: int = 3, *, is_final: bool = False, can_be_viewed: bool = True
) -> tuple[BorrowedFile, Ends]:
    descriptor, mapping = make_memory_file(PAGE)
    mapping[:3] = b"abc"
    mapping.close()
    ends = Ends()
    return (
        BorrowedFile(descriptor, PAGE, size, ends, is_final=is_final, can_be_viewed=can_be_viewed),
        ends,
    )


FIXED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, of fallocate(2)
LIBC = ctypes.CDLL(None)


def hollow_file(size: int, before_end: int, beyond_end: int) -> Descriptor:
    """Return a memory file with memory for ``before_end`` bytes, and for ``beyond_end`` after its end."""
    made = Descriptor(os.memfd_create("hollow", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    os.ftruncate(made.fileno, size)
    if before_end:
        os.posix_fallocate(made.fileno, 0, before_end)
    start = -(-size // PAGE) * PAGE
    place = (ctypes.c_long(start), ctypes.c_long(beyond_end))
    assert LIBC.fallocate(made.fileno, KEEP_SIZE, *place) == 0
    found = os.fstat(made.fileno)
    assert (found.st_size, found.st_blocks * 512 >= beyond_end) == (size, True)
    return made


class TestSharedBuffer:
    def test_it_is_memory(self) -> None:
        with spear.SharedBuffer(5) as buffer:
            assert len(buffer) == 5
            assert bytes(buffer.view) == bytes(5)
            buffer.view[:] = b"hello"
            assert buffer.as_bytes() == bytes(buffer) == b"hello"
            assert buffer.as_view().readonly
            assert bytes(buffer.as_view()) == b"hello"
            assert repr(buffer) == "<SharedBuffer 5 bytes>"

    @pytest.mark.parametrize("size", [0, -1])
    def test_it_holds_something(self, size: int) -> None:
        with pytest.raises(ValueError, match=f"at least 1, not {size}"):
            SharedBuffer(size)

    def test_more_than_there_is_is_refused_at_once(self) -> None:
        with pytest.raises(
            MemoryError, match="cannot make a SharedBuffer of 4611686018427387904 bytes"
        ):
            SharedBuffer(1 << 62)

    def test_where_memory_files_are_refused_it_is_like_other_memory(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(name: str, flags: int) -> int:
            raise PermissionError(errno.EPERM, "a filter says no")

        monkeypatch.setattr(os, "memfd_create", refuse)
        with SharedBuffer(5) as buffer:
            buffer.view[:] = b"hello"
            assert (buffer.descriptor.fileno, bytes(buffer.as_view())) == (-1, b"hello")

    def test_all_of_its_memory_is_there_at_once(self) -> None:
        with SharedBuffer(10 * PAGE) as buffer:
            found = examine(buffer.descriptor.fileno)
        assert found == (10 * PAGE, 10 * PAGE, True, False, True)

    def test_nobody_else_can_write_to_it(self) -> None:
        with SharedBuffer(PAGE) as buffer:
            fileno = buffer.descriptor.fileno
            with pytest.raises(PermissionError):
                os.pwrite(fileno, b"x", 0)
            with pytest.raises(PermissionError):
                mmap.mmap(fileno, PAGE)
            for size in (0, 2 * PAGE):
                with pytest.raises(PermissionError):
                    os.ftruncate(fileno, size)
            again = os.open(f"/proc/self/fd/{fileno}", os.O_RDWR | os.O_CLOEXEC)
            try:
                with pytest.raises(PermissionError):
                    mmap.mmap(again, PAGE)
            finally:
                os.close(again)
            buffer.view[0] = 1  # the owner can

    def test_once_sealed_nobody_can(self) -> None:
        with SharedBuffer(PAGE) as buffer:
            buffer.view[:5] = b"final"
            buffer.seal()
            buffer.seal()
            assert examine(buffer.descriptor.fileno).is_final
            assert buffer.view.readonly
            assert bytes(buffer.view[:5]) == b"final"
            assert repr(buffer) == f"<SharedBuffer {PAGE} bytes sent>"

    def test_who_still_has_a_view_keeps_it_from_being_sealed(self) -> None:
        buffer = SharedBuffer(PAGE)
        part = buffer.view[10:20]
        with pytest.raises(BufferError):
            buffer.seal()
        part[0] = 7
        assert buffer.view[10] == 7
        assert not buffer.view.readonly
        part.release()
        buffer.seal()
        assert buffer.view[10] == 7

    def test_views_outlive_it(self) -> None:
        with SharedBuffer(PAGE) as buffer:
            part = buffer.view[:3]
            part[:] = b"abc"
        assert bytes(part) == b"abc"
        with pytest.raises(ValueError, match="this SharedBuffer is closed"):
            _ = buffer.view
        buffer.close()
        assert repr(buffer) == f"<SharedBuffer {PAGE} bytes closed>"

    def test_closed_it_has_no_descriptor_but_who_sends_it_has(self) -> None:
        buffer = SharedBuffer(PAGE)
        being_sent = buffer.descriptor
        buffer.close()
        assert buffer.descriptor.fileno == -1
        assert examine(being_sent.fileno).size == PAGE

    def test_where_there_are_no_memory_files_it_is_plain_memory(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(os, "memfd_create")
        with SharedBuffer(5) as buffer:
            buffer.view[:] = b"hello"
            buffer.seal()
            assert buffer.as_bytes() == b"hello"
            assert buffer.descriptor.fileno == -1


class TestExamining:
    def test_a_file_is_none(self) -> None:
        with open(__file__, "rb") as file, pytest.raises(ValueError, match="not a memory file"):
            examine(file.fileno())

    def test_neither_is_a_socket(self) -> None:
        left, right = socket.socketpair()
        with left, right, pytest.raises(ValueError, match="not a memory file"):
            examine(left.fileno())

    def test_what_could_shrink_is_told_from_what_cannot(self) -> None:
        descriptor = Descriptor(os.memfd_create("test", os.MFD_ALLOW_SEALING))
        os.ftruncate(descriptor.fileno, PAGE)
        assert examine(descriptor.fileno) == (PAGE, PAGE, False, False, False)
        fcntl.fcntl(descriptor.fileno, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        assert not examine(descriptor.fileno).is_fixed
        fcntl.fcntl(descriptor.fileno, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        assert examine(descriptor.fileno).is_fixed

    @pytest.mark.parametrize("before_end", [0, 1, 3])
    @pytest.mark.parametrize("seals", [FIXED, FIXED | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL])
    def test_memory_beyond_the_end_is_freed_and_does_not_pass_for_what_is_missing(
        self, seals: int, before_end: int
    ) -> None:
        size = 4 * PAGE
        descriptor = hollow_file(size, before_end * PAGE, beyond_end=100 * PAGE)
        fcntl.fcntl(descriptor.fileno, fcntl.F_ADD_SEALS, seals)
        found = examine(descriptor.fileno)
        assert (found.size, found.held_bytes, found.is_whole) == (size, size, False)
        assert os.fstat(descriptor.fileno).st_blocks * 512 == before_end * PAGE

    def test_a_file_that_is_whole_is_still_whole_when_memory_beyond_its_end_is_freed(self) -> None:
        descriptor = hollow_file(4 * PAGE - 1, 4 * PAGE - 1, beyond_end=100 * PAGE)
        fcntl.fcntl(descriptor.fileno, fcntl.F_ADD_SEALS, FIXED)
        for _ in range(2):
            assert examine(descriptor.fileno).is_whole
            assert os.fstat(descriptor.fileno).st_blocks * 512 == 4 * PAGE

    def test_what_is_open_for_reading_only_may_hold_more_and_is_not_whole(self) -> None:
        made = hollow_file(4 * PAGE, 4 * PAGE, beyond_end=100 * PAGE)
        fcntl.fcntl(made.fileno, fcntl.F_ADD_SEALS, FIXED | fcntl.F_SEAL_WRITE)
        descriptor = Descriptor(os.open(f"/proc/self/fd/{made.fileno}", os.O_RDONLY))
        found = examine(descriptor.fileno)
        assert (found.size, found.is_final, found.is_whole) == (4 * PAGE, True, False)
        assert found.held_bytes >= 104 * PAGE

    def test_a_file_of_huge_pages_is_none(self) -> None:
        try:
            descriptor = Descriptor(os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_HUGETLB))
        except OSError as error:
            pytest.skip(f"no huge pages here: {error.strerror}")
        os.ftruncate(descriptor.fileno, 2 * MIB)
        fcntl.fcntl(descriptor.fileno, fcntl.F_ADD_SEALS, FIXED | fcntl.F_SEAL_WRITE)
        with pytest.raises(ValueError, match="of huge pages"):
            examine(descriptor.fileno)

    def test_what_was_never_sealable_is_not_fixed(self) -> None:
        descriptor = Descriptor(os.memfd_create("test"))
        assert not examine(descriptor.fileno).is_fixed


class TestBorrowedFile:
    def test_a_copy_ends_it(self) -> None:
        file, ends = borrowed()
        assert len(file) == 3
        assert file.as_bytes() == b"abc"
        assert ends.count == 1
        assert file.descriptor.fileno == -1
        del file
        assert ends.count == 1

    def test_it_ends_with_its_last_view(self) -> None:
        file, ends = borrowed()
        view = file.as_view()
        assert view.readonly
        part = view[1:]
        del file, view
        assert (bytes(part), ends.count) == (b"bc", 0)
        del part
        assert ends.count == 1

    def test_it_needs_no_descriptor_while_it_is_viewed(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        file, _ = borrowed()
        view = file.as_view()
        del file
        extra = len(os.listdir("/proc/self/fd")) - before
        assert extra <= 1  # Python keeps one for itself before 3.13
        assert bytes(view) == b"abc"

    def test_who_drops_it_ends_it(self) -> None:
        file, ends = borrowed()
        del file
        assert ends.count == 1

    def test_what_could_change_is_viewed_as_a_copy(self) -> None:
        file, ends = borrowed(can_be_viewed=False)
        assert bytes(file.as_view()) == b"abc"
        assert ends.count == 1

    def test_without_address_space_a_view_is_one_of_a_copy(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError("no more")

        file, ends = borrowed()
        monkeypatch.setattr(mmap, "mmap", refuse)
        assert bytes(file.as_view()) == b"abc"
        assert ends.count == 1

    def test_it_is_taken_once(self) -> None:
        for take in (BorrowedFile.as_view, BorrowedFile.as_bytes):
            file, ends = borrowed()
            taken = take(file)
            for again in (file.as_view, file.as_bytes):
                with pytest.raises(ValueError, match="was viewed or copied before"):
                    again()
            del taken
            assert ends.count == 1

    def test_what_is_handed_on_stays_open(self) -> None:
        file, _ = borrowed()
        handed_on = file.descriptor
        file.close()
        assert examine(handed_on.fileno).size == PAGE


class TestPassing:
    def test_a_descriptor_comes_with_the_first_byte(self) -> None:
        left, right = socket.socketpair()
        descriptor, mapping = make_memory_file(PAGE)
        mapping.close()
        with left, right:
            left.send(b"before")
            assert send_with_descriptor(left, b"frame", descriptor.fileno) == 5
            left.send(b"behind")
            seen = []
            for _ in range(2):
                data, descriptors, is_cut = receive_with_descriptors(right, 100)
                assert not is_cut
                seen.append((data, descriptors))
        (first, found), (second, nothing) = seen
        assert (first, second) == (b"beforeframe", b"behind")
        assert nothing == []
        assert os.path.sameopenfile(found[0].fileno, descriptor.fileno)
        assert not os.get_inheritable(found[0].fileno)

    def test_what_was_not_asked_for_is_closed_by_the_kernel(self) -> None:
        left, right = socket.socketpair()
        descriptor, mapping = make_memory_file(PAGE)
        mapping.close()
        with left, right:
            before = len(os.listdir("/proc/self/fd"))
            send_with_descriptor(left, b"frame", descriptor.fileno)
            assert right.recv(100) == b"frame"
            assert len(os.listdir("/proc/self/fd")) == before

    def test_other_ancillary_data_is_none(self) -> None:
        assert descriptors_in([(socket.SOL_SOCKET, 0x7777, b"1234")]) == []

    def test_a_descriptor_is_closed_once(self) -> None:
        descriptor = Descriptor(os.dup(0))
        descriptor.close()
        descriptor.close()
        assert descriptor.fileno == -1
