"""Draw the figures of benchmarks.gate from its result (needs the `bench` extra: matplotlib).

python -m benchmarks.gate.figures
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.harness.figure_style import DOCS, STYLE, ResultRow
from benchmarks.harness.report import RESULTS

# Okabe and Ito's colours, which colour-blind readers tell apart.
_OURS, _CARRIED, _MOVED, _RULE, _CEILING = "#d55e00", "#7f7f7f", "#0072b2", "#009e73", "#000000"
_GROUPS: Final = {"quiet": "still camera, quiet", "busy": "still camera, busy", "moving": "moving"}
_MARKS: Final = {"previous_frame": ("s", "DL Streamer's"), "running_average": ("^", "Frigate's")}
_TICKS: Final = (0.01, 0.03, 0.1, 0.3, 1.0)


def draw(result: ResultRow, folder: Path = DOCS) -> list[Path]:
    """Write the figures of what benchmarks.gate tells, some clip with curves; their paths."""
    with plt.rc_context(STYLE):
        return [
            _accuracy(result["clips"], folder / "gate-accuracy.png"),
            _cost(result["clips"], folder / "gate-cost.png"),
            _over_time(result["clips"], folder / "gate-over-time.png"),
        ]


def _accuracy(rows: Sequence[ResultRow], path: Path) -> Path:
    """F1 against the share of pixels, a panel a clip."""
    shown = [row for row in rows if "curves" in row]
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure, panels = plt.subplots(
        lines, columns, figsize=(1.9 * columns, 1.75 * lines), squeeze=False
    )
    for panel, row in zip(panels.flat, shown, strict=False):
        _panel(panel, row)
    for panel in panels.flat[len(shown) :]:
        panel.remove()
    for panel in panels[:, 0]:
        panel.set_ylabel("F1 (scales differ)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(handles, labels, loc="lower center", ncols=4, bbox_to_anchor=(0.5, 0.99))
    return _saved(figure, path)


def _panel(panel: Axes, row: ResultRow) -> None:
    points = sorted([*row["curves"]["gate"], [row["share"], row["f1"]]])
    panel.plot(*zip(*points, strict=True), "-o", color=_OURS, ms=2.5, lw=1.2, label="gate")
    panel.plot(row["share"], row["f1"], "o", color=_OURS, ms=6, label="gate, as shipped")
    for kind, colour, label in (
        ("carried", _CARRIED, "every n-th frame, boxes kept"),
        ("moved", _MOVED, "every n-th frame, boxes moved by flow"),
    ):
        points = sorted(row["curves"][kind])
        panel.plot(*zip(*points, strict=True), "-", color=colour, lw=1.0, label=label)
    for name, (mark, label) in _MARKS.items():
        point = row["motion_rules"][name]
        panel.plot(
            point["share"], point["f1"], mark, color=_RULE, ms=4, mfc="none", label=f"{label} rule"
        )
    panel.axhline(row["ceiling"], color=_CEILING, ls=":", lw=0.8, label="with itself, under noise")
    panel.set_xscale("log")
    panel.set_xlim(0.008, 1.4)
    panel.set_ylim(top=1.01)
    panel.set_xticks(_TICKS)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.tick_params(labelsize=6)
    panel.set_xlabel("share of pixels", fontsize=7)
    panel.set_title(f"{row['clip']}\n{_GROUPS[row['group']]}", fontsize=7)


def _cost(rows: Sequence[ResultRow], path: Path) -> Path:
    """What is left of the network's pixels and of the whole pipeline's CPU, a line a clip."""
    shown = sorted(rows, key=lambda row: (list(_GROUPS).index(row["group"]), row["cpu_ratio"]))
    figure, panel = plt.subplots(figsize=(5.6, 0.24 * len(shown) + 0.9))
    for height, row in enumerate(reversed(shown)):
        pair = row["share"], row["cpu_ratio"]
        panel.plot(pair, (height, height), "-", color="#bbbbbb", lw=1, zorder=1)
        panel.plot(pair[0], height, "o", color=_OURS, mfc="white", ms=5, zorder=2)
        panel.plot(pair[1], height, "o", color=_OURS, ms=5, zorder=2)
    panel.plot([], [], "o", color=_OURS, mfc="white", ms=5, label="pixels given to the network")
    panel.plot([], [], "o", color=_OURS, ms=5, label="CPU of the whole pipeline")
    panel.axvline(1.0, color=_CEILING, lw=0.8)
    panel.set_yticks(range(len(shown)), [f"{r['clip']} ({r['group']})" for r in reversed(shown)])
    panel.set_xlim(0, 1.1)
    panel.set_xlabel("share of the value with the gate off")
    panel.grid(visible=False, axis="y")
    panel.legend(loc="lower center", ncols=2, bbox_to_anchor=(0.4, 1.0))
    return _saved(figure, path)


def _over_time(rows: Sequence[ResultRow], path: Path) -> Path:
    """What the network was given, second by second, and how many objects there were."""
    shown = [row for row in rows if row["group"] == "quiet" and "curves" in row][:3]
    figure, panels = plt.subplots(
        len(shown), 1, figsize=(5.6, 1.3 * len(shown) + 0.4), squeeze=False
    )
    for panel, row in zip(panels[:, 0], shown, strict=True):
        seconds = range(len(row["by_second"]["share"]))
        panel.fill_between(
            seconds, row["by_second"]["share"], color=_OURS, alpha=0.6, lw=0, step="mid"
        )
        panel.set_ylim(0, 1.05)
        panel.set_xlim(0, len(seconds) - 1)
        panel.set_ylabel("share of pixels", color=_OURS)
        objects = panel.twinx()
        objects.plot(seconds, row["by_second"]["boxes"], color=_MOVED, lw=1)
        objects.set_ylim(0, max(3, *row["by_second"]["boxes"]) * 1.1)
        objects.set_ylabel("objects", color=_MOVED)
        objects.grid(visible=False)
        panel.set_title(row["clip"], loc="left", fontsize=7)
    panels[-1, 0].set_xlabel("seconds of video")
    figure.tight_layout()
    return _saved(figure, path)


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path)
    plt.close(figure)
    return path


def main() -> None:
    for path in draw(json.loads((RESULTS / "gate.json").read_text(encoding="utf-8"))):
        print(path)


if __name__ == "__main__":
    main()
