"""Compare a gated run with looks at every frame, with its rivals, and with the ceiling."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.gate.run import Dense, Gated, answering, dense, frames, gated, settings
from benchmarks.harness import agreement
from benchmarks.harness.agreement import Difference, Tracked
from benchmarks.harness.gate_clips import WARM_UP, GateClip
from benchmarks.rivals.subsampling import PHASES, Subsampling, carried, looks, moved
from framegate.models import matching
from framegate.models.detector.detector import Detector
from framegate.stages.detect.estimate import EstimateSettings
from framegate.stages.detect.options import GateOptions

Array = npt.NDArray[Any]
Kind = Literal["carried", "moved"]
KINDS: Final[tuple[Kind, ...]] = ("carried", "moved")
NOISE = 2  # grey levels
FEW_BOXES = 100  # of the dense path: with fewer an F1 says little


class Rival(NamedTuple):
    """A way of subsampling: carried or moved boxes, and the share of frames that are looked at."""

    kind: Kind
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """What everything is compared with.

    shown  the calm dense path; noisy: the same on frames with noise
    """

    dense: Dense
    shown: list[Tracked]
    noisy: list[Tracked]

    @property
    def n_boxes(self) -> int:
        """Boxes shown in the frames that are judged."""
        return sum(len(frame.ids) for frame in self.shown[WARM_UP:])

    @property
    def ceiling(self) -> float:
        """F1 of the dense path with itself under noise: no gate can be told from that."""
        return f1(self.noisy, self)


def baseline(
    clip: GateClip, using: Detector, given: EstimateSettings, kept: Path | None
) -> Baseline:
    """The dense path on a clip, and on the same clip with noise."""
    clear, noisy = (dense(clip, using, noise, kept) for noise in (0, NOISE))
    return Baseline(clear, _all_shown(clear, given), _all_shown(noisy, given))


def _all_shown(found: Dense, given: EstimateSettings) -> list[Tracked]:
    every = np.ones(len(found.boxes), np.bool_)
    return carried(found.boxes, found.stamps, every, answering(given))


def counts(shown: Sequence[Tracked], base: Baseline) -> Array:
    """matching.matched of the judged frames with the calm dense path."""
    ours, theirs = ([frame.boxes for frame in side[WARM_UP:]] for side in (shown, base.shown))
    return matching.matched(ours, theirs)


def f1(shown: Sequence[Tracked], base: Baseline) -> float:
    """F1 of the judged frames with the calm dense path."""
    return float(matching.f1(counts(shown, base)))


def run_rivals(
    clip: GateClip,
    base: Baseline,
    given: EstimateSettings,
    rivals: Sequence[Rival],
    phases: Sequence[float] = PHASES,
) -> dict[Rival, list[Array]]:
    """Counts of each rival, one array a phase."""
    found, n = base.dense, len(base.dense.boxes)
    found_by = {
        rival: [
            carried(found.boxes, found.stamps, looks(n, rival.share, phase), answering(given))
            for phase in phases
        ]
        for rival in rivals
        if rival.kind == "carried"
    }
    moving = [rival for rival in rivals if rival.kind == "moved"]
    runs = [
        Subsampling(looks(n, rival.share, phase), answering(given))
        for rival in moving
        for phase in phases
    ]
    if runs:
        pictures = (picture for picture, _, _ in frames(clip))
        shown = moved(pictures, found.boxes, found.stamps, runs)
        for i, rival in enumerate(moving):
            found_by[rival] = shown[i * len(phases) : (i + 1) * len(phases)]
    return {rival: [counts(each, base) for each in by] for rival, by in found_by.items()}


def equal_time(run: Gated, kind: Kind, fps: float, frame_age_s: float) -> float:
    """The share of frames that a rival can look at in the time that the gate takes.

    At least one in `frame_age_s`, which no gate looks at less often.
    """
    spent = float(run.ms[WARM_UP:].mean())
    flow = run.times.mean("flow") if kind == "moved" else 0.0
    possible = (spent - flow) / (run.times.mean("whole") - flow)
    return min(1.0, max(possible, 1 / (fps * frame_age_s)))


def share(run: Gated, base: Baseline, begin: int = WARM_UP, end: int | None = None) -> float:
    """Pixels that the network was given, in parts of those of the dense path."""
    return float(run.pixels[begin:end].mean()) / base.dense.pixels


def told_rivals(found: dict[Rival, list[Array]], names: dict[Rival, str]) -> dict[str, Any]:
    """Each rival's share, its mean F1 over the phases, and the lowest and the highest."""
    told = {}
    for rival, by_phase in found.items():
        scores = [matching.f1(each) for each in by_phase]
        told[names[rival]] = {
            "share": round(rival.share, 4),
            "f1": round(statistics.fmean(scores), 4),
            "f1_range": [round(min(scores), 4), round(max(scores), 4)],
        }
    return told


