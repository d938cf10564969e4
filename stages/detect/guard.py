"""The guard: the general model looks beside a specialised one, and takes over when they disagree.

A model that was tuned or trained for one camera knows a few classes, and the light and the view
that it has learned from. So the model that it came from looks at the whole frame as well: now and
then, soon after something changed that no object explains, and wherever an object of a class is
known that only it knows. What it finds of such classes is reported; in all others the two should
agree. An early warning on the share of objects in which they do not rings the alarm. That says that
they differ, not who is right; two that err alike, or see alike and show less or more of it, it does
not tell apart. So now and then one such frame is an *audit*: where the two show something else, the
heavy pass is asked, and the alarm rings, too, where the general model's answer is closer to its.
From the next frame on the general model serves the source, and the specialised one looks beside it,
until the two have agreed for long enough. All of it follows from pixels, time stamps, answers and
committed state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import msgspec
import numpy as np

from framegate.models import coco, matching
from framegate.models.boxes import BoolArray, Boxes, IntArray, iou, together
from framegate.models.detector.answer_cache import Recall
from framegate.models.detector.detector import Detector
from framegate.models.gate import crops
from framegate.models.gate.cells import tiles_of
from framegate.models.gate.state import SHORTEST, age_limit
from framegate.models.picture import Picture
from framegate.models.tracking.calm import CalmSettings, least_of
from framegate.pipeline.contracts.results import GuardNews
from framegate.pipeline.promise import statistics
from framegate.stages.detect.estimate import Estimate, EstimateSettings, conclude
from framegate.stages.detect.look import run_looks
from framegate.stages.detect.look_plan import LookPlan, ages_of, plan_looks
from framegate.stages.detect.memory import CurrentFrame
from framegate.stages.detect.options import GuardOptions

FALSE_ALARM_LOOKS: Final = 1000.0  # between two false alarms in the mean, at least; so of audits
WORSE: Final = 0.05  # F1 by which a specialised model may be below the general one
SOON_S: Final = 2.0  # of media time until the next look, once the two differ by too much
_AGAIN_S: Final = 0.5  # the same where an object that only the general model knows may have moved
_UNEXPLAINED_S: Final = 1.0  # the least time for which what nobody explains has to stay
_LEAST_TILES: Final = 4  # of the gate, that changed and that no object explains
_LAST_LOOKS: Final = 16  # that `apart` is a mean over; what was before is forgotten, exponentially
_NEVER: Final = -1.0
_NOT_SHARED: Final = -1
_NO_CLASSES: Final = np.empty(0, np.int32)

_replace = msgspec.structs.replace


class GuardState(msgspec.Struct, frozen=True, array_like=True):
    """What the guard of a source has seen; it outlives epochs, not another model.

    by        identity of the models that it is about
    alarm     the general model serves
    looks     in which both were held against each other and there was something to differ in
    apart     0..1, share of objects in which they differed of late
    sums      of the early warning
    strange   looks that found objects of classes that the specialised model does not know
    looked_s  when the last look was, on the source's clock; below 0: not yet
    waits_s   for how long what nobody explains has to stay until it is looked at
    unexplained  something changed since the last look that no object explains
    alarms    times that it rang
    audits    frames in which both were held against the heavy pass, or showed the same
    behind    -1..1, how far its F1 was below the general model's there of late
    audit_sums  of the early warning on that
    audited_s   when the last audit was, on the source's clock; below 0: not yet
    audit_in_s  seconds from there to the next; 0: as usual
    """

    by: str
    alarm: bool = False
    looks: int = 0
    apart: float = 0.0
    sums: tuple[float, ...] = statistics.QUIET
    strange: int = 0
    looked_s: float = _NEVER
    waits_s: float = _UNEXPLAINED_S
    unexplained: bool = False
    alarms: int = 0
    audits: int = 0
    behind: float = 0.0
    audit_sums: tuple[float, ...] = statistics.QUIET
    audited_s: float = _NEVER
    audit_in_s: float = 0.0

    @property
    def news(self) -> GuardNews:
        """As results tell it."""
        apart, behind = round(self.apart, 3), round(self.behind, 3)
        counts = self.strange, self.alarms, self.audits
        return GuardNews(self.alarm, self.looks, apart, *counts, behind)


class Side(NamedTuple):
    """One of the two models. published: int32, by its class ids those of the pair's labels."""

    detector: Detector
    settings: EstimateSettings
    published: IntArray

    @staticmethod
    def of(detector: Detector, settings: EstimateSettings) -> Side:
        """Return a model that is called what it calls itself."""
        return Side(detector, settings, np.arange(len(detector.labels), dtype=np.int32))


