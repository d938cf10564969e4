"""The accuracy of the heavy model by labels, which certificates state.

`python -m benchmarks.figures` writes `reference.toml` from the kept result of `benchmarks.truth`:
the heavy model on every frame of the clips that chose nothing.
"""

from __future__ import annotations

import statistics
from typing import Any, Final

from benchmarks.harness.code_behind import short_commit
from framegate.models.detector import policy

CONFIGURATION: Final = "heavy-gate-off"  # of `benchmarks.truth`
_HEAD: Final = """\
# Accuracy of the heavy model by labels: every frame, the clips that chose nothing.
# `python -m benchmarks.figures` writes this file from benchmarks/results/truth.json.
# Measured at {version}, commit {commit}, {date}, {cpu}.
"""


def text(result: dict[str, Any]) -> str:
    """Return the file for a result of `benchmarks.truth` with rows of the heavy model."""
    rows = [
        row
        for row in result["rows"]
        if row["configuration"] == CONFIGURATION and row["role"] == "reports"
    ]
    f1s = [row["f1"] or 0.0 for row in rows]
    conditions = result["conditions"]
    names = ", ".join(f'"{name}"' for name in policy.load("heavy").members)
    lines = [
        _HEAD.format(**{**conditions, "commit": short_commit(conditions["commit"])}),
        f"networks = [{names}]",
        f"f1 = {statistics.fmean(f1s):.3f}",
        f"lowest_f1 = {min(f1s):.3f}",
        f"clips = {len(rows)}",
        f"labels = {sum(row['labels'] for row in rows)}",
        "",
    ]
    return "\n".join(lines)