def against(run: Gated, base: Baseline, rival: Sequence[Array]) -> Difference:
    """F1 of the gate less that of a rival (mean of its phases), with its interval."""
    ours = counts(run.shown, base)

    def of_rival(times: Array) -> float:
        return statistics.fmean(matching.f1(each, times) for each in rival)

    pair = (lambda times: matching.f1(ours, times), of_rival, len(ours))
    return agreement.paired_bootstrap([pair], n_resamples=400)


def scores(run: Gated, base: Baseline) -> dict[str, Any]:
    """What the gate's run came to, without its rivals."""
    both, ours, theirs = (int(n) for n in counts(run.shown, base).sum(axis=0))
    events = agreement.events(run.shown[WARM_UP:], base.shown[WARM_UP:])
    enough = theirs >= FEW_BOXES
    return {
        "share": round(share(run, base), 4),
        "f1": round(f1(run.shown, base), 4) if enough else None,
        "ceiling": round(base.ceiling, 4) if enough else None,
        "boxes": {"matched": both, "gated": ours, "dense": theirs},
        "event_recall": round(events.met / events.total, 4) if events.total else None,
        "events": events.total,
        "events_missed": events.total - events.met,
        "share_warm_up": round(share(run, base, 0, WARM_UP), 4),
        "frame_ms": round(float(run.ms[WARM_UP:].mean()), 3),
        "whole_ms": round(run.times.mean("whole"), 3),
        "flow_ms": round(run.times.mean("flow"), 3) if run.times.flow else None,
        "gate_ms": round(run.times.mean("gate"), 3) if run.times.gate else None,
        "reasons": run.reasons_from(WARM_UP),
    }


def by_second(run: Gated, base: Baseline, fps: float) -> dict[str, list[float]]:
    """Mean share and mean number of objects of the dense path in each second of video."""
    step = max(1, round(fps))
    pixels = run.pixels / base.dense.pixels
    boxes = np.array([len(frame.ids) for frame in base.shown])
    starts = range(0, len(pixels) - step + 1, step)
    return {
        name: [round(float(values[at : at + step].mean()), 3) for at in starts]
        for name, values in (("share", pixels), ("boxes", boxes))
    }


def evaluate(
    clip: GateClip,
    options: GateOptions | EstimateSettings,
    using: Detector,
    kept: Path | None = None,
    rivals: bool = True,
) -> dict[str, Any]:
    """A clip under some settings: for choosing them.

    using  of `gate_run.light`; kept  a folder for what does not depend on the settings
    """
    given = settings(options) if isinstance(options, GateOptions) else options
    base = baseline(clip, using, given, kept)
    run = gated(clip, using, given, base.shown)
    told: dict[str, Any] = {"clip": clip.name, "group": clip.group, **scores(run, base)}
    if rivals and told["f1"] is not None:
        told |= rivals_of(clip, base, run, given)
    return told


def rivals_of(
    clip: GateClip, base: Baseline, run: Gated, given: EstimateSettings
) -> dict[str, Any]:
    """The rivals at the gate's share and at its time, and how the gate does against the better."""
    age_s = given.plan.options.frame_age_s
    at_share = {kind: Rival(kind, share(run, base)) for kind in KINDS}
    at_time = {kind: Rival(kind, equal_time(run, kind, clip.fps, age_s)) for kind in KINDS}
    names = {rival: f"{rival.kind}_at_equal_share" for rival in at_share.values()}
    names |= {rival: f"{rival.kind}_at_equal_time" for rival in at_time.values()}
    found = run_rivals(clip, base, given, list(names))
    told = told_rivals(found, names)
    best_in_time = max(at_time.values(), key=lambda rival: told[names[rival]]["f1"])
    lead = against(run, base, found[best_in_time])
    return {
        "rival_f1": max(each["f1"] for each in told.values()),
        "rival_f1_at_equal_time": told[names[best_in_time]]["f1"],
        "lead": [round(value, 4) for value in (lead.mean, lead.low, lead.high)],
        "rivals": told,
    }