@dataclass(frozen=True, slots=True, eq=False)
class Guard:
    """Two models that watch one source.

    labels   by class id: the specialised model's, and behind them what only the general one knows
    shared   int32, ascending: classes that both know; strange: that only the general one does
    taught   int32 (80,): for each of COCO's classes, as which of these the heavy pass means it; -1:
             as none that both know
    """

    own: Side
    general: Side
    labels: tuple[str, ...]
    shared: IntArray
    strange: IntArray
    taught: IntArray
    options: GuardOptions


def pair_up(
    own: Side,
    general: Side,
    options: GuardOptions,
    knows: Sequence[str],
    merged: Mapping[str, str],
) -> Guard:
    """Return the guard of two models.

    knows   labels that the specialised model can answer with, asked for or not, and those that
            somebody struck when it was made: none is strange
    merged  label -> what the specialised model calls the same thing
    """
    ours, theirs = own.detector, general.detector
    names = [merged.get(label, label) for label in theirs.labels]
    labels = tuple(dict.fromkeys((*ours.labels, *names)))
    published = np.array([labels.index(name) for name in names], np.int32)
    wanted = np.unique(published[list(theirs.class_ids)])
    known = np.array([i for i, label in enumerate(labels) if label in knows], np.int32)
    strange = np.setdiff1d(wanted, known)
    shared = np.intersect1d(wanted, np.array(ours.class_ids, np.int32))
    # A score of the general model counts as it does where that serves. (Nothing is merged into a
    # class that is strange, so there a label has one id.)
    calm, by_name = own.settings.calm, [theirs.labels.index(labels[i]) for i in strange.tolist()]
    least = least_of(np.array(by_name, np.int32), general.settings.calm).tolist()
    added = ((i, max(one, calm.shown)) for i, one in zip(strange.tolist(), least, strict=True))
    settings = replace(own.settings, calm=replace(calm, own=(*calm.own, *added)))
    ids = {labels[i]: i for i in shared.tolist()}
    taught = [ids.get(merged.get(label, label), _NOT_SHARED) for label in coco.LABELS]
    return Guard(
        own._replace(settings=settings, published=np.arange(len(labels), dtype=np.int32)),
        general._replace(published=published),
        labels,
        shared.astype(np.int32),
        strange.astype(np.int32),
        np.array(taught, np.int32),
        options,
    )


class ShownPair(NamedTuple):
    """What both models show of one whole frame, in classes that both know, by the pair's labels."""

    own: Boxes
    general: Boxes


class GuardedLook(NamedTuple):
    """What came of a frame.

    state    of the guard after it
    audit    what the heavy pass is to be asked about; None: nothing
    models   what made the answer, as results name it; labels  by class id of the answer
    """

    plan: LookPlan
    estimate: Estimate
    state: GuardState
    audit: ShownPair | None
    models: tuple[str, ...]
    labels: tuple[str, ...]


