"""Detect: the objects of each frame and their tracks; it computes only what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models import coco
from framegate.models.boxes import BoolArray, Boxes
from framegate.models.detector import policy
from framegate.models.detector.recall import Recall
from framegate.models.gate import crops
from framegate.models.gate.cells import grid_of, ignored_tiles
from framegate.models.tracking import bytetrack
from framegate.models.window.head import WindowHead
from framegate.pipeline.counts import CacheCounts
from framegate.pipeline.records import End, GateView, Object, Origin
from framegate.pipeline.source import Form
from framegate.pipeline.stage import Context, Item, Stage
from framegate.stages.detect.attention import Attention, Moment, clock_s
from framegate.stages.detect.belief import Belief, conclude
from framegate.stages.detect.look import count, limit_said, look_at, view_of
from framegate.stages.detect.options import (
    CacheOptions,
    GateOptions,
    HeadOptions,
    ModelOptions,
    Wanted,
    classes_fault,
    model_fault,
    scores_fault,
)
from framegate.stages.detect.pinned import pinned_choice
from framegate.stages.detect.serving import Server, Serving, Servings
from framegate.stages.detect.standing import DetectState, Standing, Standings
from framegate.stages.detect.window import FrameWindow
from framegate.stages.detections import Detections, changes_of
from framegate.stages.planes import as_picture

# -- Options of detect, with the tables that it owns.


@dataclass(frozen=True)
class DetectOptions:
    """Options of detect.

    detector    light, heavy (about ten times the time), or another model: MODEL_RULE
    classes     labels to look for; none: all that the model knows
    min_score   0..1, least score of an object; none: the frozen one of the model
    min_scores  class -> 0..1, least score of its objects, where it is another
    gate        the table [gate]
    window      the table [window]; its head is for the light detector
    cache       the table [cache]
    models      the table [models]
    """

    detector: str = field(default="light", metadata={"check": model_fault})
    classes: tuple[str, ...] | None = None
    min_score: float | None = field(default=None, metadata={"least": 0.0, "most": 1.0})
    min_scores: dict[str, float] = field(default_factory=dict, metadata={"check": scores_fault})
    gate: GateOptions = field(default_factory=GateOptions, metadata={"table": True})
    window: HeadOptions = field(default_factory=HeadOptions, metadata={"table": True})
    cache: CacheOptions = field(default_factory=CacheOptions, metadata={"table": True})
    models: ModelOptions = field(default_factory=ModelOptions, metadata={"table": True})

    def faults(self) -> list[str]:
        """What is wrong with the values together."""
        fault = None if self.classes is None else classes_fault(self.detector, self.classes)
        return [f"classes = {list(self.classes or ())}: {fault}"] if fault else []

    def usual(self) -> Wanted:
        """What is wanted of a source of which nothing else is said."""
        scores = tuple(sorted(self.min_scores.items()))
        return Wanted(self.detector, self.classes, self.min_score, scores)


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
    uses_models = True
    batch = 8
    options: DetectOptions
    cache: CacheCounts

    def __init__(self, options: DetectOptions, context: Context) -> None:
        """Choose precision and threads once a run, compile, warm up."""
        super().__init__(options, context)
        cv2.setNumThreads(1)
        bytetrack.warm_up()
        head = None
        if options.window.head and options.detector == "light":
            head = WindowHead(
                policy.load("light").parts[0][1],
                pinned_choice(context.folder, context.user_cache).threads,
            )
            head.warm_up()
        server = Server(options.gate, options.models, context, head)
        self.servings = Servings(server, options.usual(), options.models, context)
        self.servings.open_configured()
        self._standings = Standings(context, head)
        self.cache = CacheCounts()
        self._ignored: dict[tuple[str, Form], BoolArray | None] = {}

    def prepare(self, model: str, sources: Sequence[str], is_new: bool) -> None:
        """Open, warm up and check the model for sources that will want it; see Servings."""
        self.servings.prepare(model, sources, is_new)

    def process(
        self, batch: Sequence[Item], states: Mapping[str, DetectState]
    ) -> tuple[list[Detections], dict[str, DetectState]]:
        """Look at each frame where its source's memory says, in order.

        A source's model is settled here for all its frames of the batch: it changes between two.
        """
        servings = {source: self.servings.of(source) for source in {i.source for i in batch}}
        whole = self._whole_answers(batch, servings)
        standing: dict[str, Standing] = {}
        last: dict[str, Item] = {}
        answers = []
        for row, item in enumerate(batch):
            serving = servings[item.source]
            before, at = last.get(item.source), standing.get(item.source)
            if at is None or before is None or before.position.epoch != item.position.epoch:
                at = self._standings.of(item, states[item.source], at, serving)
            attention, belief = self._look(item, at, whole.get(row), serving)
            standing[item.source] = at.after(belief)
            last[item.source] = item
            answers.append(self._detections(item, attention, belief, serving))
        count(self.cache, self.servings.remembered(), self.servings.past)
        kept = {
            source: self._standings.kept(item, standing[source], states[source], servings[source])
            for source, item in last.items()
        }
        return answers, {**states, **kept}

    def end(self, source: str, end: End, state: DetectState) -> tuple[None, DetectState]:
        """Nothing of an epoch goes on into another but what the state says."""
        self._standings.forget(source)
        if end.last:
            self.servings.forget(source)
        self._ignored = {key: tiles for key, tiles in self._ignored.items() if key[0] != source}
        return None, state

    def leaves_out(self, form: Form) -> str:
        """The gate's limit in pictures of this form."""
        gate = self.options.gate
        return "" if gate.mode == "off" or not gate.most else limit_said(form, gate)

    def _whole_answers(
        self, batch: Sequence[Item], servings: Mapping[str, Serving]
    ) -> dict[int, Boxes]:
        """Boxes of all pictures of the batch, by row, where no gate chooses: while one is in the
        network, others are prepared.
        """
        if self.options.gate.mode != "off":
            return {}
        found: dict[int, Boxes] = {}
        for serving in {id(one): one for one in servings.values() if one.head is None}.values():
            rows = [n for n, item in enumerate(batch) if servings[item.source] is serving]
            found |= dict(zip(rows, self._whole([batch[n] for n in rows], serving), strict=True))
        return found

    def _whole(self, batch: Sequence[Item], serving: Serving) -> list[Boxes]:
        for item in batch:
            self._meet(item)
        with ExitStack() as stack:
            pictures = [
                as_picture(stack.enter_context(self.context.pixels(item)), item.record.form)
                for item in batch
            ]
            recalls = [self._recall(item.source, serving) for item in batch]
            found = serving.detector.detect(pictures, recalls)
            del pictures
        return found

    def _look(
        self, item: Item, at: Standing, found: Boxes | None, serving: Serving
    ) -> tuple[Attention, Belief]:
        record, settings = item.record, serving.settings
        form = record.form
        if found is not None:
            now_s = clock_s(at.memory, record.pts)
            whole = (crops.whole(form.width, form.height, settings.attention.long_side),)
            attention = Attention(whole, "whole", "every_frame", now_s)
            size = form.width, form.height
            belief = conclude(at.memory, at.tracks, attention, [found], size, record.pts, settings)
            return attention, belief
        self._meet(item)
        moment = Moment(record.pts, record.key_frame, item.source.encode(), at.anew)
        ignored = self._ignored_tiles(item)
        window = FrameWindow.of(item, serving.head, at.window) if serving.head else None
        with self.context.pixels(item) as pixels:
            picture = as_picture(pixels, form)
            seen = look_at(
                serving.detector,
                picture,
                moment,
                at.memory,
                at.tracks,
                settings,
                ignored,
                window,
                self._recall(item.source, serving),
            )
            del picture
        return seen

    def _meet(self, item: Item) -> None:
        """A new size is not warmed up here: all sources would wait while the network runs at each
        size that its parts can have, and a camera may have another one with each picture.
        """
        self.servings.saw(item.record.form.width, item.record.form.height)

    def _recall(self, source: str, serving: Serving) -> Recall | None:
        return serving.recall(source, self.options.cache, self.context.memo)

    def _detections(
        self, item: Item, attention: Attention, belief: Belief, serving: Serving
    ) -> Detections:
        gate = None
        if self.options.gate.view:
            long_side = serving.settings.attention.long_side
            gate = view_of(attention, item.record.form, long_side)
        labels = serving.detector.labels
        return detections_of(attention, belief, serving.models, gate, labels)

    def _ignored_tiles(self, item: Item) -> BoolArray | None:
        key = item.source, item.record.form
        if key not in self._ignored:
            polygons = self.options.gate.masks.get(item.source, ())
            grid = grid_of(item.record.form.width, item.record.form.height)
            self._ignored[key] = ignored_tiles(polygons, grid) if polygons else None
        return self._ignored[key]


def detections_of(
    attention: Attention,
    belief: Belief,
    models: tuple[str, ...],
    gate: GateView | None = None,
    labels: Sequence[str] = coco.LABELS,
) -> Detections:
    """What detect says of a frame."""
    change = attention.change
    return Detections(
        outcome="detected" if attention.looks else "carried",
        looked=attention.looked,
        reason=attention.reason,
        objects=as_objects(belief.shown, belief.ids, belief.origins, labels),
        models=models,
        age_s=round(belief.age_s, 3),
        novelty=round(belief.window.novelty, 4) if belief.window else None,
        changes=None if change is None else changes_of(change.hot, change.state.grid),
        gate=gate,
    )


def as_objects(
    boxes: Boxes,
    ids: npt.NDArray[np.int32],
    origins: Sequence[Origin],
    labels: Sequence[str] = coco.LABELS,
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
            label=labels[class_id],
            class_id=class_id,
            score=score,
            box=(box[0], box[1], box[2], box[3]),
            origin=origin,
        )
        for box, score, class_id, track, origin in rows
    )
