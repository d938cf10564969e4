"""Shadow: another model looks at some of the frames that are served, and tells where it differs."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import msgspec
import numpy as np

from framegate.models import coco, matching, picture_coding
from framegate.models.boxes import Boxes, iou
from framegate.models.matching import MIN_IOU
from framegate.models.picture import Picture
from framegate.models.picture_coding import Coding
from framegate.models.registry.registry import Registry
from framegate.models.tracking.calm import least_of
from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.queries import Region
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.stage import Context, Item, Stage
from framegate.pipeline.system.loading import options_of
from framegate.stages.detect import Detect
from framegate.stages.detect.model_pool import ModelOpener, ModelPool, ServedModel
from framegate.stages.detect.options import labels_wanted, model_fault
from framegate.stages.detections import Detections
from framegate.stages.planes import as_picture

# -- What is served of a frame beside what another model says of it.


_MARGIN = 0.25  # of the disagreement's longer side, around it
_LEAST_MARGIN = 16


class Named(msgspec.Struct, frozen=True, array_like=True):
    """A box that one of them has and the other has not, or where they agree.

    box  in source pixels
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


class Disagreement(msgspec.Struct, frozen=True):
    """A frame of which they say different things.

    source, epoch, seq, pts   the frame
    served_by, other   models of each
    served, said       what each has that the other has not; agreed: what both have
    rect               the part of the frame that `picture` shows, in source pixels
    picture            a JPEG of it
    """

    source: str
    epoch: int
    seq: int
    pts: float | None
    served_by: tuple[str, ...]
    other: tuple[str, ...]
    served: tuple[Named, ...]
    said: tuple[Named, ...]
    agreed: tuple[Named, ...]
    rect: Region
    picture: bytes = b""


class Compared(msgspec.Struct, frozen=True):
    """A frame that both looked at: boxes that agree, that only one has; CPU seconds of the new."""

    agreed: tuple[Named, ...]
    served: tuple[Named, ...]
    said: tuple[Named, ...]
    cpu_s: float = 0.0


def compare(
    served: Sequence[Object], said: Boxes, labels: Sequence[str], known: frozenset[str]
) -> Compared:
    """Boxes of one label that overlap enough agree, the surest first, each with one.

    labels  of the other model's class ids
    known   labels that both models know: what only one can say is no disagreement
    """
    ours = [Named(o.label, o.score, o.box) for o in served if o.label in known]
    theirs = [
        Named(labels[class_id], round(score, 4), _rounded(box))
        for box, score, class_id in zip(
            said.xyxy.tolist(), said.scores.tolist(), said.class_ids.tolist(), strict=True
        )
        if labels[class_id] in known
    ]
    is_same = np.array([[a.label == b.label for b in ours] for a in theirs], bool)
    overlap = iou(_array(theirs), _array(ours))
    worth = np.where(is_same.reshape(overlap.shape) & (overlap >= MIN_IOU), overlap, np.float32(0))
    scores = np.array([one.score for one in theirs])
    rows, columns = (side.tolist() for side in matching.by_score(worth, scores))
    return Compared(
        tuple(ours[column] for column in columns),
        tuple(one for column, one in enumerate(ours) if column not in columns),
        tuple(
            theirs[row] for row in np.argsort(-scores, kind="stable").tolist() if row not in rows
        ),
    )


