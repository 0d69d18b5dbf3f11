"""A rolling restart under load, as a picture: `python -m bench.rolling`.

Calls at a fixed rate, whatever their answers do (an open loop, so that a stall shows as latency of every
call that it hits), while every replica is replaced. Writes docs/images/rolling-restart.svg, and fails if
a single call failed.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import textwrap

import attrs
import trio

import spear
from bench.process import ROOT

RATE = 200
"""Calls per second."""

REPLICAS = 4
BEFORE_SECONDS = 2.0
AFTER_SECONDS = 2.0

WORKERS = """
    import os
    import spear

    app = spear.Agent("workers")

    @app.function
    async def who() -> int:
        return os.getpid()
"""


@attrs.define
class Record:
    """The events of the run. Times are seconds since the beginning."""

    begun: float = attrs.field(factory=trio.current_time)
    calls: list[tuple[float, float, int]] = attrs.field(factory=list)  # (when, latency, process)
    failures: list[tuple[float, str]] = attrs.field(factory=list)
    ready: list[tuple[float, int]] = attrs.field(factory=list)
    restart: tuple[float, float] = (0.0, 0.0)

    def now(self) -> float:
        return trio.current_time() - self.begun

    async def call(self, function: spear.Function) -> None:
        when = self.now()
        try:
            process = await function(timeout=10)
        except spear.SpearError as error:
            self.failures.append((when, str(error)))
        else:
            assert isinstance(process, int)
            self.calls.append((when, self.now() - when, process))


async def run(target: pathlib.Path) -> Record:
    record = Record()
    async with spear.open_spearlet() as spearlet:
        deployment = await spearlet.deploy(target, replicas=REPLICAS)
        record.begun = trio.current_time()
        async with trio.open_nursery() as nursery, trio.open_nursery() as load:

            @load.start_soon
            async def knock() -> None:
                number = 0
                while True:
                    nursery.start_soon(record.call, deployment.who)
                    record.ready.append((record.now(), deployment.statistics().ready))
                    number += 1
                    await trio.sleep_until(record.begun + number / RATE)

            await trio.sleep(BEFORE_SECONDS)
            since = record.now()
            await deployment.restart()
            record.restart = since, record.now()
            await trio.sleep(AFTER_SECONDS)
            load.cancel_scope.cancel()
    return record


def draw(record: Record, path: pathlib.Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "spear", "svg.fonttype": "none", "font.size": 10})
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(9, 4.6), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    processes = list(dict.fromkeys(process for _, _, process in record.calls))
    colors = plt.get_cmap("viridis")
    for place, process in enumerate(processes):
        points = [(when, 1000 * took) for when, took, each in record.calls if each == process]
        upper.plot(
            *zip(*points, strict=True), ".", markersize=4,
            color=colors(place / max(len(processes) - 1, 1)),
        )  # fmt: skip
    upper.set_yscale("log")
    upper.set_ylabel("latency, ms")
    upper.set_title(
        f"{RATE} calls a second, {len(record.calls):,} in all, {len(record.failures)} failed; "
        "a colour for each process",
        loc="left",
    )
    lower.step(*zip(*record.ready, strict=True), where="post", color="#334155")
    lower.set_ylim(0, REPLICAS + 1.5)
    lower.set_ylabel("ready")
    lower.set_xlabel("seconds; the restart is grey")
    for axes in (upper, lower):
        axes.axvspan(*record.restart, color="#94a3b8", alpha=0.25, linewidth=0)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rolling", description=__doc__)
    parser.add_argument("--docs", type=pathlib.Path, default=ROOT / "docs", metavar="DIR")
    options = parser.parse_args()
    target = ROOT / "bench" / "build" / "rolling_workers.py"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(textwrap.dedent(WORKERS))
    record = trio.run(run, target)
    path = options.docs / "images" / "rolling-restart.svg"
    draw(record, path)
    took = sorted(seconds for _, seconds, _ in record.calls)
    print(
        f"{len(took)} calls, {len(record.failures)} failed, "
        f"{len({process for *_, process in record.calls})} processes"
    )
    print(f"latency: median {1000 * took[len(took) // 2]:.2f} ms, slowest {1000 * took[-1]:.1f} ms")
    print(f"ready: never fewer than {min(ready for _, ready in record.ready)} of {REPLICAS}")
    print(f"Written: {path}")
    return 1 if record.failures else 0


if __name__ == "__main__":
    sys.exit(main())
