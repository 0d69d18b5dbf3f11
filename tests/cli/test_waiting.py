"""Waiting for file descriptors of any number."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

import pytest

from spear.cli._waiting import is_writable, wait_writable


@pytest.mark.parametrize("least", [0, 1024])
def test_a_descriptor_of_any_number_is_waited_for(least: int) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        number = fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, least)
    except OSError:  # pragma: no cover
        pytest.skip("1,024 descriptors are not allowed here")
    try:
        assert number >= least
        wait_writable(number)
        assert is_writable(number)
        with suppress(BlockingIOError):
            while True:
                os.write(number, bytes(4096))
        assert not is_writable(number)
        os.close(reader)
        wait_writable(number)  # the write then fails, so there is no need to wait
        assert is_writable(number)
    finally:
        os.close(number)
        os.close(writer)
