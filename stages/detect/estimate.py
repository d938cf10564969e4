"""Run the planned looks at a frame; merge, track and smooth the boxes; learn from the result.

The memory of a source learns three things from a look: the gate's thresholds, how long changes may
wait, and how far looks at parts of a frame can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from framegate.models import boxes as nms
from framegate.models.boxes import (
    BoolArray,
    Boxes,
    FloatArray,
    IndexArray,
    IntArray,
    SmallArray,
    check_length,
    read_only,
)
from framegate.models.detector.answer_cache import Recall
from framegate.models.detector.detector import Detector
from framegate.models.detector.policy import Policy
from framegate.models.gate import changed_tiles, crops
from framegate.models.gate.cells import Grid, tiles_inside, tiles_of
from framegate.models.gate.crops import DEFAULT as CROPS
from framegate.models.gate.crops import Merged
from framegate.models.gate.state import GateState
from framegate.models.picture import Picture
from framegate.models.tracking import bytetrack, calm, score_thresholds
from framegate.models.tracking.bytetrack import TrackSettings
from framegate.models.tracking.calm import CalmSettings, CalmState
from framegate.models.tracking.track_state import TrackState
from framegate.pipeline.contracts.results import Origin
from framegate.stages.detect.look_plan import (
    LookPlan,
    PlanSettings,
    gate_settings,
    plan_looks,
    whole_after_parts,
)
from framegate.stages.detect.memory import (
    MAX_KNOWN,
    SAME_PLACE,
    CurrentFrame,
    KnownBoxes,
    SourceMemory,
)
from framegate.stages.detect.move_boxes import move_along
from framegate.stages.detect.options import GateOptions
from framegate.stages.detect.track_kept import track_kept
from framegate.stages.object_filters import SourceFilters

_SAME_OBJECT: Final = 0.1  # IoU above which a detected box of the same class is a known object
_OTHER_CLASS: Final = 0.5  # the same bound for a box of another class
_SURE: Final = 0.9  # trust from which a part without detections needs no whole look
_NOWHERE: Final = np.empty((0, 4), np.float32)


@dataclass(frozen=True, slots=True)
class EstimateSettings:
    """The settings of one detector: of the plan, of tracks, and of the score smoothing."""

    plan: PlanSettings
    tracks: TrackSettings
    calm: CalmSettings


def settings_for(
    options: GateOptions, choices: Policy, min_score: float | None = None, whole: bool = False
) -> EstimateSettings:
    """Return the settings for the detector of `choices`.

    min_score  lowest score of a shown object, as the user set it; None: that of the model
    whole      the detector takes whole frames only, as an ensemble of networks does
    """
    if whole and options.mode == "crops":
        options = replace(options, mode="frames")
    is_exact = min_score is not None
    if min_score is None:
        min_score = choices.min_score
    calm, tracks = score_thresholds.settings_for(min_score, exactly=is_exact)
    parts = CROPS
    if options.mode != "crops":  # then only the size of the whole frame is warmed up
        parts = replace(CROPS, share=0.0)
    plan = PlanSettings(options, choices.parts[0][1], gate_settings(options), parts, calm.shown)
    return EstimateSettings(plan, tracks, calm)


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """The objects of a frame, and the state for the next frame.

    memory   after this frame
    tracks   after this frame
    shown    boxes in source pixels, highest score first
    ids      int32 (N,)  track of each shown box, 0 without a track
    origins  origin of each shown box
    age_s    seconds since the last look at the whole frame, the age of the oldest evidence
    features  int8 (N, F)  values that the network computed of each shown box; None: unknown

    Raises ArrayMismatch.
    """

    memory: SourceMemory
    tracks: TrackState
    shown: Boxes
    ids: IntArray
    origins: tuple[Origin, ...]
    age_s: float
    features: SmallArray | None = None

    def __post_init__(self) -> None:
        n = len(self.shown)
        object.__setattr__(self, "ids", read_only("ids", self.ids, np.int32, (n,)))
        check_length("origins", self.origins, n)
        if self.features is not None:
            features = read_only("features", self.features, np.int8, (n, None))
            object.__setattr__(self, "features", features)


def look_at(
    detector: Detector,
    frame: CurrentFrame,
    picture: Picture,
    settings: EstimateSettings,
    ignored: BoolArray | None = None,
    recall: Recall | None = None,
    filters: SourceFilters | None = None,
) -> tuple[LookPlan, Estimate]:
    """Return the plan for a frame, and the estimate after its looks. A pure function.

    ignored  bool (tile_rows, tile_columns)  tiles whose changes are ignored
    recall   cache of network answers; None: compute each
    filters  which boxes are dropped; None: none

    The detector's threshold must be `settings.calm.candidate`.
    """
    plan = plan_looks(frame, picture, settings.plan, ignored)
    run = partial(run_looks, detector, picture, recall=recall)
    return carry_out(frame, plan, run, settings, filters)


def run_looks(
    detector: Detector, picture: Picture, plan: LookPlan, recall: Recall | None
) -> Sequence[Boxes]:
    """Return the detected boxes of each look of the plan."""
    if plan.looked == "whole":
        return detector.detect([picture], [recall])
    if not plan.looks:
        return ()
    return detector.look(picture, plan.looks, recall)


def carry_out(
    frame: CurrentFrame,
    plan: LookPlan,
    run: Callable[[LookPlan], Sequence[Boxes]],
    settings: EstimateSettings,
    filters: SourceFilters | None = None,
) -> tuple[LookPlan, Estimate]:
    """Return the plan that was carried out, and the estimate after its looks.

    run  returns the detected boxes of each look of a plan
    """
    boxes = run(plan)
    evidence = evidence_of(frame, plan, boxes, settings)
    whole = whole_if_doubted(frame, plan, evidence, settings)
    if whole is not None:
        plan, boxes, evidence = whole, run(whole), None
    return plan, conclude(frame, plan, boxes, settings, filters, evidence)


def whole_if_doubted(
    frame: CurrentFrame, plan: LookPlan, evidence: LookEvidence | None, settings: EstimateSettings
) -> LookPlan | None:
    """Return the plan of a whole look if the looks at parts may have missed an object, or None.

    evidence  `evidence_of` the looks of `plan`

    Until a look at a later frame, an object that left would be a false box, and a new object would
    be missing.
    """
    if evidence is None or not len(evidence.doubted):
        return None
    return whole_after_parts(plan, evidence.doubted, frame, settings.plan)


def conclude(
    frame: CurrentFrame,
    plan: LookPlan,
    detected: Sequence[Boxes],
    settings: EstimateSettings,
    filters: SourceFilters | None = None,
    evidence: LookEvidence | None = None,
) -> Estimate:
    """Return the estimate after the looks of `plan`.

    detected  the boxes of each look
    filters   which boxes are dropped, before they get tracks; None: none
    evidence  `evidence_of` the looks; None: compute it if they are looks at parts

    Learning comes last: it compares the final means with those of the frame before.
    """
    if not plan.looks:
        return _carried(frame, plan, settings.tracks, filters)
    memory, now_s = frame.memory, plan.now_s
    evidence = evidence or evidence_of(frame, plan, detected, settings)
    merged = _merged(frame, plan, detected, evidence, settings.plan.long_side)
    tracked = track_kept(frame, merged, settings.tracks, filters, now_s)
    merged, ids = tracked.merged, tracked.ids
    calm_state, shown, rows = _calmed(frame, merged, ids, settings.calm, filters)
    means = np.zeros(len(ids), np.float32)
    means[rows] = shown.scores
    whole_s = memory.whole_s
    if plan.looked == "whole":
        whole_s = now_s
    watched = memory.watched
    if plan.change is not None:
        watched = plan.change.hot
    after = SourceMemory(
        pts=frame.pts,
        clock_s=now_s,
        whole_s=whole_s,
        look_s=now_s,
        waited=0,
        patience_s=patience_after(memory, merged, means, now_s),
        known=_known_after(memory.known, merged, ids, means, now_s),
        calm=calm_state,
        cut=merged.cut,
        gate=_gate_after(frame, plan, merged, settings.plan),
        watched=watched,
        trust=_trust_after(memory, plan, merged, settings.plan.shown),
        elsewhere=tracked.elsewhere,
    )
    names_of: tuple[Origin, Origin] = ("carried", "detected")
    origins = tuple(names_of[is_new] for is_new in merged.is_new[rows].tolist())
    features = merged.boxes.take(rows).features
    return Estimate(after, tracked.tracks, shown, ids[rows], origins, now_s - whole_s, features)


def _merged(
    frame: CurrentFrame,
    plan: LookPlan,
    detected: Sequence[Boxes],
    evidence: LookEvidence | None,
    long_side: int,
) -> Merged:
    """Return the known and detected boxes, merged.

    evidence  of looks at parts; None: the look was at the whole frame
    """
    known = frame.memory.known.boxes
    if evidence is None:
        return crops.replaced(known, detected[0])
    return crops.merge(known, evidence.new, plan.looks, frame.size, long_side, evidence.judged)


@dataclass(frozen=True, slots=True, eq=False)
class LookEvidence:
    """The evidence of looks at parts of a frame.

    new      boxes of each look in changed places
    judged   bool (N,)  known boxes that the looks replace or remove
    doubted  float32 (K, 4)  places where the looks may have missed an object

    Raises ArrayMismatch.
    """

    new: list[Boxes]
    judged: BoolArray
    doubted: FloatArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "judged", read_only("judged", self.judged, np.bool_, (None,)))
        doubted = read_only("doubted", self.doubted, np.float32, (None, 4))
        object.__setattr__(self, "doubted", doubted)


def evidence_of(
    frame: CurrentFrame, plan: LookPlan, detected: Sequence[Boxes], settings: EstimateSettings
) -> LookEvidence | None:
    """Return the evidence of looks at parts; None for a look at the whole frame, and without one.

    detected  the boxes of each look of `plan`

    A crop gives the network less context than the whole frame, so its scores are lower. Therefore
    known boxes stay where nothing changed, and a known box that a crop misses is in doubt. A
    changed place without detections is in doubt as well, unless the source's trust is high.
    """
    if plan.looked != "part":
        return None
    known = frame.memory.known.boxes
    shown = np.float32(settings.calm.shown)
    changed = np.concatenate([plan.places, _stirred(frame, plan, settings.plan.long_side)])
    judged: BoolArray = np.any(crops.touch(known.xyxy, changed), axis=1)
    in_changed = [crops.touch(boxes.xyxy, changed).any(axis=1) for boxes in detected]
    pairs = zip(detected, in_changed, strict=True)
    new = [boxes.take(np.flatnonzero(is_inside)) for boxes, is_inside in pairs]
    # Each look clears the known boxes that it detects again, and the places in which it detects
    # something; the rest is missed or empty.
    missed = judged & (known.scores > shown)
    empty = np.ones(len(plan.places), np.bool_)
    for boxes in new:
        is_other = known.class_ids[:, None] != boxes.class_ids[None, :]
        min_iou = np.where(is_other, _OTHER_CLASS, _SAME_OBJECT)
        missed &= ~(nms.iou(known.xyxy, boxes.xyxy) > min_iou).any(axis=1)
        sure = boxes.xyxy[boxes.scores > shown]
        empty &= ~crops.touch(plan.places, sure).any(axis=1)
    if frame.memory.trust >= _SURE:
        empty[:] = False
    judged = judged & ~missed
    missed &= crops.touch(known.xyxy, plan.places).any(axis=1)
    return LookEvidence(new, judged, np.concatenate([known.xyxy[missed], plan.places[empty]]))


def _stirred(frame: CurrentFrame, plan: LookPlan, long_side: int) -> FloatArray:
    """Return the places (M, 4) inside the looks that started to change but are not hot so far."""
    if plan.change is None:
        return _NOWHERE
    state = plan.change.state
    areas = np.array([crops.looked_at(look, frame.size, long_side) for look in plan.looks])
    tiles = (state.above > 0).any(axis=0) & ~plan.change.hot & tiles_inside(areas, state.grid)
    if not tiles.any():
        return _NOWHERE
    return crops.places_of(tiles, state.grid.tile_px)


def _calmed(
    frame: CurrentFrame,
    merged: Merged,
    ids: IntArray,
    settings: CalmSettings,
    filters: SourceFilters | None,
) -> tuple[CalmState, Boxes, IndexArray]:
    """Return `calm.step` of the boxes with enough score, its rows as rows of `merged`."""
    candidates = np.flatnonzero(merged.boxes.scores >= np.float32(settings.candidate))
    boxes = merged.boxes.take(candidates)
    least: FloatArray | None = None
    if filters:
        least = filters.least_scores(boxes)
    after, shown, rows = calm.step(
        frame.memory.calm,
        boxes,
        ids[candidates],
        merged.is_new[candidates],
        frame.pts,
        settings,
        least,
    )
    return after, shown, candidates[rows]


def _known_after(
    known: KnownBoxes, merged: Merged, ids: IntArray, means: FloatArray, now_s: float
) -> KnownBoxes:
    """Return all boxes after a look. A box that stays in its place keeps its `since_s`."""
    seen_s, since_s = np.full((2, len(merged.boxes)), now_s)
    kept = ~merged.is_new
    seen_s[kept] = known.seen_s[merged.known_row[kept]]
    again = np.flatnonzero(merged.known_row >= 0)
    rows = merged.known_row[again]
    stays = ~merged.is_new[again]
    stays |= nms.row_iou(known.boxes.xyxy[rows], merged.boxes.xyxy[again]) >= SAME_PLACE
    since_s[again[stays]] = known.since_s[rows[stays]]
    after = KnownBoxes(merged.boxes, seen_s, since_s, ids, means)
    if len(ids) > MAX_KNOWN:
        after = after.take(np.arange(MAX_KNOWN))
    return after


def _carried(
    frame: CurrentFrame,
    plan: LookPlan,
    settings: TrackSettings,
    filters: SourceFilters | None,
) -> Estimate:
    """Return the estimate of a frame without a look: the known boxes, some moved by their tracks.

    A frame without a look is no evidence for tracks, with one exception: an unchanged picture
    confirms a track that has just begun.
    """
    memory, tracks, known = frame.memory, frame.tracks, frame.memory.known
    is_unchanged = plan.reason == "unchanged"
    moved: BoolArray | None = None
    if plan.change is not None and not is_unchanged:
        known, moved = move_along(known, tracks, plan.change, frame.size, plan.now_s)
    if filters and moved is not None:
        kept = filters.kept(known.boxes, np.zeros(len(known.ids), np.bool_))
        known, moved = known.take(kept), moved[kept]
    if is_unchanged and not tracks.are_named:
        is_new = np.zeros(len(known.ids), np.bool_)
        tracks, ids = bytetrack.step(tracks, known.boxes, frame.pts, settings, is_new)
        known = replace(known, ids=ids)
    else:
        moving: BoolArray | None = None
        if moved is not None:
            moving = _tracks_of(known.ids[moved], tracks)
        tracks = bytetrack.coast(tracks, moving, frame.pts, settings)
    gate = memory.gate  # a frame that was not decoded leaves it as it is
    if plan.change is not None:
        gate = plan.change.state
    is_waiting = plan.reason == "waiting"
    calm = memory.calm.at(tracks.pts)
    after = memory.held(frame.pts, plan.now_s, is_waiting, known, calm, gate)
    shown = known.shown
    age_s = plan.now_s - memory.whole_s
    origins = shown.carried
    if moved is not None:
        names_of: tuple[Origin, Origin] = ("carried", "moved")
        origins = tuple(names_of[is_moved] for is_moved in moved[shown.rows].tolist())
    return Estimate(after, tracks, shown.boxes, shown.ids, origins, age_s)


def _tracks_of(ids: IntArray, tracks: TrackState) -> BoolArray:
    """Return a mask of the tracks that have one of these ids."""
    wanted = set(ids.tolist())
    return np.array([track in wanted for track in tracks.ids.tolist()], np.bool_)


def _gate_after(
    frame: CurrentFrame, plan: LookPlan, merged: Merged, settings: PlanSettings
) -> GateState | None:
    """Return the gate's state after the looks. It learns which changes were worth a look."""
    if plan.change is None or plan.cells is None:
        return None
    state, known = plan.change.state, frame.memory.known.boxes
    inside: BoolArray = np.ones(state.grid.tiles, np.bool_)
    if plan.looked != "whole":
        areas = [crops.looked_at(look, frame.size, settings.long_side) for look in plan.looks]
        inside = tiles_inside(np.array(areas), state.grid)
    useful = _useful_tiles(known, merged, inside, state.grid, settings.shown)
    boxes = np.concatenate([known.xyxy, merged.boxes.xyxy])
    occupied = tiles_of(boxes, state.grid, grow_px=state.grid.tile_px)
    return changed_tiles.inferred(state, plan.cells, inside, useful, settings.gate, occupied)


