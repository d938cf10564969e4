"""Summarise the figures of benchmarks.gate: a line a clip, means, and the targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.harness.gate_clips import SCENES
from benchmarks.harness.report import Bar

Row = dict[str, Any]
_HEADLINE_SIZE = [768, 432]


def line(row: Row) -> str:
    """One clip, as printed while the benchmark runs."""
    boxes = row["boxes"]
    parts = [f"{row['clip']} ({row['group']}, {row['frames']} frames): share {row['share']:.3f}"]
    if row["f1"] is None:
        parts.append(f"boxes {boxes['gated']}, dense {boxes['dense']}, matched {boxes['matched']}")
    else:
        low, high = row["lead"][1:]
        parts += [
            f"F1 {row['f1']:.3f}, ceiling {row['ceiling']:.3f}, best rival {row['rival_f1']:.3f}",
            f"lead at equal time {row['lead'][0]:+.3f} ({low:+.3f} to {high:+.3f})",
        ]
    parts.append(f"events missed {row['events_missed']} of {row['events']}")
    parts.append(f"share in warm-up {row['share_warm_up']:.3f}")
    parts.append(f"{row['frame_ms']:.2f} ms a frame, gate {row['gate_ms'] or 0:.2f}")
    if truth := row.get("truth"):
        parts.append(f"HOTA {truth['hota']:.3f}, dense {truth['dense']['hota']:.3f}")
    return "; ".join(parts)


def summary(rows: Sequence[Row], large_ms: float) -> Row:
    """The whole result: means over the four quiet scenes, the gate's time, and every clip."""
    scenes = [row for row in rows if row["clip"] in SCENES]
    headline = [row["gate_ms"] for row in rows if row["size"] == _HEADLINE_SIZE and row["gate_ms"]]
    losses = [row["truth"]["hota_loss"] for row in rows if "truth" in row]
    return {
        "quiet_share": _mean([row["share"] for row in scenes]),
        "quiet_cpu_ratio": _mean([row["cpu_ratio"] for row in scenes]),
        "gate_ms_768x432": _mean(headline),
        "gate_ms_1080p": round(large_ms, 3),
        "hota_loss": max(losses, default=None),
        "clips": list(rows),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 4) if values else None


def bars(result: Row) -> Iterator[Bar]:
    """Each bar with what was measured, and whether it is met."""
    yield Bar("quiet: share in the mean", result["quiet_share"], "<=", 0.15)
    yield Bar("quiet: CPU, times gate off, in the mean", result["quiet_cpu_ratio"], "<=", 0.30)
    yield Bar("gate at 768x432, ms", result["gate_ms_768x432"], "<=", 0.3)
    yield Bar("gate at 1080p, ms", result["gate_ms_1080p"], "<=", 0.6)
    yield Bar("HOTA lost", result["hota_loss"], "<=", 0.01)
    for row in result["clips"]:
        yield from _quiet(row) if row["group"] == "quiet" else _other(row)


def _quiet(row: Row) -> Iterator[Bar]:
    if row["clip"] == "idle-room":
        yield Bar("idle-room: share", row["share"], "<=", 0.015)
        yield Bar("idle-room: CPU, times gate off", row["cpu_ratio"], "<=", 0.15)
    if row["f1"] is not None:
        floor = round(row["ceiling"] - 0.03, 4)
        yield Bar(f"{row['clip']}: F1 (ceiling - .03)", row["f1"], ">=", floor)
    recall = 1.0 if row["events_missed"] <= 1 else row["event_recall"]
    yield Bar(f"{row['clip']}: event recall (1 where one or none is missed)", recall, ">=", 0.98)


def _other(row: Row) -> Iterator[Bar]:
    if row["f1"] is not None:
        high = row["lead"][2]
        yield Bar(f"{row['clip']}: lead at equal time, upper end", high, ">=", 0.0)
    yield Bar(f"{row['clip']}: CPU, times gate off", row["cpu_ratio"], "<=", 1.05)
