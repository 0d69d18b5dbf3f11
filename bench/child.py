"""The main module of every child process: `python -m bench.child PARENT_PID ENTRY ARGS...`."""

from __future__ import annotations

import os
import sys
from typing import Protocol, cast

from bench.process import die_with, load_entry, settle_gc


class _Entry(Protocol):
    def __call__(self, *args: str) -> object: ...


def main() -> None:
    parent, entry, *args = sys.argv[1:]
    die_with(int(parent))
    if entry == "exec":
        os.execvp(args[0], args)
    function = cast("_Entry", load_entry(entry))
    settle_gc()
    function(*args)


if __name__ == "__main__":
    main()
