"""Compare escalation with the heavy pass, with labels, and with a plain threshold on scores.

Pure functions of lists with one entry a frame.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.cascade.replay import Flags, Replayed, ReplaySetting, Sight, boxes_of
from benchmarks.harness import agreement
from benchmarks.harness.agreement import Tracked
from benchmarks.harness.labelled_people import PERSON
from benchmarks.harness.report import Bar
from framegate.models import matching
from framegate.models.boxes import Boxes
from framegate.stages.escalate.corrections import Corrections, learned, served

Array = npt.NDArray[Any]
Row = dict[str, Any]
KEPT: Final = 0.99
BOUNDLESS: Final = 1000.0  # asks a second: no budget
FEW_BOXES: Final = 100  # of the heavy pass: with fewer an F1 says little
GAP_BAR, CPU_BAR, MEAN_MS_BAR, ESCALATED_MS_BAR = 0.6, 0.25, 50.0, 250.0


def least_sure(light: Sequence[Boxes], threshold: float, most: int) -> Flags:
    """bool (F,): the `most` frames that show an object whose score is closest to the threshold.

    That is a plain confidence threshold, tuned on the clip itself to ask so often. A frame that
    shows nothing is never asked about.
    """
    margins = np.array([_margin(boxes, threshold) for boxes in light])
    chosen = np.argsort(margins, kind="stable")[:most]
    asked = np.zeros(len(light), np.bool_)
    asked[chosen] = np.isfinite(margins[chosen])
    return asked


def _margin(boxes: Boxes, threshold: float) -> float:
    return float(np.abs(boxes.scores - threshold).min()) if len(boxes) else math.inf


def mended(light: Array, heavy: Array, asked: Flags) -> Array:
    """int64 (F, 3), matching.matched where an answer mends its own frame and no other."""
    return np.where(asked[:, None], heavy, light)


def lasting(sights: Sequence[Sight], heavy: Sequence[Boxes], asked: Flags) -> list[Boxes]:
    """What is shown where these frames are asked about, and answers last as escalate has them."""
    known = Corrections()
    shown = []
    for (found, now_s), boxes, asks in zip(sights, heavy, asked.tolist(), strict=True):
        if asks:
            known, objects = learned(known, found, boxes, now_s)
        else:
            objects, known = served(known, found, now_s)
        shown.append(boxes_of(objects))
    return shown


def gap_closed(light: float | None, cascade: float | None) -> float | None:
    """How much of what the light path lacks the cascade makes up; None where nothing is lacking."""
    if light is None or cascade is None or light >= 1.0:
        return None
    return (cascade - light) / (1 - light)


def ap_of_people(shown: Sequence[Boxes], truth: Sequence[Tracked], first: int) -> float:
    """Average precision at IoU .5 in labelled frames; first: of them, counted from 1."""
    people = [boxes.take(boxes.class_ids == PERSON) for boxes in shown[first - 1 :]]
    labels = [frame.boxes for frame in truth[: len(people)]]
    return agreement.average_precision(agreement.rank(people[: len(labels)], labels))


class Counts:
    """A clip's matching.matched of every side with the heavy pass. threshold: of shown scores."""

    def __init__(self, run: Replayed, threshold: float) -> None:
        self.run, self._threshold = run, threshold
        self.light, self.heavy = self._of(run.light), self._of(run.heavy)
        self.arms = {setting: self._of(arm.shown) for setting, arm in run.arms.items()}
        self.is_judged = int(self.heavy[:, 2].sum()) >= FEW_BOXES

    def _of(self, shown: Sequence[Boxes]) -> Array:
        return matching.matched(shown, self.run.heavy)

    def asked_plainly(self, setting: ReplaySetting) -> Flags:
        """Frames that the plain threshold asks about, as many as this setting did."""
        return least_sure(self.run.light, self._threshold, sum(self.run.arms[setting].asked))

    def plain(self, setting: ReplaySetting) -> Array:
        """The plain threshold."""
        return mended(self.light, self.heavy, self.asked_plainly(setting))

    def plain_lasting(self, setting: ReplaySetting) -> Array:
        """The same with answers that last."""
        run = self.run
        return self._of(lasting(run.sights, run.heavy, self.asked_plainly(setting)))

    def f1(self, counts: Array) -> float | None:
        """Of one side; None where the heavy pass sees too little."""
        return round(matching.f1(counts), 4) if self.is_judged else None

    def lead(self, ours: Array, theirs: Array) -> list[float] | None:
        """F1 of one side less that of another, with its 95 % interval."""
        if not self.is_judged:
            return None
        pair = (partial(matching.f1, ours), partial(matching.f1, theirs), len(ours))
        found = agreement.paired_bootstrap([pair], n_resamples=400)
        return [round(value, 4) for value in (found.mean, found.low, found.high)]