def guarded_look(
    guard: Guard,
    state: GuardState,
    frame: CurrentFrame,
    picture: Picture,
    ignored: BoolArray | None = None,
    own_recall: Recall | None = None,
    general_recall: Recall | None = None,
    audits: bool = False,
) -> GuardedLook:
    """Return what is to be seen in a frame with both models at work; a pure function.

    Arguments as for look_at. audits: there is somebody who can be asked who is right.
    """
    own, general = (guard.own, own_recall), (guard.general, general_recall)
    (serving, recall), (beside, their_recall) = (general, own) if state.alarm else (own, general)
    plan = plan_looks(frame, picture, serving.settings.plan, ignored)
    is_audit = audits and _audit_is_due(state, frame, guard.options)
    is_due = _is_due(guard, state, frame, plan)
    # Where there is no reason for haste it is of a frame in which something is likely to be shown.
    is_due = is_due or (is_audit and (state.audit_in_s > 0 or _is_shown(frame, serving, guard)))
    if is_due and plan.looked != "whole":
        whole = (crops.whole(*frame.size, serving.settings.plan.long_side),)
        plan = replace(plan, looks=whole, looked="whole", reason="guard")
    found = run_looks(serving.detector, picture, plan, recall)
    after, unseen, audit = state, _NO_CLASSES if state.alarm else guard.strange, None
    if is_due:
        [said] = beside.detector.detect([picture], [their_recall])
        ours, theirs = _named(found[0], serving), _named(said, beside)
        if is_audit:
            by_own, by_general = (said, found[0]) if state.alarm else (found[0], said)
            audit = ShownPair(
                _shown(by_own, guard.own, guard), _shown(by_general, guard.general, guard)
            )
            is_empty = not len(audit.own) + len(audit.general)
            if not is_empty or state.audit_in_s:
                after = _replace(after, audited_s=frame.now_s)
            if is_empty or _is_same(audit):
                # Whatever there is, neither is better: nobody need be asked. An empty frame is no
                # audit all the same: of a car park most would be.
                after = after if is_empty else _after_audit(after, 0.0, guard.options)
                audit = None
        if not state.alarm:
            news = _strange(ours, theirs, guard)
            found, unseen = [_surest_first(together([found[0], news]))], _NO_CLASSES
            is_strange = bool(_sure(news, guard.own.settings.calm).any())
            after = _replace(after, strange=state.strange + is_strange)
            after = _rested(after, is_strange, guard.options)
        loss = disagreement(ours, theirs, serving, beside, guard.shared)
        after = _told(_replace(after, looked_s=frame.now_s), loss, guard.options)
    estimate = conclude(frame, plan, found, serving.settings, unseen=unseen)
    if not state.alarm:
        after = _replace(after, unexplained=_unexplained(after, frame, plan, estimate))
    models = serving.detector.models
    if not state.alarm and (is_due or _shows(estimate, guard.strange)):
        models = tuple(dict.fromkeys((*models, *beside.detector.models)))
    labels = serving.detector.labels if state.alarm else guard.labels
    return GuardedLook(plan, estimate, after, audit, models, labels)


# -- When the general model looks.


def _is_due(guard: Guard, state: GuardState, frame: CurrentFrame, plan: LookPlan) -> bool:
    passed_s, every_s = frame.now_s - state.looked_s, guard.options.every_s
    if state.looked_s < 0 or passed_s < 0:  # a clock that began anew
        return True
    drawn = (round(state.looked_s * 1000),)
    if passed_s >= age_limit(every_s, frame.source_key, drawn):
        return True
    if state.alarm:
        return False
    if state.looks and _differ(state.apart, guard.options) and passed_s >= min(SOON_S, every_s):
        return True
    if state.unexplained and passed_s >= min(state.waits_s, every_s):
        return True
    return _is_due_for_strange(guard, frame, plan, passed_s)


def _audit_is_due(state: GuardState, frame: CurrentFrame, options: GuardOptions) -> bool:
    passed_s = frame.now_s - state.audited_s
    if state.audited_s < 0 or passed_s < 0:
        return True
    drawn = (round(state.audited_s * 1000),)
    return passed_s >= age_limit(state.audit_in_s or options.audit_s, frame.source_key, drawn)


def _is_shown(frame: CurrentFrame, serving: Side, guard: Guard) -> bool:
    """Whether an object of a class that both know was shown with the frame before."""
    known = frame.memory.known
    is_shown = known.means > least_of(known.boxes.class_ids, serving.settings.calm)
    return bool(np.isin(serving.published[known.boxes.class_ids[is_shown]], guard.shared).any())


def _is_due_for_strange(guard: Guard, frame: CurrentFrame, plan: LookPlan, passed_s: float) -> bool:
    """Whether an object that only the general model knows is too old, or may have moved."""
    known = frame.memory.known
    rows = np.isin(known.boxes.class_ids, guard.strange)
    if not rows.any():
        return False
    ages, most = ages_of(frame, guard.own.settings.plan)
    if (ages[rows] >= SHORTEST * most[rows]).any():
        return True
    if plan.change is None or passed_s < _AGAIN_S:
        return False
    touched = tiles_of(known.boxes.xyxy[rows & (known.means > 0)], plan.change.state.grid)
    return bool((touched & plan.change.hot).any())


