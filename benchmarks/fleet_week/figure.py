"""docs/fleet-week.svg: how soon interrupted sources have results again, by cause."""

from __future__ import annotations

import math
from typing import Any, Final

from matplotlib import pyplot as plt

from benchmarks.harness.figure_style import DOCS, STYLE

_LABELS: Final = {
    "planned move": "planned move",
    "process killed": "process killed",
    "link cut": "link of a host cut",
    "host lost": "power of a host lost",
}
_COLOURS: Final = ("#4c78a8", "#f2a541", "#b35c44", "#5b8c5a")
_MOST_S: Final = 40.0


def draw(result: dict[str, Any]) -> None:
    """Draw the share of the interrupted sources that are back, over the seconds since."""
    shown = [cause for cause in _LABELS if cause in result["causes"]]
    with plt.rc_context({**STYLE, "svg.hashsalt": "framegate"}):
        figure, axes = plt.subplots(figsize=(5.2, 2.9))
        for cause, colour in zip(shown, _COLOURS, strict=False):
            row = result["causes"][cause]
            axes.plot(
                row["percentiles_s"],
                range(1, 101),
                color=colour,
                linewidth=1.6,
                label=f"{_LABELS[cause]}: {row['interrupted']:,}",
            )
        axes.set_xlim(0.0, _MOST_S)
        axes.set_ylim(0.0, 101.0)
        axes.set_xlabel("seconds since the last result")
        axes.set_ylabel("sources that have results again, %")
        latest_s = max(result["causes"][cause]["p99_s"] for cause in shown)
        axes.set_title(
            f"99 % of the interrupted sources have results again within {math.ceil(latest_s)} s",
            loc="left",
        )
        axes.legend(loc="lower right")
        figure.savefig(DOCS / "fleet-week.svg", metadata={"Date": None})
        plt.close(figure)