def scores(run: Replayed, shipped: ReplaySetting, threshold: float) -> Row:
    """A clip: light, cascade and plain threshold, and all settings."""
    counts = Counts(run, threshold)
    cascade = counts.arms[shipped]
    return {
        "f1_light": counts.f1(counts.light),
        **point(counts, shipped),
        "f1_plain_lasting": counts.f1(counts.plain_lasting(shipped)),
        "plain_share": round(float(counts.asked_plainly(shipped).mean()), 4),
        "gain": counts.lead(cascade, counts.light),
        "lead": counts.lead(cascade, counts.plain(shipped)),
        "boxes": {"heavy": int(counts.heavy[:, 2].sum()), "light": int(counts.light[:, 1].sum())},
        "cpu_ms": {"light": round(run.light_ms, 2), "heavy": round(run.heavy_ms, 1)},
        "curve": [point(counts, setting) for setting in run.arms],
    }


def point(counts: Counts, setting: ReplaySetting) -> Row:
    """A setting on a clip: agreement and cost."""
    run, f1 = counts.run, counts.f1(counts.arms[setting])
    return {
        **setting._asdict(),
        "f1": f1,
        "gap_closed": _rounded(gap_closed(counts.f1(counts.light), f1)),
        "escalated_share": round(run.share(setting), 4),
        "degraded_share": round(run.arms[setting].degraded / len(run.light), 4),
        "cpu_ratio_heavy": round(run.cost_ms(setting) / run.heavy_ms, 4),
        "cpu_ratio_light": round(run.cost_ms(setting) / run.light_ms, 3),
        "ms": round(run.cost_ms(setting), 2),
        "f1_plain": counts.f1(counts.plain(setting)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def summary(rows: Sequence[Row], scenes: Sequence[str]) -> Row:
    """The whole result: means over the quiet scenes, the curve, its 99 % points, and every clip."""
    quiet = [row for row in rows if row["clip"] in scenes]
    curves = {"quiet": mean_curve(quiet), "all": mean_curve(rows)}
    f1_light, f1 = _mean(quiet, "f1_light"), _mean(quiet, "f1")
    return {
        "quiet_gap_closed": _mean(quiet, "gap_closed"),
        "quiet_cpu_ratio_heavy": _mean(quiet, "cpu_ratio_heavy"),
        "quiet_f1_light": f1_light,
        "quiet_f1": f1,
        "quiet_f1_plain": _mean(quiet, "f1_plain"),
        "quiet_f1_plain_lasting": _mean(quiet, "f1_plain_lasting"),
        "quiet_gap_closed_of_means": _rounded(gap_closed(f1_light, f1)),
        "mean_ms": _mean(rows, "mean_ms"),
        "curve": curves,
        "kept_99": {name: first_kept(curve) for name, curve in curves.items()},
        "clips": list(rows),
    }


def mean_curve(rows: Sequence[Row]) -> list[Row]:
    """Means over clips of each setting, from never on; F1 over those that have one."""
    if not rows:
        return []
    keys = ("f1", "gap_closed", "escalated_share", "cpu_ratio_heavy", "ms", "f1_plain")
    never = {
        "f1": _mean(rows, "f1_light"),
        "gap_closed": 0.0,
        "escalated_share": 0.0,
        "cpu_ratio_heavy": _rounded(statistics.fmean(map(_light_by_heavy, rows))),
        "ms": round(statistics.fmean(row["cpu_ms"]["light"] for row in rows), 2),
        "f1_plain": _mean(rows, "f1_light"),
    }
    points = [{"doubt": None, "per_s": None, "burst": None} | never]
    for row, *others in zip(*(row["curve"] for row in rows), strict=True):
        setting = {key: row[key] for key in ReplaySetting._fields}
        points.append(setting | {key: _mean([row, *others], key) for key in keys})
    return points


def _light_by_heavy(row: Row) -> float:
    return float(row["cpu_ms"]["light"] / row["cpu_ms"]["heavy"])


def first_kept(curve: Sequence[Row]) -> Row | None:
    """The setting that asks least of those that agree with the heavy pass by .99; None: none."""
    kept = [row for row in curve if row["f1"] is not None and row["f1"] >= KEPT]
    return min(kept, key=lambda row: float(row["escalated_share"]), default=None)


def _mean(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return round(statistics.fmean(values), 4) if values else None


def bars(result: Row) -> Iterator[Bar]:
    """Each bar with what was measured, and whether it is met."""
    yield Bar("quiet: gap closed in the mean", result["quiet_gap_closed"], ">=", GAP_BAR)
    cpu = result["quiet_cpu_ratio_heavy"]
    yield Bar("quiet: CPU, times the heavy pass's, in the mean", cpu, "<=", CPU_BAR)
    for row in result["clips"]:
        yield Bar(f"{row['clip']}: response, mean ms", row["mean_ms"], "<=", MEAN_MS_BAR)
        late = row["escalated_mean_ms"]
        yield Bar(f"{row['clip']}: ... of escalated frames", late, "<=", ESCALATED_MS_BAR)
