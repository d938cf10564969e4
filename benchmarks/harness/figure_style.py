"""The look of all figures that benchmarks draw, and the folder that they are drawn into."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")

ResultRow = dict[str, Any]
DOCS: Final = Path(__file__).resolve().parents[2] / "docs"

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
