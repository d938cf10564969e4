"""Draws the figure of benchmarks.window from its result (needs the `bench` extra: matplotlib).

python -m benchmarks.window.figure
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter, StrMethodFormatter

from benchmarks.harness.report import RESULTS

Row = dict[str, Any]
DOCS: Final = Path(__file__).resolve().parents[2] / "docs"

# Okabe and Ito's colours, which colour-blind readers tell apart.
_KEPT, _NAIVE, _IDEAL = "#d55e00", "#7f7f7f", "#000000"
_PARTS: Final = {
    "backbone": ("#7f7f7f", "detector"),
    "pooling": ("#0072b2", "pooling"),
    "head": ("#d55e00", "head"),
    "ring": ("#009e73", "ring"),
}
STYLE: Final[Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.linewidth": 0.3,
    "grid.color": "#cccccc",
    "legend.frameon": False,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
}


def draw(result: Row, path: Path = DOCS / "window.png") -> Path:
    """Write the figure; its path. `result` as benchmarks.window tells it."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 4, figsize=(8.6, 1.9))
        _speedup(panels[0], result)
        _latency(panels[1], result)
        _parts(panels[2], result)
        _soak(panels[3], result)
        figure.tight_layout(w_pad=1.2)
        figure.savefig(path)
        plt.close(figure)
    return path


def _speedup(panel: Axes, result: Row) -> None:
    strides = [row["stride"] for row in result["strides"]]
    ideal = [result["window"] / stride for stride in strides]
    panel.plot(strides, ideal, "--", color=_IDEAL, lw=0.8, label="32 / stride")
    speedups = [row["speedup"] for row in result["strides"]]
    panel.plot(strides, speedups, "-o", color=_KEPT, ms=3, lw=1.2, label="measured")
    _logarithmic(panel, strides)
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.set(xlabel="stride (frames)", ylabel="speed-up", title="a step, kept against naive")
    panel.legend(fontsize=7)


def _latency(panel: Axes, result: Row) -> None:
    strides = [row["stride"] for row in result["strides"]]
    for key, colour, label in (("naive_ms", _NAIVE, "naive"), ("kept_ms", _KEPT, "kept")):
        values = [row[key] for row in result["strides"]]
        panel.plot(strides, values, "-o", color=colour, ms=3, lw=1.2, label=label)
    _logarithmic(panel, strides)
    panel.set_ylim(bottom=0)
    panel.set(xlabel="stride (frames)", ylabel="ms a step", title="latency of a step")
    panel.legend(fontsize=7)


def _parts(panel: Axes, result: Row) -> None:
    left = 0.0
    for name, (colour, label) in _PARTS.items():
        width = result["parts_ms"][name]
        panel.barh(0, width, left=left, color=colour, height=0.5, label=f"{label} {width:.1f}")
        left += width
    panel.set(xlabel="ms a frame", title="what a frame costs", ylim=(-0.4, 1.4))
    panel.set_yticks([])
    panel.legend(fontsize=7, ncols=2, loc="upper left", columnspacing=0.6, handlelength=0.8)


def _soak(panel: Axes, result: Row) -> None:
    points = result["soak"]["points"]
    steps = [point["steps"] / 1000 for point in points]
    panel.plot(steps, [point["rss_mib"] for point in points], color=_KEPT, lw=1.2)
    panel.set_ylim(0, 1.4 * max(point["rss_mib"] for point in points))
    worst = max(point["max_abs_diff"] for point in points)
    panel.text(0.04, 0.9, f"largest difference {worst:.1g}", transform=panel.transAxes, fontsize=7)
    panel.set(xlabel="thousand steps", ylabel="memory (MiB)", title="kept going")


def _logarithmic(panel: Axes, strides: list[int]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks(strides)
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.xaxis.set_minor_formatter(NullFormatter())


def main() -> None:
    print(draw(json.loads((RESULTS / "window.json").read_text())))


if __name__ == "__main__":
    main()
