"""Detect: the objects of each frame and their tracks; it computes only what is new."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from framegate.models import coco
from framegate.models.backdrop import backdrop_of
from framegate.models.boxes import BoolArray, Boxes
from framegate.models.detector.answer_cache import Recall
from framegate.models.detector.devices import device_fault
from framegate.models.detector.network import CPU
from framegate.models.gate.cells import grid_of, ignored_tiles
from framegate.pipeline.contracts.queries import CacheCounts
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import GateView, Object, Origin
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import Context, Item, Stage
from framegate.stages.detect.estimate import Estimate, conclude, look_at
from framegate.stages.detect.live_state import DetectState, LiveState, StateKeeper
from framegate.stages.detect.look_plan import LookPlan, limit_in_words, view_of, whole_plan
from framegate.stages.detect.memory import CurrentFrame
from framegate.stages.detect.model_pool import ModelOpener, ModelPool, ServedModel, add_up
from framegate.stages.detect.options import (
    SCORES_SCHEMA,
    CacheOptions,
    Classes,
    GateOptions,
    ModelOptions,
    ModelUse,
    classes_fault,
    model_fault,
    scores_fault,
)
from framegate.stages.detections import Detections, changes_of
from framegate.stages.planes import as_picture

log = logging.getLogger(__name__)

_BACKDROP_FRAMES: Final = 128  # in one of so many it is told what the camera looks at

# -- Options of detect, with the tables that it owns.


@dataclass(frozen=True)
class DetectOptions:
    """Options of detect.

    detector    light; heavy, which takes about ten times the time; nanodet-SIDE, the light network
                at another size, a multiple of 32 from 96 to 1280; or an added model: NAME,
                NAME@VERSION or NAME@DIGEST
    classes     labels to detect, or "all" that the model knows. Default: person, bicycle, car,
                motorcycle, bus, train, truck, boat, bird, cat, dog, horse; for your own models all
    min_score   lowest score of an object, 0 to 1. Default: that of the model
    min_scores  class -> lowest score of its objects, 0 to 1, where it differs
    device      device for the network. CPU; GPU, GPU.1, NPU or HETERO:GPU,CPU, as OpenVINO names
                them; for a model from ONNX also CUDA and other providers of ONNX Runtime. If the
                device is absent, or its results differ from those of the CPU, the run ends. AUTO:
                the fastest device whose results agree with the CPU
    gate        the table [gate]
    cache       the table [cache]
    models      the table [models]
    backdrops   send now and then what the camera shows
    """

    detector: str = field(default="light", metadata={"check": model_fault})
    classes: Classes = None
    min_score: float | None = field(default=None, metadata={"least": 0.0, "most": 1.0})
    min_scores: dict[str, float] = field(
        default_factory=dict, metadata={"check": scores_fault, "schema": SCORES_SCHEMA}
    )
    device: str = field(default=CPU, metadata={"check": device_fault})
    gate: GateOptions = field(default_factory=GateOptions, metadata={"table": True})
    cache: CacheOptions = field(default_factory=CacheOptions, metadata={"table": True})
    models: ModelOptions = field(default_factory=ModelOptions, metadata={"table": True})
    backdrops: bool = field(default=False, metadata={"hidden": True})

    def faults(self) -> list[str]:
        """Return what is wrong with the values together."""
        fault = None if self.classes is None else classes_fault(self.detector, self.classes)
        return [f"classes = {list(self.classes or ())}: {fault}"] if fault else []

    def usual(self) -> ModelUse:
        """Return what is wanted of a source of which nothing else is said."""
        scores = tuple(sorted(self.min_scores.items()))
        return ModelUse(self.detector, self.classes, self.min_score, scores)


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
        tables = options.gate, options.models
        opener = ModelOpener(*tables, context, device=options.device)
        self.models = ModelPool(opener, options.usual(), options.models, context)
        self.models.open_configured()
        self._keeper = StateKeeper(context)
        self.cache = CacheCounts()
        self._ignored: dict[tuple[str, Form], BoolArray | None] = {}
        self._said: dict[str, tuple[tuple[object, object, object], tuple[Object, ...]]] = {}

    def prepare(self, model: str, sources: Sequence[str], is_new: bool) -> None:
        """Open, warm up and check the model for sources that will want it; see ModelPool."""
        self.models.prepare(model, sources, is_new)

    def close(self) -> None:
        """Compile nothing more for sizes that were seen."""
        self.models.close()

    def process(
        self, batch: Sequence[Item], states: Mapping[str, DetectState]
    ) -> tuple[list[Detections], dict[str, DetectState]]:
        """Look at each frame where its source's memory says, in order.

        A source's model is settled here for all its frames of the batch: it changes between two.
        """
        models = {source: self.models.of(source) for source in {i.source for i in batch}}
        whole = self._whole_answers(batch, models)
        live: dict[str, LiveState] = {}
        last: dict[str, Item] = {}
        answers: list[Detections] = []
        for row, item in enumerate(batch):
            served = models[item.source]
            before, now = last.get(item.source), live.get(item.source)
            if now is None or before is None or before.position.epoch != item.position.epoch:
                now = self._keeper.of(item, states[item.source], now, served)
            answer, live[item.source] = self._answer(item, now, whole.get(row), served)
            last[item.source] = item
            answers.append(self._with_backdrop(item, answer))
        if any(answer.looked != "no" for answer in answers):
            add_up(self.cache, self.models.remembered(), self.models.past)
        kept = {
            source: self._keeper.kept(item, live[source], states[source])
            for source, item in last.items()
        }
        return answers, {**states, **kept}

    def end(self, source: str, end: End, state: DetectState) -> tuple[None, DetectState]:
        """Forget what this worker keeps of the source; its state names what goes on."""
        self._keeper.forget(source)
        self._said.pop(source, None)
        if end.last:
            self.models.forget(source)
        self._ignored = {key: tiles for key, tiles in self._ignored.items() if key[0] != source}
        return None, state

    def leaves_out(self, form: Form) -> str:
        """Return the gate's limit in pictures of this form."""
        gate = self.options.gate
        return "" if gate.mode == "off" or not gate.most else limit_in_words(form, gate)

    def _whole_answers(
        self, batch: Sequence[Item], models: Mapping[str, ServedModel]
    ) -> dict[int, Boxes]:
        """Return the boxes of all pictures of the batch, by row, where no gate chooses.

        While one is in the network, others are prepared.
        """
        if self.options.gate.mode != "off":
            return {}
        found: dict[int, Boxes] = {}
        for served in dict.fromkeys(models.values()):
            rows = [n for n, item in enumerate(batch) if models[item.source] is served]
            found |= dict(zip(rows, self._whole([batch[n] for n in rows], served), strict=True))
        return found

    def _whole(self, batch: Sequence[Item], served: ServedModel) -> list[Boxes]:
        for item in batch:
            self._note_size(item)
        with ExitStack() as stack:
            pictures = [
                as_picture(stack.enter_context(self.context.pixels(item)), item.record.form)
                for item in batch
            ]
            recalls = [self._recall(item.source, served) for item in batch]
            found = served.detector.detect(pictures, recalls)
            del pictures
        return found

    def _answer(
        self, item: Item, live: LiveState, found: Boxes | None, served: ServedModel
    ) -> tuple[Detections, LiveState]:
        """Return the detections of a frame, and the state after it; found: as for `_look`."""
        plan, estimate = self._look(item, live, found, served)
        view = self._view(item, plan, served)
        labels = served.detector.labels
        objects = self._objects_of(item.source, estimate, labels)
        detections = detections_of(plan, estimate, served.models, view, labels, objects)
        return detections, live.after(estimate)

    def _objects_of(
        self, source: str, estimate: Estimate, labels: Sequence[str]
    ) -> tuple[Object, ...]:
        """Return the objects of an estimate: those of the frame before where these are held."""
        said = self._said.get(source)
        what = estimate.shown, estimate.origins, labels
        if said is None or any(one is not other for one, other in zip(said[0], what, strict=True)):
            objects = as_objects(estimate.shown, estimate.ids, estimate.origins, labels)
            said = self._said[source] = what, objects
        return said[1]

    def _look(
        self, item: Item, live: LiveState, found: Boxes | None, served: ServedModel
    ) -> tuple[LookPlan, Estimate]:
        """Look at a frame; found: what a look at the whole found already."""
        record, settings, frame = item.record, served.settings, _frame(item, live)
        if found is not None:
            plan = whole_plan(frame, settings.plan)
            return plan, conclude(frame, plan, [found], settings)
        self._note_size(item)
        ignored, recall = self._ignored_tiles(item), self._recall(item.source, served)
        with self.context.pixels(item) as pixels:
            picture = as_picture(pixels, record.form)
            seen = look_at(served.detector, frame, picture, settings, ignored, recall)
            del picture
        return seen

    def _note_size(self, item: Item) -> None:
        """Note the picture's size, for models that come and those that serve.

        A new size is not warmed up here: all sources would wait while the network is compiled for
        each size that its parts can have, and a camera may have another one with each picture.
        """
        self.models.saw(item.record.form.width, item.record.form.height)

    def _recall(self, source: str, served: ServedModel) -> Recall | None:
        if not self.options.cache.exact:
            return None
        return served.recall(source, self.models.answers)

    def _view(self, item: Item, plan: LookPlan, served: ServedModel) -> GateView | None:
        if not self.options.gate.view:
            return None
        return view_of(plan, item.record.form, served.settings.plan.long_side)

    def _with_backdrop(self, item: Item, said: Detections) -> Detections:
        if not self.options.backdrops or item.position.seq % _BACKDROP_FRAMES:
            return said
        with self.context.pixels(item) as pixels:
            backdrop = backdrop_of(as_picture(pixels, item.record.form).y)
        return msgspec.structs.replace(said, backdrop=backdrop)

    def _ignored_tiles(self, item: Item) -> BoolArray | None:
        key = item.source, item.record.form
        if key not in self._ignored:
            polygons = self.options.gate.masks.get(item.source, ())
            grid = grid_of(item.record.form.width, item.record.form.height)
            self._ignored[key] = ignored_tiles(polygons, grid) if polygons else None
        return self._ignored[key]


