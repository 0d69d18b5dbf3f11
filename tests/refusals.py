"""Programs to which the system denies something: a resource, a system call, a file system."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import subprocess
import sys
from functools import cache

import pytest

CLONE_THREAD = 0x10000

_NUMBERS = {
    "x86_64": {
        "clone": 56, "clone3": 435, "epoll_create1": 291, "memfd_create": 319, "pidfd_open": 434,
        "prlimit64": 302, "socketpair": 53,
    },
    "aarch64": {
        "clone": 220, "clone3": 435, "epoll_create1": 20, "memfd_create": 279, "pidfd_open": 434,
        "prlimit64": 261, "socketpair": 199,
    },
}  # fmt: skip

# An instruction of a filter: the operation, two jumps, and an operand (<linux/filter.h>).
_FILTER = """
import ctypes, os, struct, sys

LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
REFUSE, ALLOW = 0x00050000, 0x7FFF0000
instructions = []
for rule in sys.argv[1].split():
    number, error, flag = map(int, rule.split(":"))
    instructions += [
        (LOAD, 0, 0, 0),  # the system call
        (EQUAL, 0, 3, number),
        (LOAD, 0, 0, 16),  # its first argument
        (ANY_BIT, 0, 1, flag) if flag else (RETURN, 0, 0, REFUSE | error),
        (RETURN, 0, 0, REFUSE | error),
    ]
instructions.append((RETURN, 0, 0, ALLOW))
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in instructions))
header = ctypes.create_string_buffer(
    struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(program))
)
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
if libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(header)), 0, 0):  # PR_SET_SECCOMP
    raise OSError(ctypes.get_errno(), "no filter")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def refusing(*names: str, error: int = errno.EPERM) -> list[str]:
    """Return the prefix for a command whose calls of these system calls fail with ``error``."""
    return _filtered([(name, error, 0) for name in names])


def without_threads() -> list[str]:
    """Return the prefix for a command that can start no thread."""
    return _filtered([("clone3", errno.ENOSYS, 0), ("clone", errno.EAGAIN, CLONE_THREAD)])


def _filtered(rules: list[tuple[str, int, int]]) -> list[str]:
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        pytest.skip(f"no system call numbers are listed for {platform.machine()}")
    text = " ".join(f"{numbers[name]}:{error}:{flag}" for name, error, flag in rules)
    prefix = [sys.executable, "-I", "-c", _FILTER, text]
    if not _works([*prefix, sys.executable, "-c", ""]):
        pytest.skip("this process may not install a seccomp filter")
    return prefix


def limited(option: str, value: int) -> list[str]:
    """Return the prefix for a command with a limit of ``ulimit``."""
    return ["sh", "-c", f'ulimit {option} {value}; exec "$@"', "sh"]


def mounted(script: str) -> list[str]:
    """Return the prefix for a command that sees other file systems, mounted by a shell script."""
    prefix = ["unshare", "--mount", "sh", "-e", "-c", f'{script}\nexec "$@"', "sh"]
    if shutil.which("unshare") is None or not _works([*prefix, "true"]):
        pytest.skip("this user may not mount file systems, even in a namespace")
    return prefix


READ_ONLY = """
mount -o remount,ro,bind /
for each in /dev/shm /run /tmp /var/tmp; do
    if mountpoint -q "$each"; then mount -o remount,ro,bind "$each"; fi
done
"""
"""A script for :func:`mounted` that makes all file systems read-only."""

NO_PROC = "mount -t tmpfs none /proc"


@cache
def _run(command: tuple[str, ...]) -> int:
    return subprocess.run(command, capture_output=True, check=False).returncode


def _works(command: list[str]) -> bool:
    return _run(tuple(command)) == 0


def unmeasured() -> dict[str, str]:
    """Return the environment without coverage, which would write files."""
    return {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