def _array(boxes: Sequence[Named]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array([named.box for named in boxes], np.float32).reshape(-1, 4)


def _rounded(box: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (round(edge, 1) for edge in box)
    return left, top, right, bottom


def part_of(compared: Compared, size: tuple[int, int]) -> Region:
    """The part of a picture of (width, height) in which they disagree, with some of what is
    around; its edges are even, as colour samples are.
    """
    boxes = _array([*compared.served, *compared.said])
    left, top = boxes[:, :2].min(axis=0)
    right, bottom = boxes[:, 2:].max(axis=0)
    margin = max(_LEAST_MARGIN, _MARGIN * max(right - left, bottom - top))
    return (
        max(0, int(left - margin)) // 2 * 2,
        max(0, int(top - margin)) // 2 * 2,
        min(size[0], int(right + margin) // 2 * 2 + 2),
        min(size[1], int(bottom + margin) // 2 * 2 + 2),
    )


log = logging.getLogger(__name__)

KEPT: Final = 200  # disagreements of a source
_CODING: Final = Coding(scale=4, longest=480)


@dataclass(frozen=True)
class ShadowOptions:
    """Options of shadow.

    model     as detect's detector
    share     0..1, share of frames that it looks at, at most
    cpu       share of one core that it takes, at most
    sources   of which; none: all
    detect    options of detect: classes and scores are the same
    """

    model: str = field(default="light", metadata={"check": model_fault})
    share: float = field(default=0.1, metadata={"least": 0.0001, "most": 1.0})
    cpu: float = field(default=0.1, metadata={"least": 0.001, "most": 64.0})
    sources: tuple[str, ...] = ()
    detect: dict[str, Any] = field(default_factory=dict)


class ShadowState(msgspec.Struct, frozen=True):
    """What came of a source's frames so far.

    asked    the model, as it was asked for; other: models that looked
    frames   that it looked at; differing: of these, those where it says something else
    agreed, served, said   boxes that both have, that only what is served has, that only it has
    cpu_s    that it took
    """

    asked: str = ""
    other: tuple[str, ...] = ()
    frames: int = 0
    differing: int = 0
    agreed: int = 0
    served: int = 0
    said: int = 0
    cpu_s: float = 0.0

    def after(self, asked: str, other: tuple[str, ...], one: Compared) -> ShadowState:
        """With one frame more; another model begins anew."""
        was = self if (self.asked, self.other) == (asked, other) else ShadowState(asked, other)
        return ShadowState(
            asked,
            other,
            was.frames + 1,
            was.differing + bool(one.served or one.said),
            was.agreed + len(one.agreed),
            was.served + len(one.served),
            was.said + len(one.said),
            round(was.cpu_s + one.cpu_s, 6),
        )

    @property
    def f1(self) -> float:
        """Agreement of the boxes, 0..1; 1 where neither had any."""
        boxes = 2 * self.agreed + self.served + self.said
        return 2 * self.agreed / boxes if boxes else 1.0


class _Comparison(NamedTuple):
    source: str
    other: tuple[str, ...]
    compared: Compared
    disagreement: Disagreement | None


class Shadow(Stage[ShadowState]):
    """One frame in; now and then what was found to differ in an earlier one, out.

    In     Detections, and the frame's pixels where it looks: those that a keyed draw picks, as far
           as its CPU time goes and it is not busy
    Out    Disagreement
    State  counts
    Fails  never: a frame whose pixels are gone is passed over
    """

    Options = ShadowOptions
    State = ShadowState
    pixels = 1
    keeps = KEPT
    options: ShadowOptions

    def __init__(self, options: ShadowOptions, context: Context) -> None:
        """Open the model. What goes wrong here ends this stage alone."""
        super().__init__(options, context)
        cv2.setNumThreads(1)
        using = replace(context, model=lambda source: options.model)  # noqa: ARG005
        detect = options_of(Detect, options.detect)
        server = ModelOpener(detect.gate, detect.models, using, threads=1)
        self._models = ModelPool(server, detect.usual(), detect.models, using)
        # Its budget bounds it, not the time that a serving model may take.
        self._models.prepare(options.model, options.sources or ("",), is_new=False)
        ours = labels_wanted("light", detect.classes) or coco.LABELS
        self._labels = ServedLabels(context.folder, ours)
        self._thread = ThreadPoolExecutor(1, "shadow")
        self._under_way: Future[_Comparison] | None = None
        self._done: dict[str, list[_Comparison]] = {}
        self._budget = CpuBudget(options.cpu)

    def process(
        self, batch: Sequence[Item], states: Mapping[str, ShadowState]
    ) -> tuple[list[Disagreement | None], Mapping[str, ShadowState]]:
        """Begin to look at a frame where that may be, and tell what is finished."""
        after = dict(states)
        outputs: list[Disagreement | None] = []
        for item in batch:
            self._gather()
            output = None
            if waiting := self._done.get(item.source):
                _, other, compared, output = waiting.pop(0)
                seen = after[item.source]
                after[item.source] = seen.after(self.options.model, other, compared)
            outputs.append(output)
            if self._may_look(item):
                self._begin(item)
        return outputs, after

    def close(self) -> None:
        """Wait for the frame in hand."""
        self._thread.shutdown(cancel_futures=True)

    def _gather(self) -> None:
        if self._under_way is None or not self._under_way.done():
            return
        look, self._under_way = self._under_way, None
        try:
            done = look.result()
        except Exception as error:  # whatever another's network raises: the next frame may do
            log.warning("a look beside failed: %s", error)
            return
        self._budget.took(done.compared.cpu_s)
        self._done.setdefault(done.source, []).append(done)

    def _may_look(self, item: Item) -> bool:
        options = self.options
        return (
            self._under_way is None
            and (not options.sources or item.source in options.sources)
            and is_drawn(item.source, item.position, options.share)
            and self._budget.allows()
        )

    def _begin(self, item: Item) -> None:
        form = item.record.form
        try:
            with self.context.pixels(item) as pixels:
                held = bytes(pixels)
        except FrameLost:
            return
        picture = as_picture(memoryview(held), form)
        serving = self._models.of(item.source)
        self._under_way = self._thread.submit(self._look, item, picture, serving)

    def _look(self, item: Item, picture: Picture, using: ServedModel) -> _Comparison:
        began = time.process_time()
        found = item.output_of(self.context.before, Detections)
        using.warm_up(picture.width, picture.height)
        [boxes] = using.detector.detect([picture])
        boxes = boxes.take(boxes.scores > least_of(boxes.class_ids, using.settings.calm))
        own = frozenset(using.detector.labels[i] for i in using.detector.class_ids)
        known = own & self._labels.of(found.models)
        compared = compare(found.objects, boxes, using.detector.labels, known)
        disagreement = None
        if compared.served or compared.said:
            disagreement = _disagreement(item, found, using, compared, picture)
        cpu_s = time.process_time() - began
        compared = msgspec.structs.replace(compared, cpu_s=cpu_s)
        return _Comparison(item.source, using.models, compared, disagreement)


class CpuBudget:
    """CPU seconds of this process against its share of those that pass."""

    def __init__(self, share: float) -> None:
        self._share, self._last_s = share, 0.0
        self._began, self._used = time.monotonic(), time.process_time()

    def allows(self) -> bool:
        """Whether another look, as long as the last, stays within the share since it was ready."""
        spent = time.process_time() - self._used + self._last_s
        return spent <= self._share * (time.monotonic() - self._began)

    def took(self, cpu_s: float) -> None:
        """A look took so long."""
        self._last_s = cpu_s


class ServedLabels:
    """What models can say at all, by the names that results have. One thread."""

    def __init__(self, folder: Path, ours: Collection[str]) -> None:
        """folder: the run's, which holds its models; ours: what those that come along look for."""
        self._registry, self._ours = Registry(folder / "models"), ours
        self._known: dict[tuple[str, ...], frozenset[str]] = {}

    def of(self, models: tuple[str, ...]) -> frozenset[str]:
        """Labels of the models that made an answer."""
        if models not in self._known:
            digests = {name.partition("@")[2] for name in models}
            own = [m for m in self._registry.models() if m.manifest.sha256[:8] in digests]
            labels = {label for model in own for label in model.manifest.classes}
            self._known[models] = frozenset(labels or self._ours)
        return self._known[models]


def is_drawn(source: str, position: Position, share: float) -> bool:
    """Whether a frame is among those to look at: the same whoever asks, and of no pattern."""
    key = f"{source} {position}".encode()
    drawn = int.from_bytes(hashlib.blake2b(key, digest_size=8, person=b"shadow").digest())
    return drawn < share * 2**64


def _disagreement(
    item: Item, found: Detections, using: ServedModel, compared: Compared, picture: Picture
) -> Disagreement:
    rect = part_of(compared, (picture.width, picture.height))
    left, top, right, bottom = rect
    part = Picture(
        picture.y[top:bottom, left:right],
        picture.u[top // 2 : -(-bottom // 2), left // 2 : -(-right // 2)],
        picture.v[top // 2 : -(-bottom // 2), left // 2 : -(-right // 2)],
        picture.matrix,
        picture.full_range,
    )
    return Disagreement(
        source=item.source,
        epoch=item.position.epoch,
        seq=item.position.seq,
        pts=item.record.pts,
        served_by=found.models,
        other=using.models,
        served=compared.served,
        said=compared.said,
        agreed=compared.agreed,
        rect=rect,
        picture=picture_coding.encode(part, _CODING),
    )
