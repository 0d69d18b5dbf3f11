"""The process of one measurement, which writes one line of JSON to standard output.

The line is `{"sample": {figure: number}}` or `{"unavailable": reason}`. Any other output, and any exit
status but 0, means that the measurement failed; the reason is on standard error.
"""

from __future__ import annotations

import json
from typing import Protocol, cast

from bench.model import BenchError, Effort, Sample, Unavailable, Workload
from bench.process import load_entry, pin_to_one_core
from bench.registry import PEERS


class Measure(Protocol):
    """The signature of a peer's entry."""

    def __call__(self, load: Workload, effort: Effort) -> Sample: ...


def run(peer_name: str, load_text: str, effort_text: str) -> None:
    """Measure one case. The load and the effort are JSON."""
    peer, load = PEERS[peer_name], Workload.from_json(load_text)
    if load.pinned:
        pin_to_one_core()
    try:
        measure = cast("Measure", load_entry(peer.entry))
        sample = measure(load, Effort.from_json(effort_text))
    except Unavailable as reason:
        print(json.dumps({"unavailable": str(reason)}))
        return
    if not sample or min(sample.values()) < 0:
        raise BenchError(f"{peer.name} gave no valid figures: {sample}")
    print(json.dumps({"sample": sample}))
