"""Runs one measurement, and leaves nothing running of whatever that started.

`python -m bench.guardian PARENT_PID PEER LOAD EFFORT` forks the worker and waits for its end, for
the end of PARENT_PID or for SIGTERM; then it kills all descendants. Most of our children die with
their parent anyhow (`process.die_with`), but some systems start daemons of their own, which outlive
a killed worker by minutes. As "child subreaper" this process inherits such orphans, and is charged
their CPU time, so that they do not look like somebody else's load.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import signal
import sys

from bench.process import become_subreaper, die_with


def main() -> None:
    parent, *arguments = sys.argv[1:]
    become_subreaper()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    guardian = os.getpid()
    worker = os.fork()
    if worker == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with(guardian)
        from bench.worker import run  # here: the guardian has no use for it

        run(*arguments)
        return
    status = 1
    try:
        if _ended_first(worker, int(parent)) == worker:
            status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    finally:
        _kill_descendants()
    # A negative status, death by signal, cannot be passed on as it is.
    sys.exit(status if status >= 0 else 128 - status)


def _ended_first(worker: int, parent: int) -> int:
    """Wait until one of two processes has ended, and return which."""
    parent_fd, worker_fd = os.pidfd_open(parent), os.pidfd_open(worker)
    if os.getppid() != parent:  # it had ended before we looked, and the id may be another's now
        return parent
    poll = select.poll()
    poll.register(parent_fd, select.POLLIN)
    poll.register(worker_fd, select.POLLIN)
    ended = [fd for fd, _ in poll.poll()]
    return worker if worker_fd in ended else parent


def _kill_descendants() -> None:
    """Kill and reap until there are none; the children of the killed become ours."""
    while children := _children():
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _children() -> list[int]:
    pid = os.getpid()  # the main thread's id too, and the only thread
    return [
        int(child) for child in pathlib.Path(f"/proc/self/task/{pid}/children").read_text().split()
    ]


if __name__ == "__main__":
    main()
