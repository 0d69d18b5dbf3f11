"""Resources that the system denies: one line and an exit status, and other features still work."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from refusals import (
    NO_PROC,
    READ_ONLY,
    limited,
    mounted,
    refusing,
    unmeasured,
    without_threads,
)

from .helpers import COMMAND, PATIENCE_SECONDS
from .serving import TILL, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run(prefix: list[str], place: Path, *words: str) -> tuple[int, str, list[str]]:
    """Run a command to which something is denied; return (exit status, output, lines of errors)."""
    done = subprocess.run(
        [*prefix, *COMMAND, *words], cwd=place, env=unmeasured(), capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr.splitlines()


NO_PLACE = "no temporary directory is writable"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prefix", "words", "status", "message"),
    [
        (lambda: limited("-f", 0), "call till.py:greet", 2, NO_PLACE),
        (lambda: limited("-f", 0), "serve till.py", 2, NO_PLACE),
        (lambda: mounted(READ_ONLY), "call till.py:greet", 2, NO_PLACE),
        (lambda: mounted(READ_ONLY), "serve till.py b=till.py", 2, NO_PLACE),
        (
            lambda: limited("-n", 6),
            "call till.py:greet",
            71,
            "operating system error: [Errno 24] Too",
        ),
        (lambda: limited("-n", 6), "serve till.py", 71, "operating system error: [Errno 24] Too"),
        (lambda: limited("-n", 14), "call till.py:greet", 6, "Too many open files"),
        (
            without_threads,
            "call till.py:greet",
            71,
            "operating system error: [Errno 11] can't start",
        ),
        (without_threads, "serve till.py", 71, "operating system error: [Errno 11] can't start"),
        (lambda: refusing("epoll_create1"), "call till.py:greet", 71, "Operation not permitted"),
        (lambda: refusing("socketpair"), "serve till.py", 71, "Operation not permitted"),
        (lambda: refusing("prlimit64"), "serve till.py", 2, "core_bytes: cannot be limited here"),
        (
            lambda: refusing("pidfd_open", error=errno.ENOSYS),
            "call till.py:greet",
            6,
            "Function not implemented (pidfd_open)",
        ),
    ],
    ids=lambda value: value.replace(" ", "-")[:24] if isinstance(value, str) else "",
)
def test_what_the_system_refuses_is_one_line_and_a_status(
    here: Path, prefix: Callable[[], list[str]], words: str, status: int, message: str
) -> None:
    (here / "till.py").write_text(TILL)
    found, output, lines = run(prefix(), here, *words.split())
    assert (found, output, len(lines)) == (status, "", 1), lines
    assert lines[0].startswith("spear: ")
    assert message in lines[0]


@pytest.mark.slow
def test_a_check_finds_that_there_is_no_temporary_directory(here: Path) -> None:
    status, _, (line,) = run(limited("-f", 0), here, "serve", "shop.py", "--check")
    assert (status, NO_PLACE in line) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inodes", "message"),
    [
        (1, "cannot use {}: No space left on device; choose another path with --control-socket"),
        (
            3,
            (
                "cannot listen at {}/x.sock: No space left on device; "
                "choose another address with --control-socket"
            ),
        ),
    ],
)
def test_a_full_disk_names_the_flag_to_change(here: Path, inodes: int, message: str) -> None:
    (here / "full").mkdir()
    full = mounted(f"mount -t tmpfs -o nr_inodes={inodes} none {here}/full")
    path = here / "full" / "own"
    words = ["shop.py", "--listen", "off", "--control-socket", f"{path}/x.sock"]
    status, output, lines = run(full, here, "serve", *words)
    assert (status, output, lines[-1]) == (2, "", f"spear: {message.format(path)}")


@pytest.mark.slow
def test_without_proc_everything_is_spawned(here: Path) -> None:
    """A zygote cannot list its descriptors, so nothing is forked; all other features work."""
    place = here / "shut"
    place.mkdir()
    with serving(place, "till.py", "--replicas", "2", prefix=mounted(NO_PROC)) as host:
        assert host.greeting() == b'"hello you"'
        assert host.end()[0] == 0


@pytest.mark.slow
def test_a_host_gets_over_a_temporary_directory_that_was_read_only(here: Path) -> None:
    """The host serves meanwhile, reports what it cannot start, and starts it later."""
    if shutil.which("nsenter") is None:
        pytest.skip("there is no nsenter to remount with")
    place = here / "shut"
    (place / "tmp").mkdir(parents=True)
    (place / "till.py").write_text(TILL)
    prefix = mounted(f"mount -t tmpfs none {place}/tmp")
    config = place / "spear.toml"
    text = '[functions.till]\nsource = "till.py"\n'
    config.write_text(text)
    with serving(place, prefix=prefix) as host:

        def remount(how: str) -> None:
            enter = ["nsenter", "--mount", "--target", str(host.process.pid)]
            subprocess.run([*enter, "mount", "-o", f"remount,{how}", f"{place}/tmp"], check=True)

        remount("ro")
        assert host.greeting() == b'"hello you"'
        more = '[functions.more]\nsource = "till.py"\nprivate_directory = true\n'
        config.write_text(text + more)
        host.send(signal.SIGHUP)
        assert "Read-only file system" in host.hear("reload: more: ")
        assert "failed (see above): more" in host.hear("reloaded")
        assert host.greeting() == b'"hello you"'
        remount("rw")
        host.send(signal.SIGHUP)
        assert "more deployed" in host.hear("reloaded")
        remount("ro")
        assert host.end() == (0, "")
