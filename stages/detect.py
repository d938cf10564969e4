"""Detect: the objects of each frame and their tracks; it computes only what is new."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from models import coco, crops, detector, policy, trial
from models.boxes import Boxes
from models.cells import BoolArray, grid_of
from models.masks import ignored_tiles
from models.window import WindowHead
from pipeline.cache_counts import CacheCounts
from pipeline.memo import MemoLimits
from pipeline.records import End, GateView, Object, Origin, Outcome
from pipeline.source import Form
from pipeline.stage import Context, Item, Stage
from stages.attention import Attention, Moment, clock_s
from stages.belief import Belief, conclude
from stages.cache_options import CacheOptions
from stages.changes import changes_of
from stages.detections import Detections
from stages.gate_options import GateOptions
from stages.gate_view import view_of
from stages.looking import look_at, settings_for
from stages.planes import as_picture
from stages.remembering import Remembering, count, remembering
from stages.standing import DetectState, Standing, Standings
from stages.window_view import CANDIDATE, WindowOptions, WindowView

DetectorName = Literal["light", "heavy"]


@dataclass(frozen=True)
class DetectOptions:
    """Options of detect.

    detector   light, or heavy (about ten times the time)
    classes    COCO labels to look for; none: all 80
    min_score  0..1, least score of an object; none: the frozen one of the detector
    gate       the table [gate]
    window     the table [window]; its head is for the light detector
    cache      the table [cache]
    """

    detector: DetectorName = "light"
    classes: tuple[str, ...] | None = field(default=None, metadata={"allowed": coco.LABELS})
    min_score: float | None = field(default=None, metadata={"least": 0.0, "most": 1.0})
    gate: GateOptions = field(default_factory=GateOptions, metadata={"table": True})
    window: WindowOptions = field(default_factory=WindowOptions, metadata={"table": True})
    cache: CacheOptions = field(default_factory=CacheOptions, metadata={"table": True})


class Detect(Stage[DetectState]):
    """One frame in, its objects out.

    In     pixels of the frame
    Out    Detections
    State  tracks and memory; they never span a break of continuity (epoch), and the ids of tracks
           go on counting. A memory that is lost costs one look at the whole frame
    Fails  FrameLost: the runner waits for the pixels, or publishes the frame as failed
    """

    Options = DetectOptions
    State = DetectState
    pixels = 1
    batch = 8
    options: DetectOptions
    cache: CacheCounts

    def __init__(self, options: DetectOptions, context: Context) -> None:
        """Choose precision and threads once a run, compile, warm up."""
        super().__init__(options, context)
        cv2.setNumThreads(1)
        choice = _pinned_choice(context.folder)
        choices = policy.load(options.detector)
        self._settings = settings_for(options.gate, choices, options.min_score)
        has_head = options.window.head and options.detector == "light"
        self.head = WindowHead(choices.parts[0][1], choice.threads) if has_head else None
        self.detector = detector.load(
            options.detector,
            choice.precision if options.detector == "light" else None,
            choice.threads,
            classes=options.classes,
            min_score=CANDIDATE if has_head else self._settings.calm.candidate,
            features=has_head,
        )
        self._models = (*self.detector.models, *((self.head.name,) if self.head else ()))
        self._warm: set[tuple[int, int]] = set()
        self._warm_up(640, 360)
        if self.head:
            self.head.warm_up()
        self._standings = Standings(context, self.head)
        self._remembered: dict[str, Remembering] = {}
        self.cache = CacheCounts()
        self._ignored: dict[tuple[str, Form], BoolArray | None] = {}

    def process(
        self, batch: Sequence[Item], states: Mapping[str, DetectState]
    ) -> tuple[list[Detections], dict[str, DetectState]]:
        """Look at each frame where its source's memory says, in order."""
        near = self.options.cache.near
        at_once = self.options.gate.mode == "off" and self.head is None and not near
        whole = self._whole_answers(batch) if at_once else None
        standing: dict[str, Standing] = {}
        last: dict[str, Item] = {}
        answers = []
        for row, item in enumerate(batch):
            before, at = last.get(item.source), standing.get(item.source)
            if at is None or before is None or before.position.epoch != item.position.epoch:
                at = self._standings.of(item, states[item.source], at)
            attention, belief = self._look(item, at, None if whole is None else whole[row])
            standing[item.source] = at.after(item.position, belief)
            last[item.source] = item
            answers.append(self._detections(item, attention, belief))
        count(self.cache, list(self._remembered.values()))
        kept = {
            source: self._standings.kept(item, standing[source], states[source])
            for source, item in last.items()
        }
        return answers, {**states, **kept}

    def end(self, source: str, end: End, state: DetectState) -> tuple[None, DetectState]:  # noqa: ARG002
        """Nothing of an epoch goes on into another but what the state says."""
        self._standings.forget(source)
        self._ignored = {key: tiles for key, tiles in self._ignored.items() if key[0] != source}
        return None, state

    def _whole_answers(self, batch: Sequence[Item]) -> list[Boxes]:
        """Boxes of all pictures of the batch: while one is in the network, others are prepared."""
        for item in batch:
            self._warm_up(item.record.form.width, item.record.form.height)
        with ExitStack() as stack:
            pictures = [
                as_picture(stack.enter_context(self.context.pixels(item)), item.record.form)
                for item in batch
            ]
            recalls = [self._remembering(item.source).recall for item in batch]
            found = self.detector.detect(pictures, recalls)
            del pictures
        return found

    def _look(self, item: Item, at: Standing, found: Boxes | None) -> tuple[Attention, Belief]:
        record, settings = item.record, self._settings
        form = record.form
        if found is not None:
            now_s = clock_s(at.memory, record.pts)
            whole = (crops.whole(form.width, form.height, settings.attention.long_side),)
            attention = Attention(whole, "whole", "every_frame", now_s)
            size = form.width, form.height
            belief = conclude(at.memory, at.tracks, attention, [found], size, record.pts, settings)
            return attention, belief
        self._warm_up(form.width, form.height)
        moment = Moment(record.pts, record.key_frame, item.source.encode(), at.lost)
        ignored = self._ignored_tiles(item)
        window = WindowView(self.head, at.window) if self.head else None
        with self.context.pixels(item) as pixels:
            picture = as_picture(pixels, form)
            seen = look_at(
                self.detector,
                picture,
                moment,
                at.memory,
                at.tracks,
                settings,
                ignored,
                window,
                replace(self._remembering(item.source), source=item.source),
            )
            del picture
        return seen

    def _remembering(self, source: str) -> Remembering:
        """What is remembered of a source's group."""
        options = self.options.cache
        group = options.groups.get(source, source)
        if group not in self._remembered:
            memo = self.context.memo(group, MemoLimits(options.ttl_s, options.bytes))
            self._remembered[group] = remembering(
                options, memo, self.detector, self._settings, self.context.now
            )
        return self._remembered[group]

    def _detections(self, item: Item, attention: Attention, belief: Belief) -> Detections:
        gate = None
        if self.options.gate.view:
            gate = view_of(attention, item.record.form, self._settings.attention.long_side)
        return detections_of(attention, belief, self._models, gate)

    def _ignored_tiles(self, item: Item) -> BoolArray | None:
        key = item.source, item.record.form
        if key not in self._ignored:
            polygons = self.options.gate.masks.get(item.source, ())
            grid = grid_of(item.record.form.width, item.record.form.height)
            self._ignored[key] = ignored_tiles(polygons, grid) if polygons else None
        return self._ignored[key]

    def _warm_up(self, width: int, height: int) -> None:
        """Once for each size: the first sight of an input's size costs some four times more."""
        if (width, height) not in self._warm:
            self._warm.add((width, height))
            self.detector.warm_up(width, height, self._settings.attention.crops)


