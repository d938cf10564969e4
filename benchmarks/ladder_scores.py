"""What rows of `benchmarks.ladder` come to: means over groups of clips, and the bars."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.gate_clips import GateClip
from benchmarks.report import Bar

Row = Mapping[str, Any]
# CC BY 4.0, with what is derived from them: what ships may be chosen on these.
TUNING: Final = (
    "bottle-detection",
    "car-detection",
    "one-by-one-person-detection",
    "car-detection-vfr",
    "one-by-one-hevc",
    "idle-room",
)
GROUPS: Final[dict[str, Callable[[Row], bool]]] = {
    "all": lambda _: True,
    "tuning": lambda row: row["group"] == "tuning",
    "judging": lambda row: row["group"] == "judging",
    "scenes": lambda row: not row["derived"],
}
MOST_COMPUTE: Final = 0.60
LEAST_F1: Final = 0.99


def group_of(clip: GateClip) -> str:
    """Whether parameters were chosen on a clip, or it judges them."""
    return "tuning" if clip.name in TUNING else "judging"


def summary(rows: Sequence[Row], kind: str = "") -> dict[str, Any]:
    """Means over clips by those of the largest rung; kind: '' for calm boxes, 'raw_'."""
    sides = list(rows[0]["ms"])
    means = {side: _mean(rows, f"single_{kind}f1", side) for side in sides}
    costs = {
        side: statistics.fmean(row["ms"][side] / row["ms"][sides[-1]] for row in rows)
        for side in sides
    }
    full = means[sides[-1]]
    compute = statistics.fmean(row["compute"] for row in rows)
    within = [side for side in sides if costs[side] <= compute]
    best = max(within, key=means.__getitem__, default=None)
    between = np.interp(compute, list(costs.values()), list(means.values()))
    return {
        "compute_ratio": round(compute, 4),
        "look_ratio": round(statistics.fmean(row["look_compute"] for row in rows), 4),
        "f1_ratio": _ratio(statistics.fmean(row[f"{kind}f1"] for row in rows), full),
        "best_single_f1_ratio": None if best is None else _ratio(means[best], full),
        "best_single": best,
        "interpolated_f1_ratio": _ratio(float(between), full),
        "largest_f1": round(full, 4),
        "single_f1_ratio": {side: _ratio(value, full) for side, value in means.items()},
        "single_compute_ratio": {side: round(value, 4) for side, value in costs.items()},
    }


def table(rows: Sequence[Row], rivals: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    """The result: the figures of all clips, then each group's, calm, raw, rivals and oracle."""
    groups = {}
    for name, belongs in GROUPS.items():
        part = [row for row in rows if belongs(row)]
        if not part:
            continue
        raw = summary(part, "raw_")
        largest = raw["largest_f1"]
        told = statistics.fmean(row["oracle"]["raw_f1"] for row in part)
        spent = statistics.fmean(row["oracle"]["compute"] for row in part)
        oracle = {"raw_f1_ratio": _ratio(told, largest), "compute_ratio": round(spent, 4)}
        names = [row["clip"] for row in part]
        groups[name] = {**summary(part), **rivals[name], "raw": raw, "oracle": oracle}
        groups[name] |= {"clips": names}
    keys = ("compute_ratio", "f1_ratio", "best_single_f1_ratio")
    return {**{key: groups["all"][key] for key in keys}, "groups": groups}


def told_groups(result: Mapping[str, Any]) -> list[str]:
    """A line for each group."""
    lines = []
    for name, told in result["groups"].items():
        best = told["best_single_f1_ratio"]
        single = "none costs as little" if best is None else f"{best:.3f} ({told['best_single']})"
        lines.append(
            f"{name} ({len(told['clips'])} clips): compute {told['compute_ratio']:.3f}"
            f" (whole looks {told['look_ratio']:.3f}),"
            f" F1 {told['f1_ratio']:.3f} of the largest rung's; best single rung {single},"
            f" interpolated {told['interpolated_f1_ratio']:.3f}, mixed"
            f" {told['mixed_f1_ratio']:.3f}, largest with boxes carried"
            f" {told['carried_f1_ratio']:.3f}; raw F1 {told['raw']['f1_ratio']:.3f},"
            f" oracle {told['oracle']['raw_f1_ratio']:.3f}"
            f" at {told['oracle']['compute_ratio']:.3f}"
        )
    return lines


def bars(result: Mapping[str, Any]) -> list[Bar]:
    """What was asked for, over all clips and over those that chose none of its numbers."""
    told = []
    for name in ("all", "judging"):
        if (group := result["groups"].get(name)) is not None:
            best = group["best_single_f1_ratio"]
            told += [
                Bar(f"{name}: compute", group["compute_ratio"], "<=", MOST_COMPUTE),
                Bar(f"{name}: F1", group["f1_ratio"], ">=", LEAST_F1),
                Bar(f"{name}: F1, best single rung", group["f1_ratio"], ">=", best or 0.0),
            ]
    return told


def _mean(rows: Sequence[Row], key: str, side: str) -> float:
    return statistics.fmean(row[key][side] for row in rows)


def _ratio(value: float, full: float) -> float | None:
    """None where the largest rung shows nothing right: then no ratio says anything."""
    return round(value / full, 4) if full else None
