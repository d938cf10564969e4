"""Draw the figure of benchmarks.curves from its result (needs the `bench` extra: matplotlib).

python -m benchmarks.curves.figure
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter

from benchmarks.harness.figure_style import DOCS, STYLE, ResultRow
from benchmarks.harness.report import RESULTS

# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")
_LOWEST = 0.9  # F1 at which the axis begins, so that differences of a thousandth look small


def draw(result: ResultRow, path: Path = DOCS / "learning-curves.png") -> Path:
    """Write the figure of a result of benchmarks.curves, and return its path.

    A curve for which no clip has two points gets no panel, except that of the footage.
    """
    curves = [_curves(clip) for clip in result["clips"]]
    there = [n for n in range(3) if n == 0 or any(len(one[n][0]) > 1 for one in curves)]
    with plt.rc_context(STYLE):
        size = 2.9 * len(there) + 0.5, 2.4
        figure, grid = plt.subplots(1, len(there), figsize=size, sharey=True, squeeze=False)
        panels = dict(zip(there, grid[0], strict=True))
        for clip, own, colour in zip(result["clips"], curves, _COLOURS, strict=False):
            tuned = [(one["frames"], one["f1"]) for one in clip["tuned"]]
            for n, panel in panels.items():
                panel.plot(*own[n], "o-", color=colour, ms=3, lw=1.2, label=clip["clip"])
                if n:
                    panel.axhline(tuned[-1][1], color=colour, lw=0.8, ls=":")
            panels[0].plot(*zip(*tuned, strict=True), "x:", color=colour, ms=4, lw=1)
        _named(panels)
        figure.tight_layout(w_pad=1.2)
        figure.savefig(path)
        plt.close(figure)
    return path


def _curves(clip: ResultRow) -> list[tuple[list[float], list[float]]]:
    """Footage, minutes and size: x and F1 of the points in which that alone is changed."""
    points = clip["points"] or []
    if not points:
        return [([], [])] * 3
    usual = points[0]
    told = []
    kinds: tuple[tuple[str, Callable[[ResultRow], float]], ...] = (
        ("frames", lambda one: one["frames"]),
        ("steps", lambda one: one["train_cpu_s"] / 60),
        ("side", lambda one: one["side"]),
    )
    for kind, x in kinds:
        same = {"frames", "steps", "side"} - {kind}
        own = [one for one in points if all(one[key] == usual[key] for key in same)]
        own.sort(key=x)
        told.append(([x(one) for one in own], [one["f1"] for one in own]))
    return told


def _named(panels: dict[int, Axes]) -> None:
    words: tuple[tuple[str, str, list[float]], ...] = (
        ("pictures to learn from", "by footage", [20, 60, 200, 400]),
        ("CPU minutes of training", "by time", [0.5, 1, 2, 4]),
        ("longer side of the input", "by input size", [224, 320, 416]),
    )
    for n, panel in panels.items():
        x, title, ticks = words[n]
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xticks(ticks)
        panel.set(xlabel=x, title=title)
    panels[0].set_ylabel("F1 on later footage")
    lowest, _ = panels[0].get_ylim()
    panels[0].set_ylim(min(lowest, _LOWEST), 1.0)
    panels[0].plot([], [], "kx:", ms=4, lw=1, label="tuned, without training")
    panels[0].legend(fontsize=7)


def main() -> None:
    print(draw(json.loads((RESULTS / "curves.json").read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