def _frame(item: Item, live: LiveState) -> CurrentFrame:
    record = item.record
    return CurrentFrame(
        memory=live.memory,
        tracks=live.tracks,
        size=(record.form.width, record.form.height),
        pts=record.pts,
        key_frame=record.key_frame,
        source_key=item.source.encode(),
        anew=live.anew,
    )


def detections_of(
    plan: LookPlan,
    estimate: Estimate,
    models: tuple[str, ...],
    gate: GateView | None = None,
    labels: Sequence[str] = coco.LABELS,
    objects: tuple[Object, ...] | None = None,
) -> Detections:
    """Return what detect says of a frame; objects: those of the estimate, where they are made."""
    change = plan.change
    if objects is None:
        objects = as_objects(estimate.shown, estimate.ids, estimate.origins, labels)
    return Detections(
        outcome="detected" if plan.looks else "carried",
        looked=plan.looked,
        reason=plan.reason,
        objects=objects,
        models=models,
        age_s=round(estimate.age_s, 3),
        changes=None if change is None else changes_of(change.hot, change.state.grid),
        gate=gate,
    )


def as_objects(
    boxes: Boxes,
    ids: npt.NDArray[np.int32],
    origins: Sequence[Origin],
    labels: Sequence[str] = coco.LABELS,
) -> tuple[Object, ...]:
    """Return objects of a frame: boxes to a tenth of a pixel, scores to a ten-thousandth."""
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
            untracked=None if track else "new",
        )
        for box, score, class_id, track, origin in rows
    )