def _useful_tiles(
    known: Boxes, merged: Merged, inside: BoolArray, grid: Grid, shown: float
) -> BoolArray:
    """Return the tiles in which a look changed a shown box: it is new, gone or elsewhere."""
    before = known.scores > np.float32(shown)
    after = np.flatnonzero(merged.boxes.scores > np.float32(shown))
    rows = merged.known_row[after]
    stayed = rows >= 0
    stayed[stayed] = (
        nms.row_iou(known.xyxy[rows[stayed]], merged.boxes.xyxy[after[stayed]]) >= SAME_PLACE
    )
    before[rows[stayed]] = False
    changed = np.concatenate([known.xyxy[before], merged.boxes.xyxy[after[~stayed]]])
    useful: BoolArray = tiles_of(changed, grid, grow_px=grid.tile_px) & inside
    return useful


# The agreement of a look with the boxes carried before it. From _GOOD on, changes may wait a frame
# longer than they did; below _BAD, half as long.
_GOOD: Final = 0.92
_BAD: Final = 0.87


def patience_after(memory: SourceMemory, merged: Merged, means: FloatArray, now_s: float) -> float:
    """Return for how many seconds changes may wait from now on.

    memory  before the look
    means   float32 (N,)  of the boxes of `merged`, as in KnownBoxes
    now_s   the source's clock at the look

    Patience rises by one frame above the wait just tried if the look detects the boxes that were
    carried meanwhile, and halves if it does not.
    """
    waited, known = memory.waited, memory.known
    if not waited:
        return memory.patience_s
    before = known.means > 0
    before[merged.known_row[~merged.is_new]] = False  # not looked at
    after = merged.is_new & (means > 0)
    rows = merged.known_row[after]
    matches = np.count_nonzero(known.means[rows[rows >= 0]] > 0)
    total = np.count_nonzero(before) + np.count_nonzero(after)
    period_s = now_s - memory.clock_s
    agreement = 1.0
    if total:
        agreement = 2 * matches / total
    if agreement >= _GOOD:
        return max(memory.patience_s, (waited + 1) * period_s)
    if agreement < _BAD:
        return max(min(memory.patience_s, waited * period_s / 2), period_s)
    return memory.patience_s


# A whole look after doubted parts moves the trust by a quarter; without doubt it rises slowly.
_GAIN: Final = 0.25
_LOSS: Final = 0.25
_RECOVERY: Final = 0.003


def _trust_after(memory: SourceMemory, plan: LookPlan, merged: Merged, shown: float) -> float:
    """Return how far looks at parts of this source's frames can be trusted, 0..1.

    A look at the whole frame shows whether the part before it missed an object.
    """
    trust = memory.trust
    if plan.looked != "whole":
        return trust
    if not len(plan.doubted):
        return trust + _RECOVERY * (1 - trust)
    visible = merged.boxes.xyxy[merged.boxes.scores > np.float32(shown)]
    part_missed_object = crops.touch(visible, plan.doubted).any()
    if part_missed_object:
        return trust * (1 - _LOSS)
    return trust + _GAIN * (1 - trust)
