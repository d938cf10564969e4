"""Draws the figure of benchmarks.promise from its result (needs the `bench` extra: matplotlib).

python -m benchmarks.promise.figure
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.harness.figure_style import DOCS, STYLE, ResultRow
from benchmarks.harness.report import RESULTS

# Okabe and Ito's colours, which colour-blind readers tell apart.
_OURS, _PLAIN, _ORACLE, _BOUND = "#d55e00", "#0072b2", "#009e73", "#000000"
_LEAST: Final = 1e-3  # what a logarithmic axis shows of nothing


def draw(result: ResultRow, path: Path = DOCS / "promise.png") -> Path:
    """Write the figure; its path. `result` as benchmarks.promise tells it."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(7.2, 2.4))
        _costs(panels[0], result)
        _hour(panels[1], result)
        figure.tight_layout(w_pad=1.5)
        figure.savefig(path)
        plt.close(figure)
    return path


def _costs(panel: Axes, result: ResultRow) -> None:
    """How much must be asked for how few wrong frames."""
    curve = result["plain_threshold"]["curve"]
    asked, errors = ([max(_LEAST, row[key]) for row in curve] for key in ("asked_share", "error"))
    panel.plot(asked, errors, "-", color=_PLAIN, lw=1.2, label="plain threshold")
    for name, colour, mark, label in (
        ("oracle", _ORACLE, "^", "oracle, each answer for its frame"),
        ("lasting_oracle", _ORACLE, "v", "oracle, answers last"),
        ("promised", _OURS, "o", "Framegate"),
        ("never", _BOUND, "x", "never"),
    ):
        row = result[name]
        at = max(_LEAST, row["asked_share"]), max(_LEAST, row["error"])
        panel.plot(*at, mark, color=colour, ms=5, label=label)
    panel.axhline(result["alpha"], color=_BOUND, lw=0.8, ls="--")
    promised = f"promised: {result['alpha']:.0%}"
    panel.text(1, result["alpha"], promised, ha="right", va="bottom", fontsize=7)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set(xlabel="frames asked about", ylabel="wrong frames", title="what it takes")
    panel.legend(fontsize=6, loc=(0.03, 0.33))


def _hour(panel: Axes, result: ResultRow) -> None:
    """Wrong frames as they come, and what the certificate says of them."""
    hours = [frames / result["frames"] for frames, _ in result["wrong_so_far"]]
    panel.plot(hours, [wrong for _, wrong in result["wrong_so_far"]], color=_OURS, label="wrong")
    may = result["alpha"] * result["frames"]
    panel.axhline(may, color=_BOUND, lw=0.8, ls="--")
    panel.text(0, may, f"{may:.0f} may be", va="bottom", fontsize=7)
    if result["certified_bound"] is not None:
        bound = result["certified_bound"] * result["frames"]
        panel.plot([1.0], [bound], "D", color=_PLAIN, ms=5, label="bound by audits")
    panel.set_ylim(bottom=0)
    found = f"{result['n']} audits, {result['k']} caught"
    panel.set(xlabel="share of the period", ylabel="frames", title=found)
    panel.legend(fontsize=7)


def main() -> None:
    print(draw(json.loads((RESULTS / "promise.json").read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