def _unexplained(
    state: GuardState, frame: CurrentFrame, plan: LookPlan, estimate: Estimate
) -> bool:
    """Whether since the last look something changed where, looked at, no object is or was."""
    if state.looked_s == frame.now_s or plan.change is None or plan.looked == "no":
        return state.unexplained and state.looked_s != frame.now_s
    if state.unexplained or plan.change.moving or plan.change.exposure:
        return state.unexplained
    grid, hot = plan.change.state.grid, plan.change.hot
    was, now = frame.memory.known, estimate.memory.known
    boxes = np.concatenate([was.boxes.xyxy[was.means > 0], now.boxes.xyxy[now.means > 0]])
    explained = tiles_of(boxes, grid, grow_px=grid.tile_px)
    return int(np.count_nonzero(hot & ~explained)) >= _LEAST_TILES


def _rested(state: GuardState, is_strange: bool, options: GuardOptions) -> GuardState:
    """Where what nobody explained was nothing, as trees in the wind, it has to stay for longer."""
    if is_strange:
        return _replace(state, waits_s=_UNEXPLAINED_S)
    if not state.unexplained:
        return state
    return _replace(state, waits_s=min(2 * state.waits_s, options.every_s))


# -- What the general model says beside the specialised one.


def _named(boxes: Boxes, side: Side) -> Boxes:
    return boxes.named(side.published[boxes.class_ids])


def _shown(boxes: Boxes, side: Side, guard: Guard) -> Boxes:
    """Return what a model is sure of in classes that both know."""
    sure = _named(boxes.take(_sure(boxes, side.settings.calm)), side)
    return sure.take(np.isin(sure.class_ids, guard.shared))


def _strange(ours: Boxes, theirs: Boxes, guard: Guard) -> Boxes:
    """Return what the general model found of classes of its own, where the other sees nothing."""
    news = theirs.take(np.isin(theirs.class_ids, guard.strange))
    sure = _sure(ours, guard.own.settings.calm)
    taken: BoolArray = np.any(iou(news.xyxy, ours.xyxy[sure]) >= matching.MIN_IOU, axis=1)
    return news.take(~taken)


def _is_same(shown: ShownPair) -> bool:
    """Whether both models show the same."""
    pairs, own, general = matching.matched([shown.own], [shown.general])[0].tolist()
    return bool(pairs == own == general)


def _surest_first(boxes: Boxes) -> Boxes:
    return boxes.take(np.argsort(-boxes.scores, kind="stable"))


def _sure(boxes: Boxes, calm: CalmSettings) -> BoolArray:
    sure: BoolArray = boxes.scores > least_of(boxes.class_ids, calm)
    return sure


def _shows(estimate: Estimate, classes: IntArray) -> bool:
    return bool(np.isin(estimate.shown.class_ids, classes).any())


# -- Whether the two agree.


def disagreement(
    ours: Boxes, theirs: Boxes, we: Side, they: Side, shared: IntArray
) -> float | None:
    """Return the share, 0..1, of objects that one of two models is sure of and the other does not
    see at all; None where neither is sure of any.

    shared: classes that both know. A threshold that lies elsewhere is no disagreement: what one is
    sure of the other has seen if it has as much as a candidate there; and what one is sure of at a
    score that is no candidate for the other counts for neither.
    """
    ours = ours.take(np.isin(ours.class_ids, shared))
    theirs = theirs.take(np.isin(theirs.class_ids, shared))
    calm, their_calm = we.settings.calm, they.settings.calm
    floor = max(calm.candidate, their_calm.candidate)
    sure_of = (
        _sure(ours, calm) & (ours.scores > floor),
        _sure(theirs, their_calm) & (theirs.scores > floor),
    )
    total = sum(int(np.count_nonzero(sure)) for sure in sure_of)
    if not total:
        return None
    pairs = matching.by_worth(matching.overlaps(ours, theirs))
    for sure, rows in zip(sure_of, pairs, strict=True):
        sure[rows] = False
    return sum(int(np.count_nonzero(sure)) for sure in sure_of) / total


def _differ(apart: float, options: GuardOptions) -> bool:
    return apart > options.disagreement


