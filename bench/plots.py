"""The two pictures of the documentation. The only module of the package that needs matplotlib."""

from __future__ import annotations

import pathlib

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.model import Case, Figure, Peer, Workload
from bench.registry import PEERS, is_ours
from bench.run import Results
from bench.table import IN_FLIGHT, pipelined, sequential

_OURS, _OTHERS, _TEXT = "#c2410c", "#94a3b8", "#334155"
_SIZE = 1 << 10


def draw(results: Results, directory: pathlib.Path) -> dict[str, str]:
    """Write the plots as SVG into `directory`; return a description of each, by file name."""
    directory.mkdir(parents=True, exist_ok=True)
    # Equal figures give equal files: no random ids, no date. Text stays text.
    mpl.rcParams.update({"svg.hashsalt": "spear", "svg.fonttype": "none", "font.size": 10})
    throughput, latency = directory / "throughput.svg", directory / "latency.svg"
    _draw_throughput(results, throughput)
    _draw_latency(results, latency)
    return {
        throughput.name: f"Calls per second of each system, 1 KiB, {IN_FLIGHT} in flight",
        latency.name: "Latency of each system, 1 KiB, one call at a time",
    }


def _measured(results: Results, load: Workload, figure: Figure) -> list[tuple[Peer, float]]:
    """Return the systems measured at `load` with their figures, the smallest figure first."""
    found = []
    for peer in PEERS.values():
        value = results.median(Case(peer, load), figure)
        if peer.matrix and value is not None:
            found.append((peer, value))
    return sorted(found, key=lambda pair: pair[1])


def _draw_throughput(results: Results, path: pathlib.Path) -> None:
    measured = _measured(results, pipelined(_SIZE), Figure.RATE)
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(measured) + 1.2))
    colors = [_OURS if is_ours(peer) else _OTHERS for peer, _ in measured]
    rates = [rate for _, rate in measured]
    bars = axes.barh([peer.title for peer, _ in measured], rates, color=colors, height=0.7)
    axes.bar_label(bars, labels=[f"{rate:,.0f}" for rate in rates], padding=4, color=_TEXT)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("calls per second, log scale (longer is better)")
    axes.set_title(f"1 KiB echo, {IN_FLIGHT} calls in flight, two processes", loc="left")
    _plain(axes)
    _save(figure, path)


def _draw_latency(results: Results, path: pathlib.Path) -> None:
    loads = {
        "scheduler free to use all cores": sequential(_SIZE),
        "both processes on one core": sequential(_SIZE, pinned=True),
    }
    order = [peer for peer, _ in _measured(results, sequential(_SIZE), Figure.P50)][::-1]
    figure, panels = plt.subplots(
        1, len(loads), sharey=True, figsize=(10, 0.4 * len(order) + 1.4), squeeze=False
    )
    for axes, (title, load) in zip(panels[0], loads.items(), strict=True):
        for position, peer in enumerate(order):
            p50 = results.median(Case(peer, load), Figure.P50)
            p99 = results.median(Case(peer, load), Figure.P99)
            if p50 is None or p99 is None:
                continue
            color = _OURS if is_ours(peer) else _OTHERS
            axes.plot([p50, p99], [position, position], color=color, linewidth=2)
            axes.plot(p50, position, "o", color=color, markersize=7)
            axes.plot(p99, position, "|", color=color, markersize=9)
            axes.annotate(
                f"{p50:,.0f}",
                (p50, position),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=_TEXT,
            )
        axes.set_xscale("log")
        axes.set_yticks(range(len(order)), [peer.title for peer in order])
        axes.set_ylim(-0.6, len(order) - 0.2)
        axes.set_xlabel("µs, log scale: p50 (dot) to p99 (bar)")
        axes.set_title(title, loc="left")
        _plain(axes)
    _save(figure, path)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)


def _save(figure: plt.Figure, path: pathlib.Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
