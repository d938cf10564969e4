"""Draw the figure of benchmarks.promise from its result (needs the `bench` extra: matplotlib).

python -m benchmarks.promise.figure
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.harness.figure_style import DOCS, STYLE, ResultRow
from benchmarks.harness.report import RESULTS

# Okabe and Ito's colours, which colour-blind readers tell apart.
_OURS, _PLAIN, _ORACLE, _BOUND = "#d55e00", "#0072b2", "#009e73", "#000000"
_LEAST: Final = 1e-3  # what a logarithmic axis shows of nothing
_TICKS: Final = (1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def draw(result: ResultRow, path: Path = DOCS / "promise.png") -> Path:
    """Write the figure of a result of benchmarks.promise, and return its path."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(7.6, 2.8))
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
        ("never", _BOUND, "x", "never (0%)"),
    ):
        row = result[name]
        at = max(_LEAST, row["asked_share"]), max(_LEAST, row["error"])
        panel.plot(*at, mark, color=colour, ms=5, label=label)
    panel.axhline(result["alpha"], color=_BOUND, lw=0.8, ls="--")
    promised = f"promised: {result['alpha']:.0%}"
    panel.text(_LEAST, 0.95 * result["alpha"], promised, ha="left", va="top", fontsize=7)
    panel.set_xscale("log")
    panel.set_yscale("log")
    lowest, highest = panel.get_ylim()
    panel.set_yticks([tick for tick in _TICKS if lowest <= tick <= highest])
    panel.yaxis.set_minor_formatter(NullFormatter())
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    panel.set(xlabel="frames sent to the heavy model", ylabel="wrong frames")
    panel.set_title("Wrong frames, by frames asked about")
    panel.legend(fontsize=6.5, loc=(0.02, 0.36))


def _hour(panel: Axes, result: ResultRow) -> None:
    """Wrong frames as they occur, and the bound that the certificate states."""
    hours = [frames / result["frames"] for frames, _ in result["wrong_so_far"]]
    wrong = [n_wrong for _, n_wrong in result["wrong_so_far"]]
    panel.plot(hours, wrong, color=_OURS, label="wrong frames")
    may = result["alpha"] * result["frames"]
    panel.axhline(may, color=_BOUND, lw=0.8, ls="--")
    panel.text(0, 0.99 * may, f"promised: at most {may:.0f}", va="top", fontsize=7)
    if result["certified_bound"] is not None:
        bound = result["certified_bound"] * result["frames"]
        panel.plot([1.0], [bound], "D", color=_PLAIN, ms=5, label="bound in the certificate")
    panel.set_ylim(bottom=0)
    found = f"A certified hour: {result['n']} audits, {result['k']} wrong"
    panel.set(xlabel="share of the period", ylabel="frames", title=found)
    panel.legend(fontsize=7)


def main() -> None:
    print(draw(json.loads((RESULTS / "promise.json").read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
