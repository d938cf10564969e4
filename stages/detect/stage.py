"""The stage detect: the objects and tracks of each frame, with inference on changed parts only.

`pipeline/engine/inbox` gathers the frames of a batch; `look_plan` decides what the network sees.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

import cv2
import msgspec

from framegate.models.backdrop import backdrop_of
from framegate.models.boxes import BoolArray, Boxes
from framegate.models.detector.answer_cache import Recall
from framegate.models.gate.cells import grid_of, ignored_tiles
from framegate.models.picture import as_picture
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.queries import CacheCounts
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import (
    BeginReason,
    GateView,
    Object,
    Origin,
)
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import Context, Item
from framegate.pipeline.recording.changed_parts_writer import ChangedPartsWriter
from framegate.stages.detect.beside_published import (
    BesidePublished,
    CarriedCandidates,
    candidates,
    least_scores,
    seen_objects,
)
from framegate.stages.detect.estimate import Estimate, conclude, look_at
from framegate.stages.detect.look_plan import (
    LookPlan,
    limit_in_words,
    undecoded_plan,
    view_of,
    whole_plan,
)
from framegate.stages.detect.memory import (
    Basis,
    CurrentFrame,
    DetectState,
    LiveState,
    StateKeeper,
)
from framegate.stages.detect.model_pool import ModelOpener, ModelPool, ServedModel, add_up
from framegate.stages.detect.options import DeclaredDetect, DetectOptions
from framegate.stages.detect.output import as_objects, detections_of
from framegate.stages.detections import (
    Detections,
    SeenObject,
    in_pixels_of,
)
from framegate.stages.object_filters import FilterPool

log = logging.getLogger(__name__)

_BACKDROP_FRAMES: Final = 128  # one of this many frames carries a backdrop, if it was decoded
_BEGIN: Final = get_args(BeginReason)  # reasons of frames that the gate compares with nothing


class Detect(DeclaredDetect[DetectState]):
    """The stage that detects and tracks the objects of each frame.

    In     pixels of the frame
    Out    Detections
    Files  the changed parts of each compared frame, for `framegate changes`
    State  tracks and memory. Both start again with each epoch; only the track ids continue to
           count. A lost memory costs one pass over the whole frame
    Fails  FrameLost: the runner waits for the pixels, or publishes the frame as failed
    """

    State = DetectState
    batch = 8
    cache: CacheCounts

    def __init__(self, options: DetectOptions, context: Context) -> None:
        """Open and warm up all configured models."""
        super().__init__(options, context)
        cv2.setNumThreads(1)
        opener = ModelOpener(options.gate, options.models, context, device=options.device)
        self.models = ModelPool(opener, options.usual(), options.models, context)
        self.models.open_configured()
        self._keeper = StateKeeper(context)
        self._filters = FilterPool(context.filters)
        self.cache = CacheCounts()
        self._ignored: dict[tuple[str, Form, tuple[int, int]], BoolArray] = {}
        self._objects: dict[str, _SourceObjects] = {}
        self._carried = CarriedCandidates()
        self._changes = ChangedPartsWriter(context.folder, options.gate.changes_bytes)
        self._last_served: dict[str, ServedModel] = {}  # for the last decoded frame of a source
        self._changed: Mapping[str, Any] | None = None

    def prepare(self, model: str, sources: Sequence[str], is_new: bool) -> None:
        """Open, warm up and check a model for these sources; see ModelPool.prepare."""
        self.models.prepare(model, sources, is_new)

    def close(self) -> None:
        """Stop compiling the models for new picture sizes, and close the files."""
        self.models.close()
        self._changes.close()

    def process(
        self, batch: Sequence[Item], states: Mapping[str, DetectState]
    ) -> tuple[list[Detections], dict[str, DetectState]]:
        """Detect the objects of each frame, in order.

        A source's model and filters are chosen once for all its frames of the batch, so that they
        change only between two batches, or at the first decoded frame of one.
        """
        self._take_options()
        models = {source: self.models.of(source) for source in {i.source for i in batch}}
        digests = {source: self._filters.digest(source) for source in models}
        filters = {source: states[source].filters for source in models}
        owes = {source: states[source].owes_backdrop for source in models}
        whole_boxes = self._detect_batch(batch, models)
        # `live` and `last` hold the state after, and the item of, each source's latest frame in
        # this batch. The keeper supplies the state for a source's first frame and for a new epoch.
        live: dict[str, LiveState] = {}
        last: dict[str, Item] = {}
        outputs: list[Detections] = []
        for row, item in enumerate(batch):
            source = item.source
            served = models[source]
            digest = digests[source]
            if item.record.undecoded:  # a change of them needs pixels to begin with
                served = self._last_served.get(source, served)
                digest = filters[source]
            else:
                self._last_served[source] = served
            by = Basis(served.identity, served.labels, digest)
            before = last.get(source)
            now = live.get(source)
            if now is None or before is None or before.position.epoch != item.position.epoch:
                now = self._keeper.of(item, states[source], now, by)
            elif now.by != by:
                now = self._keeper.swapped(now, by)
            plan, estimate, beside = self._look(item, now, whole_boxes.get(row), served)
            live[source] = now.after(estimate.memory, estimate.tracks)
            last[source] = item
            output = self._output(item, plan, estimate, served, beside.candidates)
            if beside.seen or beside.candidates:
                output = _with_beside(output, beside, served)
            self._keep_changes(item, plan, output)
            if digest != filters[source]:
                filters[source] = digest
                output = self._with_filters(item, output)
            owes[source] |= item.position.seq % _BACKDROP_FRAMES == 0
            if owes[source] and not item.record.undecoded:
                owes[source] = False
                output = self._with_backdrop(item, output)
            outputs.append(output)
        if any(output.looked != "no" for output in outputs):
            add_up(self.cache, self.models.recalls(), self.models.past)
        kept = {
            source: self._keeper.kept(item, live[source], states[source], owes[source])
            for source, item in last.items()
        }
        return outputs, {**states, **kept}

    def end(self, source: str, end: End, state: DetectState) -> tuple[None, DetectState]:
        """Forget this worker's data of the source. Its state still names its stored memory."""
        self._keeper.forget(source)
        self._changes.end(source)
        self._objects.pop(source, None)
        self._carried.forget(source)
        self._last_served.pop(source, None)
        self._filters.forget(source)
        if end.last:
            self.models.forget(source)
        self._ignored = {key: tiles for key, tiles in self._ignored.items() if key[0] != source}
        return None, state

    def _take_options(self) -> None:
        """Use the masks, and whether rules need thumbnails, that changed since the start."""
        changed = self.context.options()
        if changed is None or changed is self._changed:
            return
        self._changed = changed
        masks = changed.get("gate", {}).get("masks", {})
        self.options = replace(
            self.options,
            backdrops=bool(changed.get("backdrops")),
            gate=replace(self.options.gate, masks=masks),
        )
        self._ignored = {}

    def leaves_out(self, form: Form) -> str:
        """Return the gate's detection limit in pictures of this form; "" without a gate."""
        gate = self.options.gate
        if gate.mode == "off" or not gate.most:
            return ""
        return limit_in_words(form, gate)

    def _detect_batch(
        self, batch: Sequence[Item], models: Mapping[str, ServedModel]
    ) -> dict[int, Boxes]:
        """Return the boxes of each picture of the batch, by row; {} if a gate chooses parts.

        The detector prepares some pictures while it computes others.
        """
        if self.options.gate.mode != "off":
            return {}
        by_row: dict[int, Boxes] = {}
        for served in dict.fromkeys(models.values()):
            rows = []
            for row, item in enumerate(batch):
                if models[item.source] is served and not item.record.undecoded:
                    rows.append(row)
            boxes = self._detect_whole([batch[n] for n in rows], served)
            by_row |= dict(zip(rows, boxes, strict=True))
        return by_row

    def _detect_whole(self, batch: Sequence[Item], served: ServedModel) -> list[Boxes]:
        for item in batch:
            self._note_size(item)
        with ExitStack() as stack:
            pictures = [
                as_picture(stack.enter_context(self.context.pixels(item)), item.record.form)
                for item in batch
            ]
            recalls = [self._recall(item.source, served) for item in batch]
            boxes = served.detector.detect(pictures, recalls)
            del pictures  # views of the pixels, which must not outlive their locks
        return boxes

    def _look(
        self, item: Item, live: LiveState, boxes: Boxes | None, served: ServedModel
    ) -> tuple[LookPlan, Estimate, BesidePublished]:
        """Return the plan and the estimate for a frame, and what is known beside its objects.

        boxes  detected on the whole frame; None: not computed so far
        """
        form = item.record.form
        settings = served.settings
        frame = _frame(item, live)
        filters = self._filters.judge(item.source, frame.size, served.detector.labels)
        judged_by = settings.calm, served.detector.labels, filters
        seen: tuple[SeenObject, ...] = ()
        if item.record.undecoded:
            if frame.memory.pts is None:
                what = f"frame {item.position} was not decoded, and the frame before is not known"
                raise FrameLost(what, final=True)
            plan = undecoded_plan(frame)
            estimate = conclude(frame, plan, (), settings, filters)
            beside = BesidePublished((), candidates(estimate, *judged_by))
            return plan, estimate, beside
        if boxes is not None:
            plan = whole_plan(frame, settings.plan)
            estimate = conclude(frame, plan, [boxes], settings, filters)
            with self.context.pixels(item) as pixels:
                seen = seen_objects(as_picture(pixels, form), estimate)
            beside = BesidePublished(seen, candidates(estimate, *judged_by))
            return plan, estimate, beside
        self._note_size(item)
        ignored = self._ignored_tiles(item)
        recall = self._recall(item.source, served)
        with self.context.pixels(item) as pixels:
            picture = as_picture(pixels, form)
            plan, estimate = look_at(
                served.detector, frame, picture, settings, ignored, recall, filters
            )
            if plan.looks:
                seen = seen_objects(picture, estimate)
            del picture
        if plan.looks or estimate.memory.known is not live.memory.known:
            found = candidates(estimate, *judged_by)
        else:
            found = self._carried.of(item.source, estimate, *judged_by)
        return plan, estimate, BesidePublished(seen, found)

    def _output(
        self,
        item: Item,
        plan: LookPlan,
        estimate: Estimate,
        served: ServedModel,
        hidden: Sequence[Object],
    ) -> Detections:
        view: GateView | None = None
        if self.options.gate.view:
            view = view_of(plan, item.record.form, served.settings.plan.long_side)
        labels = served.detector.labels
        objects = self._objects_of(item.source, estimate, labels)
        sure: Mapping[str, float] = {}
        # Inside a mask nothing counts as changed, so there a person who stirs looks still.
        if self.options.gate.mode != "off" and not self.options.gate.masks.get(item.source):
            sure = {each.label: served.sure[each.label] for each in (*objects, *hidden)}
        return detections_of(plan, estimate, served.models, view, labels, objects, sure)

    def _keep_changes(self, item: Item, plan: LookPlan, output: Detections) -> None:
        """Store the changed parts of a frame that the gate compared with another."""
        is_compared = plan.change is not None and plan.reason not in _BEGIN
        if not is_compared or not self.options.gate.changes_bytes:
            return
        parts: bytes | None = None
        if output.changes is not None:
            parts = output.changes.parts
        form = item.record.form
        size = (form.width, form.height)
        self._changes.keep(item.source, item.position, item.record.captured, size, parts)

    def _objects_of(
        self, source: str, estimate: Estimate, labels: Sequence[str]
    ) -> tuple[Object, ...]:
        """Return the objects of an estimate. The objects of the frame before are reused if the
        estimate carries its boxes unchanged.
        """
        before = self._objects.get(source)
        if (
            before is not None
            and before.shown is estimate.shown
            and before.origins is estimate.origins
            and before.labels is labels
        ):
            return before.objects
        objects = as_objects(estimate.shown, estimate.ids, estimate.origins, labels)
        self._objects[source] = _SourceObjects(estimate.shown, estimate.origins, labels, objects)
        return objects

    def _note_size(self, item: Item) -> None:
        """Note the picture's size for models that are open and for models opened later.

        The size is not warmed up here: all sources would wait while the network is compiled for
        each size of its parts, and a camera may change its picture size at any frame.
        """
        self.models.saw(item.record.form.width, item.record.form.height)

    def _recall(self, source: str, served: ServedModel) -> Recall | None:
        if not self.options.cache.exact:
            return None
        return served.recall(source, self.models.answers)

    def _with_filters(self, item: Item, output: Detections) -> Detections:
        """Return the output with the names of the filters, which apply from this frame on."""
        names = self._filters.names(item.source)
        log.info(
            "source %s: its object filters are %s from frame %s on",
            item.source,
            ", ".join(names) or "none",
            item.position,
        )
        return msgspec.structs.replace(output, filters=names)

    def _with_backdrop(self, item: Item, output: Detections) -> Detections:
        if not self.options.backdrops:
            return output
        with self.context.pixels(item) as pixels:
            backdrop = backdrop_of(as_picture(pixels, item.record.form).y)
        return msgspec.structs.replace(output, backdrop=backdrop)

    def _ignored_tiles(self, item: Item) -> BoolArray | None:
        polygons = self.options.gate.masks.get(item.source)
        if not polygons:
            return None
        form, size = item.record.form, item.record.result_size
        key = item.source, form, size
        if key not in self._ignored:
            own = in_pixels_of(item.record, polygons)
            self._ignored[key] = ignored_tiles(own, grid_of(form.width, form.height))
        return self._ignored[key]


def _with_beside(output: Detections, beside: BesidePublished, served: ServedModel) -> Detections:
    """Return the output with what only the stage windows reads."""
    return msgspec.structs.replace(
        output,
        feature_model=_feature_model(beside, served),
        least=least_scores(beside.candidates, served.settings.calm),
        **beside._asdict(),
    )


def _feature_model(beside: BesidePublished, served: ServedModel) -> str:
    """Return the name of the model that computed the features of a frame; empty: there are none."""
    if any(each.feature for each in beside.seen):
        return " ".join(served.models)
    return ""


@dataclass(frozen=True, slots=True)
class _SourceObjects:
    """The objects of a source's last frame, and the parts of the estimate they are made from."""

    shown: Boxes
    origins: tuple[Origin, ...]
    labels: Sequence[str]
    objects: tuple[Object, ...]


def _frame(item: Item, live: LiveState) -> CurrentFrame:
    record = item.record
    return CurrentFrame(
        memory=live.memory,
        tracks=live.tracks,
        size=(record.form.width, record.form.height),
        pts=record.pts,
        key_frame=record.key_frame,
        source_key=item.source.encode(),
        begin_reason=live.begin_reason,
    )
