"""Run one measurement, then kill every process that it started.

`python -m bench.guardian PARENT_PID PEER LOAD EFFORT` forks the worker. When the worker or PARENT_PID
ends, or on SIGTERM, the guardian kills all descendants. Most child processes die with their parent
anyhow (`process.die_with`), but some systems start daemons of their own, which outlive a killed worker
by minutes. As a "child subreaper" the guardian adopts such orphans, and their CPU time is charged to the
benchmark, so that it does not count as foreign load.
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
        from bench.worker import run  # imported here, because the guardian does not need it

        run(*arguments)
        return
    status = 1
    try:
        if _ended_first(worker, int(parent)) == worker:
            status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    finally:
        _kill_descendants()
    # A negative status means death by a signal, and cannot be an exit status.
    sys.exit(status if status >= 0 else 128 - status)


def _ended_first(worker: int, parent: int) -> int:
    """Wait until one of two processes has ended, and return its pid."""
    parent_fd, worker_fd = os.pidfd_open(parent), os.pidfd_open(worker)
    if os.getppid() != parent:  # the parent ended before pidfd_open(), so its pid may be reused
        return parent
    poll = select.poll()
    poll.register(parent_fd, select.POLLIN)
    poll.register(worker_fd, select.POLLIN)
    ended = [fd for fd, _ in poll.poll()]
    return worker if worker_fd in ended else parent


def _kill_descendants() -> None:
    """Kill and reap children until none is left. Children of killed processes are adopted."""
    while children := _children():
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _children() -> list[int]:
    pid = os.getpid()  # also the id of the main thread, the only one
    return [
        int(child) for child in pathlib.Path(f"/proc/self/task/{pid}/children").read_text().split()
    ]


if __name__ == "__main__":
    main()
