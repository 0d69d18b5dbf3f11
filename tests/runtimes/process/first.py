"""A host that is the first process of its namespace, and checks that orphans are reaped there.

It also has children of its own, which end at once, and for which it waits at its end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import trio

from runtimes.helpers import call, listening, open_host, shell, until, worker
from spear.runtimes.process._orphans import Orphans, inherits_orphans


def zombies() -> set[int]:
    """Return the zombies among the children of this process."""
    found = set()
    for process in Path("/proc").glob("[0-9]*/stat"):
        name, _, rest = process.read_text().rpartition(")")
        state, parent = rest.split()[:2]
        if state == "Z" and int(parent) == os.getpid():
            found.add(int(name.split()[0]))
    return found


async def main() -> None:
    assert inherits_orphans()
    own = [
        subprocess.Popen(["sh", "-c", f"exit {status}"], start_new_session=bool(status % 2))
        for status in (6, 7)
    ]
    pids = {each.pid for each in own}
    await until(lambda: zombies() == pids)

    # One stays in its instance's process group, and one has left the group when its parent was gone.
    async with open_host() as host:
        async with host.ready(worker()) as instance:
            child = int(await call(instance, "grandchild"))
            await instance.kill()
            await instance.wait_exited()
            assert instance.exit_status == -9
        with listening() as lines:
            code = "setsid sh -c 'sleep 0.01 & echo pid $!'; echo done; sleep 1000"
            async with host.run(shell(code)):
                daemon = int((await lines.wait_for("pid ")).split()[-1])
                await lines.wait_for("done")  # the shell has reaped the session leader
        await until(
            lambda: not {child, daemon} & zombies() and not Path(f"/proc/{daemon}").exists()
        )
        await until(lambda: zombies() == pids)

    # A session leader that was seen while its parent lived.
    orphans = Orphans()
    parent = subprocess.Popen(
        ["sh", "-c", "exec setsid sh -c 'setsid sleep 1000 & echo $!; read line'"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdin
    assert parent.stdout
    leader = int(parent.stdout.readline())
    await until(lambda: os.getsid(leader) == leader)
    orphans.sweep()
    parent.stdin.write(b"\n")
    parent.stdin.close()
    parent.stdout.close()
    parent.wait()
    os.kill(leader, 9)
    await until(lambda: leader in zombies())
    orphans.sweep()
    assert zombies() == pids
    assert [each.wait() for each in own] == [6, 7]


if __name__ == "__main__":
    trio.run(main)
