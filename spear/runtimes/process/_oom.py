"""Which process the kernel kills when there is no memory left: an instance rather than its host.

The kernel takes the process that holds most. While the memory of that one is not counted as free yet, it
takes the next one, too; and with a host go all of its instances.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

INSTANCE_SCORE: Final = 500
"""Added to the score of an instance (proc(5), oom_score_adj): as if it held half of all memory, too."""

_MOST: Final = 1000


def prefer_to_host(pid: int) -> None:
    """Have the kernel kill the process ``pid`` rather than this one. Does nothing if it has ended."""
    with suppress(OSError):  # it has ended, or /proc cannot be written
        score = int(Path("/proc/self/oom_score_adj").read_text()) + INSTANCE_SCORE
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(min(score, _MOST)))
