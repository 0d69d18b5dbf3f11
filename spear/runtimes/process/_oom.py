"""The choice of the process that the kernel kills when memory runs out: an instance before its host.

The kernel kills the process that uses most memory. Until this memory counts as free, the kernel kills the
next process, too. If it killed the host, all instances of the host would die.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

INSTANCE_SCORE: Final = 500
"""Added to the OOM score of an instance (proc(5), oom_score_adj), as much as for half of all memory."""

_MOST: Final = 1000


def prefer_to_host(pid: int) -> None:
    """Have the kernel kill the process ``pid`` before this one. Does nothing if it has ended."""
    with suppress(OSError):  # the process has ended, or /proc cannot be written
        score = int(Path("/proc/self/oom_score_adj").read_text()) + INSTANCE_SCORE
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(min(score, _MOST)))
