"""Draw the figure of benchmarks.cascade from its result (needs the `bench` extra: matplotlib).

python -m benchmarks.cascade.figure
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.cascade.scores import BOUNDLESS, ESCALATED_MS_BAR, KEPT, MEAN_MS_BAR
from benchmarks.harness.figure_style import DOCS, STYLE, ResultRow
from benchmarks.harness.report import RESULTS

# Okabe and Ito's colours, which colour-blind readers tell apart.
_OURS, _FREE, _PLAIN = "#d55e00", "#009e73", "#0072b2"
_LIGHT, _BOUND = "#7f7f7f", "#000000"
_NAMES: Final = 24  # letters of a clip's name


def draw(result: ResultRow, path: Path = DOCS / "cascade.png") -> Path:
    """Write the figure of a result of benchmarks.cascade, and return its path."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplot_mosaic("AA;BC", figsize=(7.6, 6.0))
        _curves(panels["A"], result)
        _clips(panels["B"], result)
        _responses(panels["C"], result)
        figure.tight_layout(w_pad=1.0, h_pad=2.0)
        figure.savefig(path)
        plt.close(figure)
    return path


def _curves(panel: Axes, result: ResultRow) -> None:
    """Agreement against cost, in the mean over quiet clips; the budget's also over all."""
    for name, style in (("quiet", "-"), ("all", "--")):
        curve = [row for row in result["curve"][name] if row["f1"] is not None]
        budget = [row for row in curve if row["doubt"] is None or row["per_s"] < BOUNDLESS]
        _line(panel, budget, "f1", style, "o", _OURS, f"{name} clips, escalation with a budget")
        if name == "quiet":
            free = [row for row in curve if row not in budget]
            _line(panel, free, "f1", style, "s", _FREE, "quiet clips, escalation without a budget")
        by_cost = sorted(curve, key=lambda row: float(row["cpu_ratio_heavy"]))
        _line(panel, by_cost, "f1_plain", style, "|", _PLAIN, f"{name} clips, plain threshold")
    panel.axhline(KEPT, color=_BOUND, lw=0.6, ls=":")
    panel.text(0.01, KEPT, f"wanted: {KEPT}", ha="left", va="bottom", fontsize=7)
    panel.set(xlabel="CPU time, as a share of that of the heavy model on every frame")
    panel.set(ylabel="F1 with the heavy model", title="Agreement, by CPU time")
    panel.set_xlim(0, 1.12)
    panel.legend(fontsize=7, loc="lower right")


def _line(
    panel: Axes, rows: list[ResultRow], key: str, style: str, mark: str, colour: str, label: str
) -> None:
    costs, values = ([row[name] for row in rows] for name in ("cpu_ratio_heavy", key))
    panel.plot(costs, values, style, marker=mark, ms=3, lw=1, color=colour, label=label)


def _clips(panel: Axes, result: ResultRow) -> None:
    """Draw each clip, from the light model alone to escalation."""
    rows = [row for row in reversed(result["clips"]) if row["f1"] is not None]
    for at, row in enumerate(rows):
        panel.plot([row["f1_light"], row["f1"]], [at, at], color=_LIGHT, lw=1, zorder=1)
    for key, colour, mark, label in (
        ("f1_light", _LIGHT, "o", "light alone"),
        ("f1_plain", _PLAIN, "|", "plain threshold"),
        ("f1", _OURS, "o", "escalation"),
    ):
        values = [row[key] for row in rows]
        panel.plot(values, range(len(rows)), mark, color=colour, ms=4, label=label, zorder=2)
    _named(panel, rows)
    panel.set(xlabel="F1 with the heavy model", title="Agreement, clip by clip, as shipped")
    panel.set_xlim(right=1.01)
    _explained(panel)


def _responses(panel: Axes, result: ResultRow) -> None:
    """Draw the latency of each clip at its rate."""
    rows = [row for row in reversed(result["clips"]) if row["mean_ms"] is not None]
    for key, colour, mark, label in (
        ("mean_ms", _OURS, "o", "mean"),
        ("escalated_mean_ms", _PLAIN, "^", "mean of asked frames"),
        ("p99_ms", _BOUND, "|", "p99"),
    ):
        found = [(row[key], at) for at, row in enumerate(rows) if row[key] is not None]
        if found:
            panel.plot(*zip(*found, strict=True), mark, color=colour, ms=4, label=label)
    for bar in (MEAN_MS_BAR, ESCALATED_MS_BAR):
        panel.axvline(bar, color=_BOUND, lw=0.6, ls=":")
    _named(panel, rows)
    panel.set(xlabel="ms from when a frame was due", title="Latency at the rate of the clip")
    panel.set_xlim(left=0)
    if rows:
        _explained(panel)


def _explained(panel: Axes) -> None:
    """Put the legend below the panel, where it hides nothing."""
    below = 0.5, -0.2
    panel.legend(fontsize=6, frameon=False, loc="upper center", bbox_to_anchor=below, ncols=3)


def _named(panel: Axes, rows: list[ResultRow]) -> None:
    panel.set_yticks(range(len(rows)), [row["clip"][:_NAMES] for row in rows], fontsize=6)


def main() -> None:
    print(draw(json.loads((RESULTS / "cascade.json").read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