def detections_of(
    attention: Attention, belief: Belief, models: tuple[str, ...], gate: GateView | None = None
) -> Detections:
    """What detect says of a frame."""
    change = attention.change
    return Detections(
        outcome=_outcome(attention, belief),
        looked=attention.looked,
        reason=attention.reason,
        objects=as_objects(belief.shown, belief.ids, belief.origins),
        models=models,
        age_s=round(belief.age_s, 3),
        novelty=round(belief.window.novelty, 4) if belief.window else None,
        changes=None if change is None else changes_of(change.hot, change.state.grid),
        gate=gate,
    )


def as_objects(
    boxes: Boxes, ids: npt.NDArray[np.int32], origins: Sequence[Origin]
) -> tuple[Object, ...]:
    """Objects of a frame: boxes to a tenth of a pixel, scores to a ten-thousandth."""
    rows = zip(
        np.round(boxes.xyxy.astype(np.float64), 1).tolist(),
        np.round(boxes.scores.astype(np.float64), 4).tolist(),
        boxes.class_ids.tolist(),
        ids.tolist(),
        origins,
        strict=True,
    )
    return tuple(
        Object(
            track=track or None,
            label=coco.LABELS[class_id],
            class_id=class_id,
            score=score,
            box=(box[0], box[1], box[2], box[3]),
            origin=origin,
        )
        for box, score, class_id, track, origin in rows
    )


def _outcome(attention: Attention, belief: Belief) -> Outcome:
    """How a frame's answer came about. What is the same to the bit is not told from a pass."""
    if belief.lent:
        return "cached"
    return "detected" if attention.looks else "carried"


def _pinned_choice(folder: Path) -> trial.Choice:
    """The run's choice: measured once, kept in its folder, so that no restart decides anew."""
    pinned = folder / "precision.json"
    if not pinned.exists():
        known = _user_cache() / "precision.json"
        trial.run(known)
        with suppress(OSError):
            shutil.copyfile(known, pinned)
    return trial.run(pinned)


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "framegate"