def _told(state: GuardState, loss: float | None, options: GuardOptions) -> GuardState:
    """Return the state after a look in which the two differed by `loss`; None: it tells nothing."""
    if loss is None:
        return state
    looks = state.looks + 1
    state = _replace(state, looks=looks, apart=_of_late(state, state.apart, loss, looks))
    if state.alarm:
        return _at_rest(state, options)
    sums = statistics.after(state.sums, loss, options.disagreement)
    if not statistics.is_alarm(sums, FALSE_ALARM_LOOKS):
        return _replace(state, sums=sums)
    return _rung(_replace(state, apart=1.0))


def _of_late(state: GuardState, mean: float, loss: float, looks: int) -> float:
    # After an alarm it begins at 1: so it takes many looks that agree.
    weight = 1 / (_LAST_LOOKS if state.alarm else min(looks, _LAST_LOOKS))
    return mean + weight * (loss - mean)


def _rung(state: GuardState) -> GuardState:
    quiet = _replace(state, sums=statistics.QUIET, audit_sums=statistics.QUIET, unexplained=False)
    return _replace(quiet, alarm=True, alarms=state.alarms + 1, audit_in_s=0.0)


def _at_rest(state: GuardState, options: GuardOptions) -> GuardState:
    """Return the state without the alarm, where there is no more reason for it."""
    is_worse = _differ(state.apart, options) or state.behind > WORSE
    return state if is_worse else _replace(state, alarm=False)


# -- Who is right, as the heavy pass has it.


def audited(guard: Guard, state: GuardState, shown: ShownPair, seen: Boxes) -> GuardState:
    """Return the state once the heavy pass said what is to be seen in a frame of which both models
    showed so much. seen: with COCO's class ids.

    A bet on which of the two is closer to it, frame by frame: by how much the F1 of one is below
    that of the other. Frames in which neither shows anything are none of them; where both show the
    same it is 0, and nobody is asked.
    """
    there = Boxes(seen.xyxy, seen.scores, guard.taught[seen.class_ids])
    there = there.take(there.class_ids != _NOT_SHARED)
    own, general = (float(matching.f1(matching.matched([one], [there]))) for one in shown)
    return _after_audit(state, general - own, guard.options)


def _after_audit(state: GuardState, loss: float, options: GuardOptions) -> GuardState:
    audits = state.audits + 1
    state = _replace(state, audits=audits, behind=_of_late(state, state.behind, loss, audits))
    if state.alarm:
        return _at_rest(state, options)
    sums = _bet(state.audit_sums, loss)
    if statistics.is_alarm(sums, FALSE_ALARM_LOOKS):
        return _rung(_replace(state, behind=1.0))
    return _replace(state, audit_sums=sums, audit_in_s=_audit_in_s(state.behind, options))


def _bet(sums: tuple[float, ...], loss: float) -> tuple[float, ...]:
    """A loss of -1..1 that may be WORSE in the mean, as one of 0..1."""
    return statistics.after(sums, (1 + loss) / 2, (1 + WORSE) / 2)


def _audit_in_s(behind: float, options: GuardOptions) -> float:
    """Return the seconds until the next audit, 0: as usual. The worse it is, the sooner."""
    if behind <= WORSE:
        return 0.0
    return min(max(SOON_S, options.audit_s * (WORSE / behind) ** 2), options.audit_s)


# -- How long it takes.


def looks_until_alarm(loss: float, options: GuardOptions) -> int | None:
    """Return how many looks that tell it takes at most from quiet to the alarm, where the two
    differ by `loss` or more in each; None: it may never come.
    """
    return _until_alarm(lambda sums: statistics.after(sums, loss, options.disagreement))


def audits_until_alarm(loss: float) -> int | None:
    """Return the same of audits that tell, where the F1 of the specialised model is below that of
    the general one by `loss` or more in each.
    """
    return _until_alarm(lambda sums: _bet(sums, loss))


def _until_alarm(after: Callable[[tuple[float, ...]], tuple[float, ...]]) -> int | None:
    sums = statistics.QUIET
    for looks in range(1, 1000):
        sums = after(sums)
        if statistics.is_alarm(sums, FALSE_ALARM_LOOKS):
            return looks
    return None
